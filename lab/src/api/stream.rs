//! The body of a watch.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::answer::{Body, CHUNK};
use super::call::Request;
use super::failure::Failure;
use super::form::Form;
use super::resource::Resource;
use super::selector::Selector;
use super::state::State;
use super::store::{Change, ChangeKind, Watch};
use super::stored::Object;

/// What of the changes a client sees, and how.
pub(super) struct View {
    resource: &'static Resource,
    form: Form,
    selector: Selector,
    namespace: Option<String>,
    name: String,
}

impl View {
    pub(super) fn of(resource: &'static Resource, request: &Request) -> Result<Self, Failure> {
        Ok(Self {
            resource,
            form: request.form(),
            selector: request.selector()?,
            namespace: request.within().map(str::to_owned),
            name: request.name.clone(),
        })
    }

    pub(super) fn sees(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        self.namespace.as_deref().is_none_or(|namespace| meta["namespace"] == namespace)
            && (self.name.is_empty() || meta["name"] == self.name.as_str())
            && self.selector.matches(object)
    }

    fn put(&self, kind: &str, object: &Arc<Object>, into: &mut Vec<u8>) {
        put(kind, &self.form.object(self.resource, object), into);
    }

    /// The event that a change is to this client, if it is one: an object can come into its sight, and leave it.
    fn put_event(&self, change: &Change, into: &mut Vec<u8>) {
        let before = change.before.as_deref().is_some_and(|before| self.sees(before));
        let after = change.kind != ChangeKind::Deleted && self.sees(&change.object);
        let kind = match (before, after) {
            (false, false) => return,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        self.put(kind, &change.object, into);
    }
}

fn put(kind: &str, object: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
    into.extend_from_slice(object);
    into.extend_from_slice(b"}\n");
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = Vec::new();
    put(kind, object.to_string().as_bytes(), &mut line);
    line
}

struct Stream {
    state: Arc<State>,
    view: View,
    watch: Watch,
    /// The objects to begin with, before any change.
    initial: std::vec::IntoIter<Arc<Object>>,
    /// What follows them.
    after_initial: Vec<u8>,
    bookmarks: Option<tokio::time::Interval>,
    end: Instant,
    cut: CancellationToken,
    over: bool,
}

/// Starts the watch that the request asks for.
pub(super) fn start(
    state: &Arc<State>,
    resource: &'static Resource,
    request: &Request,
) -> Result<Body, Failure> {
    let view = View::of(resource, request)?;
    let from = request.number("resourceVersion")?.unwrap_or(0);
    let wants_initial = request.param("sendInitialEvents");
    let initial = wants_initial == "true" || (wants_initial.is_empty() && from == 0);
    let (version, objects) =
        if initial { state.store.list(resource, None) } else { (state.store.version(), Vec::new()) };
    let mut after_initial = Vec::new();
    if wants_initial == "true" && request.flag("allowWatchBookmarks") {
        after_initial = line("BOOKMARK", &view.form.bookmark(resource, version, true));
    }
    let after = if initial || from == 0 { version } else { from };
    let over = after > version;
    if over {
        after_initial = line("ERROR", &Failure::expired(after).status());
    }
    let every = state.options.bookmarks;
    let bookmarks = request.flag("allowWatchBookmarks").then(|| {
        let mut interval = interval_at(Instant::now() + every, every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let seconds = request.number("timeoutSeconds")?.unwrap_or(1800).min(86_400);
    let stream = Stream {
        watch: state.store.watch(resource, after),
        state: Arc::clone(state),
        view,
        initial: objects.into_iter(),
        after_initial,
        bookmarks,
        end: Instant::now() + Duration::from_secs(seconds),
        cut: state.watches(),
        over,
    };
    let chunks = futures::stream::unfold(stream, async |mut stream| {
        let chunk = stream.next().await?;
        Some((chunk, stream))
    });
    Ok(StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

impl Stream {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(chunk) = self.next_initial() {
            return Some(Ok(chunk));
        }
        if self.over {
            return None;
        }
        let chunk = self.wait().await;
        self.state.responsive().await;
        Some(chunk.map(Bytes::from))
    }

    /// The next of what the watch begins with.
    fn next_initial(&mut self) -> Option<Bytes> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match self.initial.next() {
                Some(object) if self.view.sees(&object) => self.view.put("ADDED", &object, &mut chunk),
                Some(_) => {}
                None => {
                    chunk.append(&mut self.after_initial);
                    break;
                }
            }
        }
        (!chunk.is_empty()).then(|| chunk.into())
    }

    /// The next events; at the end of the time a bookmark.
    async fn wait(&mut self) -> io::Result<Vec<u8>> {
        loop {
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Err(io::ErrorKind::ConnectionReset.into()),
                batch = self.watch.batch() => {
                    let Ok(changes) = batch else {
                        self.over = true;
                        return Ok(line("ERROR", &Failure::expired(self.watch.seen()).status()));
                    };
                    let mut events = Vec::new();
                    changes.iter().for_each(|change| self.view.put_event(change, &mut events));
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                () = tick(&mut self.bookmarks) => return Ok(self.bookmark()),
                () = tokio::time::sleep_until(self.end) => {
                    self.over = true;
                    return Ok(if self.bookmarks.is_some() { self.bookmark() } else { Vec::new() });
                }
            }
        }
    }

    fn bookmark(&self) -> Vec<u8> {
        line("BOOKMARK", &self.view.form.bookmark(self.view.resource, self.watch.seen(), false))
    }
}

async fn tick(bookmarks: &mut Option<tokio::time::Interval>) {
    match bookmarks {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
