//! Connections to a node port on loopback, passed on to the Service.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::wanted::Wanted;

/// Connections of a port at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// The Service has this long to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Serves until the task is dropped. Connections go on.
pub(super) async fn serve(
    listener: TcpListener,
    port: u16,
    wanted: Arc<RwLock<Wanted>>,
    reset: Arc<AtomicU64>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, port, "cannot accept a connection to a node port on loopback");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let target = target(&client, port, &wanted);
        let reset = Arc::clone(&reset);
        tokio::spawn(async move {
            if pass(client, target, &reset).await.is_err() {
                tracing::debug!(port, "a connection to a node port on loopback has failed");
            }
            drop(slot);
        });
    }
}

/// Where the Service is, in the connection's family.
fn target(client: &TcpStream, port: u16, wanted: &RwLock<Wanted>) -> Option<SocketAddr> {
    let is_v4 = client.local_addr().ok()?.is_ipv4();
    let wanted = wanted.read().unwrap_or_else(PoisonError::into_inner);
    wanted.forwards.get(&port)?.iter().find(|target| target.is_ipv4() == is_v4).copied()
}

/// What the Service refuses is reset.
async fn pass(mut client: TcpStream, target: Option<SocketAddr>, reset: &AtomicU64) -> io::Result<()> {
    let connected = match target {
        Some(target) => timeout(CONNECT, TcpStream::connect(target)).await.map_err(io::Error::from),
        None => Err(io::ErrorKind::ConnectionRefused.into()),
    };
    match connected.flatten() {
        Ok(mut server) => copy_bidirectional(&mut client, &mut server).await.map(drop),
        Err(error) => {
            reset.fetch_add(1, Ordering::Relaxed);
            client.set_zero_linger()?;
            Err(error)
        }
    }
}
