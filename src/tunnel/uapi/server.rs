//! The socket: requests are separated by empty lines, and a connection may carry many.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use nix::errno::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::parse::{Request, Set, parse};
use super::render::{Shown, render};
use super::zone::Devices;
use crate::local::accept;

/// Connections at one time; more wait.
const CONNECTIONS: usize = 16;
/// Bytes that one request may have: some ten thousand peers.
const REQUEST_LIMIT: usize = 16 << 20;
const CHUNK: usize = 16 << 10;

/// Who answers the requests.
pub trait Handler: Send + Sync + 'static {
    /// What `get` shows.
    fn get(&self) -> impl Future<Output = Result<Shown, Errno>> + Send;

    /// Carries out all of `set`, or nothing.
    fn set(&self, set: Set) -> impl Future<Output = Result<(), Errno>> + Send;
}

/// Serves `handler` on `listener` until dropped; connections end with it.
///
/// # Errors
/// When the socket cannot be used at all.
pub async fn serve<H: Handler>(listener: UnixListener, handler: Arc<H>) -> io::Result<()> {
    accept(listener, CONNECTIONS, |stream, _| {
        let handler = Arc::clone(&handler);
        async move {
            if let Err(error) = connection(stream, &*handler).await {
                tracing::debug!(%error, "UAPI connection broke");
            }
        }
    })
    .await
}

async fn connection<H: Handler>(mut stream: UnixStream, handler: &H) -> io::Result<()> {
    let mut requests = Requests::default();
    while let Some(request) = requests.next(&mut stream).await? {
        let answer = answer(&request, handler).await;
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn answer<H: Handler>(request: &[u8], handler: &H) -> Zeroizing<String> {
    let nothing = || Zeroizing::new(String::with_capacity(32));
    let (mut text, result) = match parse(request, &Devices) {
        Ok(Request::Get) => match handler.get().await {
            Ok(shown) => (render(&shown, &Devices), Ok(())),
            Err(errno) => (nothing(), Err(errno)),
        },
        Ok(Request::Set(set)) => (nothing(), handler.set(set).await),
        Err(error) => {
            tracing::warn!(%error, "a UAPI request was refused");
            (nothing(), Err(Errno::EINVAL))
        }
    };
    // Negative, as wg and the other implementations have it, whatever the protocol's page says.
    let code = result.map_or_else(|errno| -(errno as i32), |()| 0);
    // Writing to a String cannot fail.
    let _ = write!(text, "errno={code}\n\n");
    text
}

/// Cuts what comes into requests. What was read is wiped, for it may hold keys.
#[derive(Default)]
struct Requests {
    buffer: Zeroizing<Vec<u8>>,
    /// So much of the buffer is known to hold no end of a request.
    searched: usize,
}

impl Requests {
    async fn next(&mut self, stream: &mut UnixStream) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        loop {
            if let Some(request) = self.take() {
                return Ok(Some(request));
            }
            if self.buffer.len() > REQUEST_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the request is too long"));
            }
            self.make_room();
            if stream.read_buf(&mut *self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The first whole request of the buffer, without the empty line that ends it.
    fn take(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let found = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\n\n");
        let end = found.map(|index| self.searched + index);
        self.searched = end.map_or(self.buffer.len().saturating_sub(1), |_| 0);
        let end = end?;
        let request = Zeroizing::new(self.buffer[..end].to_vec());
        self.buffer = Zeroizing::new(self.buffer[end + 2..].to_vec());
        Some(request)
    }

    /// Grows by hand, because a vector that grows by itself leaves copies behind.
    fn make_room(&mut self) {
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 2 {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * self.buffer.len() + CHUNK));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<Set>>);

    impl Handler for Recorder {
        async fn get(&self) -> Result<Shown, Errno> {
            Ok(Shown { listen_port: 7, ..Shown::default() })
        }

        async fn set(&self, set: Set) -> Result<(), Errno> {
            self.0.lock().unwrap().push(set);
            Err(Errno::EBUSY)
        }
    }

    async fn ask(requests: &[&str]) -> (String, usize) {
        let (mut here, there) = UnixStream::pair().unwrap();
        let recorder = Recorder::default();
        let client = async move {
            for part in requests {
                here.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            here.shutdown().await.unwrap();
            let mut text = String::new();
            here.read_to_string(&mut text).await.unwrap();
            text
        };
        let (served, text) = tokio::join!(connection(there, &recorder), client);
        served.unwrap();
        let count = recorder.0.lock().unwrap().len();
        (text, count)
    }

    #[tokio::test]
    async fn a_connection_carries_many_requests_in_any_pieces() {
        let (text, sets) = ask(&["get=1\n", "\nset=1\nlis", "ten_port=9\n\nbogus\n\nget=1\n\n"]).await;
        let shown = "listen_port=7\nerrno=0\n\n";
        assert_eq!(text, format!("{shown}errno=-16\n\nerrno=-22\n\n{shown}"));
        assert_eq!(sets, 1);
    }

    #[tokio::test]
    async fn a_request_without_its_end_is_not_carried_out() {
        assert_eq!(ask(&["set=1\nlisten_port=9\n"]).await, (String::new(), 0));
    }

    #[tokio::test]
    async fn a_long_request_is_read_whole() {
        let peers: String = (0..2000).map(|n| format!("public_key={n:064x}\n")).collect();
        assert_eq!(ask(&["set=1\n", &peers, "\n"]).await, ("errno=-16\n\n".into(), 1));
    }
}
