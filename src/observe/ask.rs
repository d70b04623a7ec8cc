//! HTTP/1.1 GET over TCP, to servers of this host.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest answer. The metrics of a component of Kubernetes are less than a megabyte.
const LONGEST: usize = 8 * 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, as text.
    pub body: String,
}

/// Asks for `path` at `server`, and gives up after `patience`.
///
/// # Errors
/// `ConnectionRefused` without a listener, `TimedOut` after `patience`; any other kind for an incomplete answer.
pub async fn get(server: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
    timeout(patience, answer(server, path)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn answer(server: SocketAddr, path: &str) -> io::Result<Answer> {
    let request = Request::get(path).header(header::HOST, server.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(io::Error::other)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The answer may be there as a whole when the connection ends.
        _ = connection => exchange.await,
    }
}
