//! Which handler answers which request, and what requests and answers are made of.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::path::decode;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answer = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// What is wrong, where, and what to do next.
    pub error: String,
}

/// Why a request is not answered with what it asked for; the client gets it as [`ApiError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    /// What is wrong, where, and what to do next.
    pub error: String,
}

impl Problem {
    /// An answer of `status` that says `error`.
    #[expect(clippy::needless_pass_by_value, reason = "so that texts and errors are given as they are")]
    pub fn new(status: StatusCode, error: impl ToString) -> Self {
        Self { status, error: error.to_string() }
    }

    /// 400: the request is wrong.
    pub fn bad_request(error: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// 404: there is no such thing.
    pub fn not_found(error: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// 409: not in this state.
    pub fn conflict(error: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// 500: the fault is ours.
    pub fn internal(error: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    pub(super) fn response(self) -> Response {
        let body = ApiError { error: self.error };
        let json = serde_json::to_vec(&body).unwrap_or_default();
        Response::bytes("application/json", json).with_status(self.status)
    }
}

/// A request, its body read whole.
#[derive(Debug)]
pub struct Request {
    params: HashMap<&'static str, String>,
    body: Bytes,
    uid: u32,
}

impl Request {
    /// The part of the path that `{name}` stands for, decoded; empty when the route has no such part.
    #[must_use]
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }

    /// The user who asks.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 with the place of the fault when the body is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Problem::bad_request(format!("the body cannot be used: {error}")))
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response(http::Response<Body>);

impl Response {
    /// 200 with `value` as JSON.
    ///
    /// # Errors
    /// When `value` has no JSON form.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, Problem> {
        let json = serde_json::to_vec(value).map_err(Problem::internal)?;
        Ok(Self::bytes("application/json", json))
    }

    /// 200 with `body` as it is.
    #[must_use]
    pub fn bytes(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::body(content_type, Full::new(body.into()).boxed_unsync())
    }

    /// 200 with one line of JSON for each item, for as long as `items` lasts and the client listens.
    pub fn lines<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Self {
        let frames = items.map(|item| {
            let mut line = serde_json::to_vec(&item).unwrap_or_default();
            line.push(b'\n');
            Ok(Frame::data(Bytes::from(line)))
        });
        Self::body("application/jsonl", StreamBody::new(frames).boxed_unsync())
    }

    /// The same with another status.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        *self.0.status_mut() = status;
        self
    }

    fn body(content_type: &'static str, body: Body) -> Self {
        let mut response = http::Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self(response)
    }

    pub(super) fn into_http(self) -> http::Response<Body> {
        self.0
    }
}

/// The routes of a server.
#[derive(Clone, Default)]
pub struct Router {
    routes: Vec<Route>,
}

#[derive(Clone)]
struct Route {
    method: Method,
    pattern: &'static str,
    handler: Handler,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| (&route.method, route.pattern))).finish()
    }
}

impl Router {
    /// A router that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers `method` on `pattern` with `handler`. A part `{name}` of the pattern matches any one segment,
    /// which is then [`Request::param`].
    pub fn route<F, A>(&mut self, method: Method, pattern: &'static str, handler: F) -> &mut Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.routes.push(Route { method, pattern, handler });
        self
    }

    pub(super) async fn answer(&self, method: &Method, path: &str, body: Bytes, uid: u32) -> Response {
        let mut path_known = false;
        for route in &self.routes {
            let Some(params) = matches(route.pattern, path) else { continue };
            path_known = true;
            if route.method == *method {
                let answer = (route.handler)(Request { params, body, uid }).await;
                return answer.unwrap_or_else(Problem::response);
            }
        }
        if path_known {
            return Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} has no {method}"))
                .response();
        }
        Problem::not_found(format!("there is no {path} here")).response()
    }
}

fn matches(pattern: &'static str, path: &str) -> Option<HashMap<&'static str, String>> {
    let mut params = HashMap::new();
    let mut segments = path.split('/');
    for part in pattern.split('/') {
        let segment = segments.next()?;
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(name) => {
                let value = decode(segment).filter(|value| !value.is_empty())?;
                params.insert(name, value);
            }
            None if part == segment => {}
            None => return None,
        }
    }
    segments.next().is_none().then_some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let found = matches("/v1/peers/{name}", "/v1/peers/node%2F1").unwrap();
        assert_eq!(found["name"], "node/1");
        assert!(matches("/v1/peers", "/v1/peers").unwrap().is_empty());
        for path in ["/v1/peers", "/v1/peers/", "/v1/peers/a/b", "/v1/peers/%zz", "/v2/peers/a", ""] {
            assert!(matches("/v1/peers/{name}", path).is_none(), "{path}");
        }
    }
}
