//! HTTP/1.1 with JSON over a unix socket: how the processes of one node talk to each other.
//!
//! A server is a [`Router`] given to [`serve`] with a socket from [`listen`]; a [`Client`] talks to it. Only root
//! and the user that the server runs as may connect: the socket has mode 0600 and each connection's credentials
//! are looked at too (`SO_PEERCRED`, unix(7)).
//!
//! ```
//! # use selvedge::local::{self, Client, Method, Response, Router};
//! # let folder = tempfile::tempdir().unwrap();
//! # let socket = folder.path().join("api.sock");
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let mut router = Router::new();
//! router.route(Method::GET, "/v1/hello/{name}", async |request| {
//!     Response::json(&format!("hello {}", request.param("name")))
//! });
//! let listener = local::listen(&socket).unwrap();
//! let server = tokio::spawn(local::serve(listener, router));
//! let answer: String = Client::new(&socket).get("/v1/hello/selvedge").await.unwrap();
//! assert_eq!(answer, "hello selvedge");
//! # server.abort();
//! # });
//! ```

mod accept;
mod client;
mod path;
mod router;
mod server;
mod socket;

pub use accept::accept;
pub use client::{Client, ClientError, Lines};
pub use http::{Method, StatusCode};
pub use path::encode;
pub use router::{ApiError, Problem, Request, Response, Router};
pub use server::serve;
pub use socket::{ListenError, listen, may_talk, take_over};
