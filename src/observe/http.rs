//! Plain HTTP/1.1 for kubelet, Prometheus and load balancers: `/healthz`, `/readyz` and `/metrics` of the agent, and what else is
//! asked for by GET.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 16;
/// The same where anybody on the internet may ask: whoever says nothing must not keep others out.
const OPEN_CONNECTIONS: usize = 1024;
/// A client has this long for the head of its request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What the endpoints answer from.
pub trait Source: Send + Sync + 'static {
    /// Problems that a restart of the process would mend; none when alive.
    fn unhealthy(&self) -> Vec<String>;
    /// What the node still lacks before pods may start; none when ready.
    fn unready(&self) -> Vec<String>;
    /// The metrics, as OpenMetrics text.
    fn metrics(&self) -> impl Future<Output = String> + Send;
}

/// Binds the listener.
///
/// # Errors
/// When the address is taken or not this host's; the text names the address and the setting.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on {address} for health and metrics: {error}; choose another `agent.metricsAddress`"
        )
    })
}

/// Serves until the task is dropped.
pub async fn serve<S: Source>(listener: TcpListener, source: Arc<S>) {
    let limits = Limits { connections: CONNECTIONS, lifetime: HEAD_TIMEOUT * 10 };
    accept(listener, limits, move |request| answer(request, Arc::clone(&source))).await;
}

/// Serves what `answers` says, to GET alone, until the task is dropped.
pub async fn serve_answers<F>(listener: TcpListener, answers: F)
where
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + 'static,
{
    let limits = Limits { connections: OPEN_CONNECTIONS, lifetime: HEAD_TIMEOUT };
    accept(listener, limits, move |request| {
        let answer = if is_get(&request) { answers(&request) } else { only_get() };
        std::future::ready(Ok(answer))
    })
    .await;
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    /// Of a whole connection.
    lifetime: Duration,
}

async fn accept<F, A>(listener: TcpListener, limits: Limits, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            // What a client does to its connection is no event of ours.
            let _ = tokio::time::timeout(limits.lifetime, connection).await;
            drop(slot);
        });
    }
}

fn is_get(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn only_get() -> Response<Full<Bytes>> {
    text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into())
}

async fn answer<S: Source>(
    request: Request<Incoming>,
    source: Arc<S>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !is_get(&request) {
        return Ok(only_get());
    }
    Ok(match request.uri().path() {
        "/healthz" => verdict(&source.unhealthy()),
        "/readyz" => verdict(&source.unready()),
        "/metrics" => {
            let mut response = text(StatusCode::OK, source.metrics().await);
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n".into()),
    })
}

fn verdict(problems: &[String]) -> Response<Full<Bytes>> {
    if problems.is_empty() {
        return text(StatusCode::OK, "ok\n".into());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    struct Sick;

    impl Source for Sick {
        fn unhealthy(&self) -> Vec<String> {
            Vec::new()
        }
        fn unready(&self) -> Vec<String> {
            vec!["no pod CIDRs yet".into(), "tunnel does not answer".into()]
        }
        async fn metrics(&self) -> String {
            "# EOF\n".into()
        }
    }

    #[tokio::test]
    async fn answers_name_every_problem() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Sick)));
        for (path, status, body) in [
            ("/healthz", "200", "ok\n"),
            ("/readyz", "503", "no pod CIDRs yet\ntunnel does not answer\n"),
            ("/metrics", "200", "# EOF\n"),
            ("/else", "404", ""),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(answer.ends_with(body), "{answer}");
        }
        server.abort();
    }
}
