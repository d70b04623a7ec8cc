//! How many requests were answered and how many bytes of bodies were sent, by who asked for what.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

use super::answer::Body;
use super::call::Request;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Name of the user; empty for nobody known.
    pub user: String,
    /// `get`, `list`, `watch`, ...
    pub verb: &'static str,
    /// Plural name of the resource; empty for discovery and the like.
    pub resource: &'static str,
    /// `status`, ... or empty.
    pub subresource: String,
}

/// Totals since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests that an answer was begun for, failures among them.
    pub requests: u64,
    /// Bytes of the answers' bodies, before TLS; those of a watch as they are sent.
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<BTreeMap<Counted, Arc<Cell>>>);

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// Counts a request and, while it is sent, its answer.
    pub(super) fn count(&self, request: &Request, response: Response<Body>) -> Response<Body> {
        let cell = self.cell(request);
        cell.requests.fetch_add(1, Ordering::Relaxed);
        response.map(|body| Metered { body, cell }.boxed_unsync())
    }

    pub(super) fn read(&self) -> BTreeMap<Counted, Count> {
        let cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |cell: &Cell| Count {
            requests: cell.requests.load(Ordering::Relaxed),
            bytes: cell.bytes.load(Ordering::Relaxed),
        };
        cells.iter().map(|(counted, cell)| (counted.clone(), count(cell))).collect()
    }

    fn cell(&self, request: &Request) -> Arc<Cell> {
        let counted = Counted {
            user: request.user.clone(),
            verb: request.verb,
            resource: request.resource.map_or("", |resource| resource.plural),
            subresource: request.subresource.clone(),
        };
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(cells.entry(counted).or_default())
    }
}

/// A body whose bytes are counted as they are sent; otherwise the same, its length included.
struct Metered {
    body: Body,
    cell: Arc<Cell>,
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.cell.bytes.fetch_add(u64::try_from(length).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
