//! The server: accepts, checks who asks, reads the body, asks the router.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::accept::accept;
use super::router::{Body, Problem, Router};

/// Connections at one time; more wait.
const CONNECTIONS: usize = 64;
/// Bytes of a request's body: room for a configuration of some ten thousand peers.
const BODY_LIMIT: usize = 32 << 20;
/// How long a client may take for its headers, and again for its body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `router` on `listener` until dropped; connections end with it.
///
/// # Errors
/// When the socket cannot be used at all; never for the fault of one connection.
pub async fn serve(listener: UnixListener, router: Router) -> io::Result<()> {
    let router = Arc::new(router);
    accept(listener, CONNECTIONS, |stream, uid| connection(stream, Arc::clone(&router), uid)).await
}

async fn connection(stream: UnixStream, router: Arc<Router>, uid: u32) {
    let service = service_fn(|request| answer(&router, request, uid));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection broke");
    }
}

async fn answer(
    router: &Router,
    request: http::Request<Incoming>,
    uid: u32,
) -> Result<http::Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match read(body).await {
        Ok(body) => router.answer(&head.method, head.uri.path(), body, uid).await,
        Err(problem) => problem.response(),
    };
    Ok(response.into_http())
}

async fn read(body: Incoming) -> Result<Bytes, Problem> {
    match timeout(READ_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body cannot be read: {error}")))
        }
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}
