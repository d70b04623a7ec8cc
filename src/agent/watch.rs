//! Watches on the Kubernetes API: this node's own object whole, all Nodes by their metadata alone.
//!
//! Where the API server streams lists (`sendInitialEvents`; see "Streaming lists" in Kubernetes' API concepts), a watch
//! brings the list too, which costs the server no copy of all of it; else it is listed first.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::TryStreamExt as _;
use http::Request;
use k8s_openapi::api::core::v1::Node;
use kube::api::PartialObjectMeta;
use kube::client::Body;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, timeout_at};
use tower::service_fn;

use super::retry::Retry;
use crate::api_server::WATCH_TIMEOUT_SECONDS;
use crate::cause;
use crate::observe::metrics::Metrics;

/// A set of objects by name, as last seen. Complete: never a half-read list.
pub type Objects<K> = BTreeMap<String, K>;

/// The watches that the API server does not serve, by what they watch, with the reason.
pub type Broken = BTreeMap<&'static str, String>;

/// A streamed list that has not ended after this time never will.
const STREAMED: Duration = Duration::from_secs(15);

/// Keeps `into` at this node's own object, until the task is dropped. `None` when it does not exist, and
/// unchanged (at first: not marked as changed) while the API server does not answer.
pub async fn own_node(
    client: Client,
    name: String,
    into: Sender<Option<Node>>,
    broken: Sender<Broken>,
    metrics: Metrics,
) {
    let (objects, mut seen) = tokio::sync::watch::channel(None::<Objects<Node>>);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let watch = Watch { what: "this node's object", patience: STREAMED, broken, metrics };
    let follow = watch.follow(client, config, objects);
    let select = async {
        while seen.changed().await.is_ok() {
            let node = seen.borrow_and_update().as_ref().and_then(|nodes| nodes.get(&name).cloned());
            into.send_replace(node);
        }
    };
    tokio::join!(follow, select);
}

/// Keeps `into` at the metadata of all Nodes, until the task is dropped. `None` until the first whole list.
pub async fn all_nodes(
    client: Client,
    into: Sender<Option<Objects<PartialObjectMeta<Node>>>>,
    broken: Sender<Broken>,
    metrics: Metrics,
) {
    let watch = Watch { what: "all Nodes", patience: STREAMED, broken, metrics };
    watch.follow(client, watcher::Config::default(), into).await;
}

#[derive(Clone)]
struct Watch {
    what: &'static str,
    /// How long a streamed list may take.
    patience: Duration,
    broken: Sender<Broken>,
    metrics: Metrics,
}

impl Watch {
    async fn follow<K>(self, client: Client, config: watcher::Config, into: Sender<Option<Objects<K>>>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::all(self.hears(client));
        let listing = config.timeout(WATCH_TIMEOUT_SECONDS);
        let streaming = listing.clone().streaming_lists();
        let mut told = false;
        // What cannot be streamed now is listed, and tried again when there has to be another list.
        while let Some(why) = self.run(api.clone(), streaming.clone(), &into).await {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    why,
                    "the API server did not stream the list of {}: they are listed",
                    self.what
                );
            }
            if self.run(api.clone(), listing.clone(), &into).await.is_none() {
                break;
            }
        }
    }

    /// Ends when it is time to get lists in the other way, with the reason: one that is streamed failed, or one that was not
    /// is out of date.
    async fn run<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        into: &Sender<Option<Objects<K>>>,
    ) -> Option<String>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut stream = std::pin::pin!(watch(api, config).backoff(Retry::default()));
        let mut listing = Objects::new();
        let mut listed = false;
        // Since when a streamed list is under way.
        let mut begun: Option<Instant> = None;
        loop {
            let next = match begun {
                Some(begun) => timeout_at(begun + self.patience, stream.try_next()).await,
                None => Ok(stream.try_next().await),
            };
            match next {
                Ok(Ok(Some(Event::Init))) if !streaming && listed => return Some("it is out of date".into()),
                Ok(Ok(Some(event))) => {
                    match event {
                        Event::Init if streaming => begun = Some(Instant::now()),
                        Event::InitDone => (begun, listed) = (None, true),
                        _ => {}
                    }
                    if begun.is_none() && listed {
                        self.served();
                    }
                    apply(event, &mut listing, into);
                }
                Ok(Ok(None)) => return None,
                // After an error in the middle of it a list may lack what the error was about.
                Ok(Err(error)) if begun.is_some() || (streaming && is_refused(&error)) => {
                    return Some(cause::told(&error));
                }
                Ok(Err(error)) => self.broke(cause::told(&error)),
                Err(_) => return Some(format!("it has not ended within {:?}", self.patience)),
            }
        }
    }

    fn broke(&self, why: String) {
        self.metrics.watch_errors.inc();
        tracing::warn!(error = why, "the watch on {} broke off; trying again", self.what);
        self.broken.send_if_modified(|broken| broken.insert(self.what, why.clone()) != Some(why));
    }

    fn served(&self) {
        self.broken.send_if_modified(|broken| broken.remove(self.what).is_some());
    }

    /// A watch that is resumed where it broke off yields nothing until an object changes: that it runs is known by the
    /// API server's answer alone.
    fn hears(&self, client: Client) -> Client {
        let namespace = client.default_namespace().to_owned();
        let watch = self.clone();
        let service = service_fn(move |request| {
            let (client, watch) = (client.clone(), watch.clone());
            async move {
                let answer = client.send(consistent(request)).await?;
                if answer.status().is_success() {
                    watch.served();
                }
                Ok::<_, kube::Error>(answer)
            }
        });
        Client::new(service, namespace)
    }
}

/// The library asks for a streamed list of any age (`resourceVersion=0`). Where there are several API servers, one may lag
/// behind what this agent has seen of another. Without a version, the list is as new as the request, as other lists are.
fn consistent(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let parts: Vec<&str> = uri.query().into_iter().flat_map(|query| query.split('&')).collect();
    if parts.contains(&"sendInitialEvents=true") {
        let kept: Vec<&str> = parts.into_iter().filter(|part| *part != "resourceVersion=0").collect();
        // It is one, as the whole was.
        if let Ok(changed) = format!("{}?{}", uri.path(), kept.join("&")).parse() {
            *request.uri_mut() = changed;
        }
    }
    request
}

/// API servers that do not stream lists take the request for an invalid one.
fn is_refused(error: &watcher::Error) -> bool {
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error else { return false };
    matches!(status.code, 400 | 422)
}

fn apply<K: Resource + Clone>(event: Event<K>, listing: &mut Objects<K>, into: &Sender<Option<Objects<K>>>) {
    match event {
        Event::Init => listing.clear(),
        Event::InitApply(object) => {
            listing.insert(object.name_any(), object);
        }
        Event::InitDone => {
            into.send_replace(Some(std::mem::take(listing)));
        }
        Event::Apply(object) => into.send_modify(|objects| {
            objects.get_or_insert_default().insert(object.name_any(), object);
        }),
        Event::Delete(object) => into.send_modify(|objects| {
            objects.get_or_insert_default().remove(&object.name_any());
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http::Response;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use serde_json::{Value, json};

    use super::*;

    /// An API server that streams `first` and then nothing more, and lists another Node.
    fn endless(first: impl Fn() -> String + Clone + Send + 'static) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let first = first.clone();
            async move {
                let query = request.uri().query().unwrap_or_default();
                let answer = match query {
                    query if query.contains("sendInitialEvents") => first(),
                    query if query.contains("watch=true") => String::new(),
                    _ => json!({"metadata": {"resourceVersion": "7"}, "items": [node("listed")]}).to_string(),
                };
                let part = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(answer)))]);
                let body = match query.contains("watch=true") {
                    true => StreamBody::new(part.chain(stream::pending()).boxed()),
                    false => StreamBody::new(part.boxed()),
                };
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        Client::new(service, "default")
    }

    fn node(name: &str) -> Value {
        json!({"metadata": {"name": name, "resourceVersion": "7"}})
    }

    fn event(kind: &str, object: &Value) -> String {
        json!({"type": kind, "object": object}).to_string() + "\n"
    }

    /// What is seen first by a watch on such a server that waits so long.
    fn seen(first: impl Fn() -> String + Clone + Send + 'static, patience: Duration) -> Vec<String> {
        let (broken, _) = tokio::sync::watch::channel(Broken::new());
        let (into, mut seen) = tokio::sync::watch::channel(None::<Objects<Node>>);
        let watch = Watch { what: "all Nodes", patience, broken, metrics: Metrics::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = watch.follow(endless(first), watcher::Config::default(), into) => panic!("it ends"),
                _ = seen.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it waits for the end"),
            }
        });
        seen.borrow().iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_streamed_list_that_does_not_end_is_listed() {
        let first = || event("ADDED", &node("streamed"));
        assert_eq!(seen(first, Duration::from_millis(50)), ["listed"]);
    }

    /// As an API server answers whose storage does not tell how far it is.
    #[test]
    fn a_streamed_list_that_is_refused_in_its_middle_is_listed() {
        let status =
            json!({"kind": "Status", "status": "Failure", "message": "disabled", "reason": "", "code": 500});
        assert_eq!(seen(move || event("ERROR", &status), LONG), ["listed"]);
    }

    /// Else it would lack what cannot be read.
    #[test]
    fn a_streamed_list_with_something_unreadable_is_listed() {
        let bookmark = json!({"kind": "Node", "apiVersion": "v1", "metadata": {
            "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"},
        }});
        let whole = move || event("ADDED", &node("streamed")) + &event("BOOKMARK", &bookmark);
        assert_eq!(seen(whole.clone(), LONG), ["streamed"]);
        let odd = || event("ADDED", &json!({"metadata": 7}));
        assert_eq!(seen(move || odd() + &whole(), LONG), ["listed"]);
    }

    #[test]
    fn a_streamed_list_is_as_new_as_the_request_and_other_requests_stay() {
        let asked = |uri: &str| {
            consistent(Request::builder().uri(uri).body(Body::empty()).unwrap()).uri().to_string()
        };
        assert_eq!(
            asked("/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersion=0"),
            "/api/v1/nodes?watch=true&sendInitialEvents=true"
        );
        for other in ["/api/v1/nodes?watch=true&resourceVersion=0", "/api/v1/nodes/node1"] {
            assert_eq!(asked(other), other);
        }
    }
}
