//! The body of a watch.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::answer::Body;
use super::call::Request;
use super::failure::Failure;
use super::form::Form;
use super::resource::Resource;
use super::selector::Selector;
use super::state::State;
use super::store::{Change, ChangeKind, Watch};

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

    fn line(&self, kind: &str, object: &Value) -> String {
        line(kind, &self.form.object(self.resource, object))
    }

    /// The event that a change is to this client: an object can come into its sight, and leave it.
    fn event(&self, change: &Change) -> Option<String> {
        let before = change.before.as_deref().is_some_and(|before| self.sees(before));
        let after = change.kind != ChangeKind::Deleted && self.sees(&change.object);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some(self.line(kind, &change.object))
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

struct Stream {
    state: Arc<State>,
    view: View,
    watch: Watch,
    /// What to say before any change.
    first: VecDeque<String>,
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
    let (version, objects) = state.store.list(resource, None);
    let mut first = VecDeque::new();
    if initial {
        let seen = objects.iter().filter(|object| view.sees(object));
        first.extend(seen.map(|object| view.line("ADDED", object)));
    }
    if wants_initial == "true" && request.flag("allowWatchBookmarks") {
        first.push_back(line("BOOKMARK", &view.form.bookmark(resource, version, true)));
    }
    let after = if initial || from == 0 { version } else { from };
    let over = after > version;
    if over {
        first.push_back(line("ERROR", &Failure::expired(after).status()));
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
        first,
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
        if let Some(line) = self.first.pop_front() {
            return Some(Ok(line.into()));
        }
        if self.over {
            return None;
        }
        let chunk = self.wait().await;
        self.state.responsive().await;
        Some(chunk.map(Bytes::from))
    }

    /// The next events; at the end of the time a bookmark.
    async fn wait(&mut self) -> io::Result<String> {
        loop {
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return Err(io::ErrorKind::ConnectionReset.into()),
                batch = self.watch.batch() => {
                    let Ok(changes) = batch else {
                        self.over = true;
                        return Ok(line("ERROR", &Failure::expired(self.watch.seen()).status()));
                    };
                    let events: String = changes.iter().filter_map(|change| self.view.event(change)).collect();
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
                () = tick(&mut self.bookmarks) => return Ok(self.bookmark()),
                () = tokio::time::sleep_until(self.end) => {
                    self.over = true;
                    return Ok(if self.bookmarks.is_some() { self.bookmark() } else { String::new() });
                }
            }
        }
    }

    fn bookmark(&self) -> String {
        line("BOOKMARK", &self.view.form.bookmark(self.view.resource, self.watch.seen(), false))
    }
}

async fn tick(bookmarks: &mut Option<tokio::time::Interval>) {
    match bookmarks {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}
