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
use crate::cause;
use crate::observe::metrics::Metrics;

/// A set of objects by name, as last seen. Complete: never a half-read list.
pub type Objects<K> = BTreeMap<String, K>;

/// The watches that the API server does not serve, by what they watch, with the reason.
pub type Broken = BTreeMap<&'static str, String>;

/// A watch that is cut silently is noticed after this time.
const WATCH_TIMEOUT_SECONDS: u32 = 120;
/// A streamed list that has not ended after this time never will: some storages do not tell how far they are.
const STREAMED: Duration = Duration::from_secs(15);
/// A connection on which nothing comes for so long is dead: a watch that lives is ended by the server before.
pub(super) const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT_SECONDS as u64 + 20);

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
        let config = config.timeout(WATCH_TIMEOUT_SECONDS);
        if let Some(why) = self.run(api.clone(), config.clone().streaming_lists(), &into).await {
            tracing::info!(why, "the API server streams no lists: {} are listed, then watched", self.what);
            self.run(api, config, &into).await;
        }
    }

    /// Ends when the API server does not stream lists, and `config` has it so; with the reason.
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
        // Since when a streamed list is under way.
        let mut begun: Option<Instant> = None;
        loop {
            let next = match begun {
                Some(begun) => timeout_at(begun + self.patience, stream.try_next()).await,
                None => Ok(stream.try_next().await),
            };
            match next {
                Ok(Ok(Some(event))) => {
                    begun = match event {
                        Event::Init if streaming => Some(Instant::now()),
                        Event::InitDone => None,
                        _ => begun,
                    };
                    apply(event, &mut listing, into);
                }
                Ok(Ok(None)) => return None,
                Ok(Err(error)) if streaming && is_refused(&error) => return Some(cause::told(&error)),
                Ok(Err(error)) => {
                    begun = None;
                    self.broke(cause::told(&error));
                }
                Err(_) => return Some(format!("the list has not ended within {:?}", self.patience)),
            }
        }
    }

    fn broke(&self, why: String) {
        self.metrics.watch_errors.inc();
        tracing::warn!(error = why, "the watch on {} broke off; trying again", self.what);
        self.broken.send_if_modified(|broken| broken.insert(self.what, why.clone()) != Some(why));
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
                    watch.broken.send_if_modified(|broken| broken.remove(watch.what).is_some());
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
    use serde_json::json;

    use super::*;

    /// An API server that streams one Node and never says that this was all, and lists another.
    fn endless() -> Client {
        let service = service_fn(|request: Request<Body>| async move {
            let node = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "7"}});
            let query = request.uri().query().unwrap_or_default();
            let answer = match query {
                query if query.contains("sendInitialEvents") => {
                    json!({"type": "ADDED", "object": node("streamed")}).to_string() + "\n"
                }
                query if query.contains("watch=true") => String::new(),
                _ => json!({"metadata": {"resourceVersion": "7"}, "items": [node("listed")]}).to_string(),
            };
            let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(answer)))]);
            let ends = !query.contains("watch=true");
            let body = match ends {
                true => StreamBody::new(first.boxed()),
                false => StreamBody::new(first.chain(stream::pending()).boxed()),
            };
            Ok::<_, Infallible>(Response::new(body))
        });
        Client::new(service, "default")
    }

    #[test]
    fn a_streamed_list_that_does_not_end_is_listed() {
        let (broken, _) = tokio::sync::watch::channel(Broken::new());
        let (into, mut seen) = tokio::sync::watch::channel(None::<Objects<Node>>);
        let patience = Duration::from_millis(50);
        let watch = Watch { what: "all Nodes", patience, broken, metrics: Metrics::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = watch.follow(endless(), watcher::Config::default(), into) => panic!("it ends"),
                _ = seen.changed() => {}
                () = tokio::time::sleep(patience * 200) => panic!("it waits for the end"),
            }
        });
        let names: Vec<String> = seen.borrow().iter().flatten().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["listed"]);
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
