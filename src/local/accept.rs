//! Accepts connections on a unix socket: a bounded number, and only from whom this process may talk to.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::socket::may_talk;

/// How long to wait after a failed accept (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// Calls `talk` with each connection and the user it is from, at most `limit` at a time; more wait. Runs until
/// dropped, and the connections end with it. Users other than root and this process's own are turned away.
///
/// # Errors
/// When the socket cannot be used at all; never for the fault of one connection.
pub async fn accept<T>(
    listener: UnixListener,
    limit: usize,
    talk: impl Fn(UnixStream, u32) -> T,
) -> io::Result<()>
where
    T: Future<Output = ()> + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(limit));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let Some(uid) = user(&stream) else { continue };
                let talking = talk(stream, uid);
                connections.spawn(async move {
                    let _permit = permit;
                    talking.await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Who is at the other end, if they may talk to us.
fn user(stream: &UnixStream) -> Option<u32> {
    match stream.peer_cred() {
        Ok(peer) if may_talk(peer.uid()) => Some(peer.uid()),
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused a connection: wrong user");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection: its user is unknown");
            None
        }
    }
}
