//! Answers as HTTP takes them.

use std::io;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use super::failure::Failure;

/// Bytes that are sent at once of a long body.
pub(super) const CHUNK: usize = 64 << 10;

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Answer = Result<Response<Body>, Failure>;

pub(super) fn json(code: u16, value: &Value) -> Response<Body> {
    respond(code, "application/json", value.to_string())
}

pub(super) fn refusal(failure: &Failure) -> Response<Body> {
    let mut response = json(failure.code, &failure.status());
    if let Some(seconds) = failure.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

pub(super) fn respond(code: u16, media: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    stream(code, media, body)
}

/// A body of pieces, which are sent together until they are [`CHUNK`] bytes.
pub(super) fn pieces(code: u16, pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Response<Body> {
    let mut pieces = pieces;
    let chunks = std::iter::from_fn(move || {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(piece) = pieces.next() else { break };
            chunk.extend_from_slice(&piece);
        }
        (!chunk.is_empty()).then(|| Ok(Frame::data(chunk.into())))
    });
    stream(code, "application/json", StreamBody::new(futures::stream::iter(chunks)).boxed_unsync())
}

pub(super) fn stream(code: u16, media: &'static str, body: Body) -> Response<Body> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]);
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    *response.headers_mut() = headers;
    response
}
