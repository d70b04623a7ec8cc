//! The client: one connection a request.

use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::router::ApiError;

/// How long an answer may take, unless [`Client::with_timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one line of a stream.
const LINE_LIMIT: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("nothing answers on {socket}: {source}; is the process that serves it running?")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer took too long.
    #[error("no answer on {socket} within {after:?}")]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The server said no.
    #[error("{error}")]
    Refused {
        /// The status of the answer.
        status: StatusCode,
        /// What the server says.
        error: String,
    },
    /// What came is no HTTP, or the connection broke.
    #[error("the connection to {socket} broke: {source}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The request or the answer is not what it should be.
    #[error("{what} cannot be used: {why}")]
    Malformed {
        /// Which of them.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// Talks to a server on a unix socket. Holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client of the server on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timeout: TIMEOUT }
    }

    /// The same client that waits this long for an answer (10 s otherwise).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET path`, the answer from JSON.
    ///
    /// # Errors
    /// When nobody answers, the server refuses, or the answer is something else than `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.whole(Method::GET, path, Bytes::new()).await?)
    }

    /// `GET path`, the answer as text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.whole(Method::GET, path, Bytes::new()).await?;
        String::from_utf8(body.into()).map_err(|error| malformed("the answer", error))
    }

    /// `PUT path` with `body` as JSON, the answer from JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::PUT, path, body).await
    }

    /// `POST path` with `body` as JSON, the answer from JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.send(Method::POST, path, body).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| malformed("the request", error))?;
        parse(&self.whole(method, path, body.into()).await?)
    }

    /// `DELETE path`, the answer from JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        parse(&self.whole(Method::DELETE, path, Bytes::new()).await?)
    }

    /// `GET path`, the answer as it comes: one `T` a line of JSON, without end.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, ClientError> {
        let (body, connection) = self.timely(self.open(Method::GET, path, Bytes::new())).await?;
        let socket = self.socket.clone();
        Ok(Lines { body, buffer: BytesMut::new(), connection, socket, item: PhantomData })
    }

    async fn whole(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.timely(async {
            let (body, _connection) = self.open(method, path, body).await?;
            let body = body.collect().await.map_err(|source| self.broken(source))?;
            Ok(body.to_bytes())
        })
        .await
    }

    async fn timely<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        timeout(self.timeout, work)
            .await
            .map_err(|_| ClientError::Timeout { socket: self.socket.clone(), after: self.timeout })?
    }

    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Incoming, Connection), ClientError> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| malformed("the request", error))?;
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        // Its fault, if any, is seen through the sender and the body too.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let response = sender.send_request(request).await.map_err(|source| self.broken(source))?;
        let status = response.status();
        if status.is_success() {
            return Ok((response.into_body(), connection));
        }
        let body = response.into_body().collect().await.map_err(|source| self.broken(source))?.to_bytes();
        let error = serde_json::from_slice(&body)
            .map_or_else(|_| format!("answer {status} without a reason"), |problem: ApiError| problem.error);
        Err(ClientError::Refused { status, error })
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source }
    }
}

/// The task that moves the bytes of a connection; ends with it.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream of `T`, from [`Client::lines`]. Dropping it closes the connection.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    buffer: BytesMut,
    #[expect(dead_code, reason = "held for what its drop does")]
    connection: Connection,
    socket: PathBuf,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next item; nothing when the server has ended the stream. May be dropped while it waits; nothing is
    /// lost then.
    ///
    /// # Errors
    /// When the connection breaks or a line is something else than `T`.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return parse(&line).map(Some);
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(malformed("the answer", "a line is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(source)) => return Err(ClientError::Broken { socket: self.socket.clone(), source }),
            }
        }
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(json).map_err(|error| malformed("the answer", error))
}

#[expect(clippy::needless_pass_by_value, reason = "so that texts and errors are given as they are")]
fn malformed(what: &'static str, why: impl ToString) -> ClientError {
    ClientError::Malformed { what, why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::super::{Problem, Response, Router, encode, listen, serve};
    use super::*;

    struct Served {
        folder: tempfile::TempDir,
        task: JoinHandle<io::Result<()>>,
    }

    impl Served {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let listener = listen(&folder.path().join("s")).unwrap();
            Self { folder, task: tokio::spawn(serve(listener, router())) }
        }

        fn client(&self) -> Client {
            Client::new(&self.folder.path().join("s"))
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn router() -> Router {
        let mut router = Router::new();
        router
            .route(Method::PUT, "/echo/{name}", async |request| {
                let numbers: Vec<u32> = request.json()?;
                Response::json(&(request.param("name"), numbers))
            })
            .route(Method::POST, "/sum", async |request| {
                let numbers: Vec<u32> = request.json()?;
                Response::json(&numbers.iter().sum::<u32>())
            })
            .route(Method::DELETE, "/echo/{name}", async |_| Err(Problem::conflict("not now")))
            .route(Method::GET, "/text", async |_| Ok(Response::bytes("text/plain", "plain")))
            .route(Method::GET, "/count", async |_| Ok(Response::lines(futures::stream::iter(0..3_u32))))
            .route(Method::GET, "/hang", async |_| {
                let first = futures::stream::iter([7_u32]);
                Ok(Response::lines(first.chain(futures::stream::pending())))
            })
            .route(Method::GET, "/never", async |_| std::future::pending().await);
        router
    }

    #[tokio::test]
    async fn a_body_goes_there_and_comes_back() {
        let served = Served::new();
        let name = "k+/= ü";
        let path = format!("/echo/{}", encode(name));
        let numbers: Vec<u32> = (0..100_000).collect();
        let answer: (String, Vec<u32>) = served.client().put(&path, &numbers).await.unwrap();
        assert_eq!(answer, (name.to_owned(), numbers));
        assert_eq!(served.client().post::<_, u32>("/sum", &[1, 2, 3]).await.unwrap(), 6);
        assert_eq!(served.client().get_text("/text").await.unwrap(), "plain");
    }

    #[tokio::test]
    async fn refusals_carry_status_and_reason() {
        let served = Served::new();
        let refused = |result: Result<(), ClientError>| match result {
            Err(ClientError::Refused { status, error }) => (status.as_u16(), error),
            other => panic!("{other:?}"),
        };
        let client = served.client();
        assert_eq!(refused(client.delete("/echo/x").await), (409, "not now".into()));
        assert_eq!(refused(client.get("/echo/x").await).0, 405);
        assert_eq!(refused(client.get("/nowhere").await).0, 404);
        let (status, error) = refused(client.put("/echo/x", &"text").await);
        assert!(status == 400 && error.contains("line 1"), "{status} {error}");
    }

    #[tokio::test]
    async fn lines_come_one_by_one() {
        let served = Served::new();
        let mut lines = served.client().lines::<u32>("/count").await.unwrap();
        let mut seen = Vec::new();
        while let Some(number) = lines.next().await.unwrap() {
            seen.push(number);
        }
        assert_eq!(seen, [0, 1, 2]);
        let mut open = served.client().lines::<u32>("/hang").await.unwrap();
        assert_eq!(open.next().await.unwrap(), Some(7));
        drop(served);
        assert!(open.next().await.is_err(), "a stream that breaks off is an error");
    }

    #[tokio::test]
    async fn silence_and_absence_are_told_apart() {
        let served = Served::new();
        let hasty = served.client().with_timeout(Duration::from_millis(50));
        assert!(matches!(hasty.get::<()>("/never").await, Err(ClientError::Timeout { .. })));
        let nobody = Client::new(&served.folder.path().join("none"));
        assert!(matches!(nobody.get::<()>("/text").await, Err(ClientError::Unreachable { .. })));
    }
}
