//! Watches on the Kubernetes API, each reflected into what the view keeps.
//!
//! Where the API server streams lists (`sendInitialEvents`; see "Streaming lists" in Kubernetes' API concepts), a watch
//! brings the list too, which costs the server no copy of all of it; otherwise it is listed first.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use http::{Request, StatusCode};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::PartialObjectMeta;
use kube::client::Body;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tower::service_fn;

use super::nodes::claims;
use crate::agent::control::{Board, Bus, Name, Trigger};
use crate::agent::retry::Retry;
use crate::agent::view::own::Own;
use crate::agent::view::store::{Key, Store};
use crate::api_server::WATCH_TIMEOUT_SECONDS;
use crate::cause;
use crate::mesh::resolve::NodeClaims;
use crate::observe::metrics::Metrics;
use crate::resource::key_revocation::Revocation;
use crate::resource::key_rotation::Asked;
use crate::resource::{KeyRevocation, KeyRotation};
use crate::service::object::{HEADLESS, OTHER_PROXY, Service, Slice};

/// A streamed list that has not ended after this time never will.
const STREAMED: Duration = Duration::from_secs(15);
/// Pauses before an API server is asked again for a kind that it does not serve: the first and the last.
const UNSERVED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// Number of consecutive 403 answers after which the kind counts as not served. An API server that has just started answers
/// 403 until it has loaded the roles.
const REFUSALS: usize = 3;
/// A ServiceCIDR has a range of each family.
const RANGES: usize = 2;

/// Where a watch takes its objects.
trait Sink<K>: Send {
    /// A list begins.
    fn begin(&mut self);
    /// An object of the list.
    fn listed(&mut self, object: K);
    /// The list is complete: what is not in it does not exist.
    fn complete(&mut self);
    /// An object that is new or changed.
    fn apply(&mut self, object: K);
    /// An object that is gone.
    fn delete(&mut self, object: K);
}

/// Keeps a store at what a watch shows, with what `project` takes of each object.
struct IntoStore<K, V> {
    store: Arc<Store<V>>,
    project: fn(&K) -> V,
    list: BTreeMap<Key, (String, V)>,
}

impl<K: Resource, V: PartialEq + Send + Sync> Sink<K> for IntoStore<K, V> {
    fn begin(&mut self) {
        self.list.clear();
    }

    fn listed(&mut self, object: K) {
        self.list.insert(key(&object), (version(&object), (self.project)(&object)));
    }

    fn complete(&mut self) {
        self.store.replace(std::mem::take(&mut self.list));
    }

    fn apply(&mut self, object: K) {
        self.store.apply(&key(&object), version(&object), (self.project)(&object));
    }

    fn delete(&mut self, object: K) {
        self.store.delete(&key(&object));
    }
}

fn key<K: Resource>(object: &K) -> Key {
    Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn version<K: Resource>(object: &K) -> String {
    object.resource_version().unwrap_or_default()
}

/// Keeps [`Own`] at the one object that a watch shows.
struct IntoOwn<'a> {
    own: &'a Own,
    cluster_pod_cidrs: &'a [IpNet],
    listed: Option<Node>,
}

impl Sink<Node> for IntoOwn<'_> {
    fn begin(&mut self) {
        self.listed = None;
    }

    fn listed(&mut self, node: Node) {
        self.listed = Some(node);
    }

    fn complete(&mut self) {
        self.own.put(self.listed.take().as_ref(), self.cluster_pod_cidrs);
    }

    fn apply(&mut self, node: Node) {
        self.own.put(Some(&node), self.cluster_pod_cidrs);
    }

    fn delete(&mut self, _: Node) {
        self.own.put(None, self.cluster_pod_cidrs);
    }
}

/// The watches that the API server does not serve, with the reason, as a problem on the board.
#[derive(Clone)]
pub(in crate::agent) struct Served {
    broken: Arc<Mutex<BTreeMap<&'static str, String>>>,
    board: Arc<Board>,
    bus: Bus,
    metrics: Metrics,
}

impl Served {
    pub(in crate::agent) fn new(board: Arc<Board>, bus: Bus, metrics: Metrics) -> Self {
        Self { broken: Arc::default(), board, bus, metrics }
    }

    fn broke(&self, what: &'static str, why: String) {
        self.metrics.watch_errors.inc();
        self.change(|broken| broken.insert(what, why.clone()) != Some(why));
    }

    fn served(&self, what: &'static str) {
        if self.change(|broken| broken.remove(what).is_some()) {
            self.bus.post(Trigger::ApiServer);
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<&'static str, String>) -> bool) -> bool {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if !change(&mut broken) {
            return false;
        }
        let told: Vec<String> = broken.iter().map(|(what, why)| format!("on {what}: {why}")).collect();
        let told = told.join("; ");
        self.board.note(Name::Watches, Some(told.as_str()).filter(|told| !told.is_empty()));
        true
    }
}

/// Keeps `own` at this node's own object, until the task is dropped; unchanged while the API server does not answer.
pub(in crate::agent) async fn own_node(
    client: Client,
    name: &str,
    cluster_pod_cidrs: &[IpNet],
    own: &Own,
    served: Served,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let watch = Watch::new("this node's object", served);
    watch.follow(client, config, &mut IntoOwn { own, cluster_pod_cidrs, listed: None }).await;
}

/// Keeps `store` at what all Nodes publish in their metadata, until the task is dropped.
pub(in crate::agent) async fn all_nodes(client: Client, store: Arc<Store<NodeClaims>>, served: Served) {
    let watch = Watch::new("all Nodes", served);
    let mut sink = IntoStore { store, project: claims, list: BTreeMap::new() };
    watch.follow::<PartialObjectMeta<Node>>(client, watcher::Config::default(), &mut sink).await;
}

/// Keeps `store` at the Services that no other proxy serves, until the task is dropped.
pub(in crate::agent) async fn services(client: Client, store: Arc<Store<Option<Service>>>, served: Served) {
    let watch = Watch::new("all Services", served);
    let mut sink = IntoStore { store, project: Service::of, list: BTreeMap::new() };
    watch.follow::<v1::Service>(client, without(&[OTHER_PROXY]), &mut sink).await;
}

/// Keeps `store` at the EndpointSlices of Services that no other proxy serves, until the task is dropped.
pub(in crate::agent) async fn slices(client: Client, store: Arc<Store<Option<Slice>>>, served: Served) {
    let watch = Watch::new("all EndpointSlices", served);
    let mut sink = IntoStore { store, project: Slice::of, list: BTreeMap::new() };
    watch.follow::<EndpointSlice>(client, without(&[OTHER_PROXY, HEADLESS]), &mut sink).await;
}

/// Keeps `store` at the ranges of all ServiceCIDRs, until the task is dropped. Kubernetes before 1.33 has none.
pub(in crate::agent) async fn service_cidrs(
    client: Client,
    store: Arc<Store<Vec<String>>>,
    served: Served,
    on_unserved: impl Fn(),
) {
    let kind =
        Optional { what: "all ServiceCIDRs", without: "the configured ranges and those found before count" };
    kind.follow::<ServiceCIDR, _>(client, watcher::Config::default(), store, ranges, served, on_unserved)
        .await;
}

/// Keeps `store` at the KeyRotation of this node, until the task is dropped.
pub(in crate::agent) async fn key_rotation(
    client: Client,
    name: &str,
    store: Arc<Store<Asked>>,
    served: Served,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let kind = Optional {
        what: "this node's KeyRotation",
        without: "the rotation of its keys can be asked for on the node alone",
    };
    kind.follow::<KeyRotation, _>(client, config, store, Asked::of, served, || {}).await;
}

/// Keeps `store` at all KeyRevocations, until the task is dropped.
pub(in crate::agent) async fn key_revocations(
    client: Client,
    store: Arc<Store<Revocation>>,
    served: Served,
    on_unserved: impl Fn(),
) {
    let kind =
        Optional { what: "all KeyRevocations", without: "the keys that were revoked before stay revoked" };
    let config = watcher::Config::default();
    kind.follow::<KeyRevocation, _>(client, config, store, Revocation::of, served, on_unserved).await;
}

/// A kind that the API server need not serve: it is of an older version, or Selvedge's own resources are not installed (404), or
/// the rights of the agent are those of an older version (403).
struct Optional {
    what: &'static str,
    /// What follows if it is not served, for people.
    without: &'static str,
}

impl Optional {
    /// `on_unserved` is called if it is not served.
    async fn follow<K, V>(
        &self,
        client: Client,
        config: watcher::Config,
        store: Arc<Store<V>>,
        project: fn(&K) -> V,
        served: Served,
        on_unserved: impl Fn(),
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
        V: PartialEq + Send + Sync,
    {
        let (mut refusals, mut was_unserved) = (0, false);
        let mut pauses = Retry::between(UNSERVED[0], UNSERVED[1]);
        loop {
            let unserved = Arc::new(Unserved::default());
            let mut watch = Watch::new(self.what, served.clone());
            watch.unserved = Some(Arc::clone(&unserved));
            let mut sink = IntoStore { store: Arc::clone(&store), project, list: BTreeMap::new() };
            tokio::select! {
                () = watch.follow(client.clone(), config.clone(), &mut sink) => return,
                () = unserved.refused.notified() => {}
            }
            if unserved.was_served.load(Ordering::Relaxed) {
                (refusals, pauses) = (0, Retry::between(UNSERVED[0], UNSERVED[1]));
            }
            refusals += 1;
            if refusals >= REFUSALS || unserved.is_absent.load(Ordering::Relaxed) {
                if !std::mem::replace(&mut was_unserved, true) {
                    let Self { what, without } = self;
                    tracing::info!("the API server does not serve {what} to this agent: {without}");
                }
                // Clears the problem that an earlier error reported.
                served.served(self.what);
                on_unserved();
            }
            tokio::time::sleep(pauses.next().unwrap_or(UNSERVED[1])).await;
        }
    }
}

/// How an API server answered requests for a kind that it need not serve.
#[derive(Default)]
struct Unserved {
    /// Notified when it refused one.
    refused: Notify,
    /// It answered 404: it does not have this kind, whatever the agent's rights are.
    is_absent: AtomicBool,
    /// It had served one before.
    was_served: AtomicBool,
}

impl Unserved {
    /// Whether this answer says that the kind is not served.
    fn hears(&self, status: StatusCode) -> bool {
        if status.is_success() {
            self.was_served.store(true, Ordering::Relaxed);
        }
        let is_refused = matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
        if is_refused {
            self.is_absent.store(status == StatusCode::NOT_FOUND, Ordering::Relaxed);
            self.refused.notify_one();
        }
        is_refused
    }
}

fn ranges(object: &ServiceCIDR) -> Vec<String> {
    let cidrs = object.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    cidrs.into_iter().flatten().take(RANGES).cloned().collect()
}

/// Objects that have none of these labels.
fn without(labels: &[&str]) -> watcher::Config {
    let absent: Vec<String> = labels.iter().map(|label| format!("!{label}")).collect();
    watcher::Config::default().labels(&absent.join(","))
}

#[derive(Clone)]
struct Watch {
    what: &'static str,
    /// How long a streamed list may take.
    patience: Duration,
    served: Served,
    /// For a kind that the API server need not serve.
    unserved: Option<Arc<Unserved>>,
}

impl Watch {
    fn new(what: &'static str, served: Served) -> Self {
        Self { what, patience: STREAMED, served, unserved: None }
    }

    async fn follow<K>(self, client: Client, config: watcher::Config, into: &mut impl Sink<K>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::all(self.hears(client));
        let listing = config.timeout(WATCH_TIMEOUT_SECONDS);
        let streaming = listing.clone().streaming_lists();
        let mut told = false;
        // What cannot be streamed now is listed, and tried again when there has to be another list.
        while let Some(why) = self.run(api.clone(), streaming.clone(), into).await {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    why,
                    "the API server did not stream the list of {}: they are listed",
                    self.what
                );
            }
            if self.run(api.clone(), listing.clone(), into).await.is_none() {
                break;
            }
        }
    }

    /// Ends when it is time to get lists in the other way, with the reason: one that is streamed failed, or one that was not
    /// is out of date.
    async fn run<K>(&self, api: Api<K>, config: watcher::Config, into: &mut impl Sink<K>) -> Option<String>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let streaming = config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut stream = std::pin::pin!(watch(api, config).backoff(Retry::default()));
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
                    apply(event, into);
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
        tracing::warn!(error = why, "the watch on {} broke off, retrying with backoff", self.what);
        self.served.broke(self.what, why);
    }

    fn served(&self) {
        self.served.served(self.what);
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
                if watch.unserved.as_ref().is_some_and(|unserved| unserved.hears(answer.status())) {
                    return std::future::pending().await;
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

fn apply<K>(event: Event<K>, into: &mut impl Sink<K>) {
    match event {
        Event::Init => into.begin(),
        Event::InitApply(object) => into.listed(object),
        Event::InitDone => into.complete(),
        Event::Apply(object) => into.apply(object),
        Event::Delete(object) => into.delete(object),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;

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
        let store: Arc<Store<()>> = Arc::default();
        let board = Board::new(&[], Vec::new(), Bus::default(), Metrics::default());
        let served = Served::new(Arc::new(board), Bus::default(), Metrics::default());
        let watch = Watch { patience, ..Watch::new("all Nodes", served) };
        let listed = Arc::new(Notify::new());
        let wake = Arc::clone(&listed);
        let subscription = store.subscribe(PartialEq::ne, move || wake.notify_one());
        let mut sink = IntoStore { store, project: |_: &Node| (), list: BTreeMap::new() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = watch.follow(endless(first), watcher::Config::default(), &mut sink) => panic!("it ends"),
                () = listed.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => panic!("waited 20 s for a list"),
            }
        });
        subscription.take().into_iter().map(|(key, _)| key.name).collect()
    }

    /// How often `on_unserved` is called until a ServiceCIDR is seen, by an API server that first answers with these codes.
    fn unserved_before(codes: &'static [u16]) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter(); // clients have tasks
        let asked = Arc::new(AtomicUsize::new(0));
        let serves = endless(|| {
            let object = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"cidrs": ["10.9.0.0/16"]}});
            let bookmark = json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1", "metadata": {
                "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"},
            }});
            event("ADDED", &object) + &event("BOOKMARK", &bookmark)
        });
        let service = service_fn(move |request: Request<Body>| {
            let code = codes.get(asked.fetch_add(1, Ordering::Relaxed)).copied();
            let serves = serves.clone();
            async move {
                let Some(code) = code else { return serves.send(request).await };
                let status =
                    json!({"kind": "Status", "status": "Failure", "message": "", "reason": "", "code": code});
                Ok(Response::builder()
                    .status(code)
                    .body(Body::from(status.to_string().into_bytes()))
                    .unwrap())
            }
        });
        let store: Arc<Store<Vec<String>>> = Arc::default();
        let board = Board::new(&[], Vec::new(), Bus::default(), Metrics::default());
        let served = Served::new(Arc::new(board), Bus::default(), Metrics::default());
        let (listed, unserved) = (Arc::new(Notify::new()), AtomicUsize::new(0));
        let wake = Arc::clone(&listed);
        let _subscription = store.subscribe(PartialEq::ne, move || wake.notify_one());
        let on_unserved = || {
            unserved.fetch_add(1, Ordering::Relaxed);
        };
        runtime.block_on(async {
            tokio::select! {
                () = service_cidrs(Client::new(service, "default"), store, served.clone(), on_unserved) => panic!("it ends"),
                () = listed.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(30)) => panic!("waited 30 s for a list"),
            }
        });
        assert_eq!(served.broken.lock().unwrap().len(), 0);
        unserved.into_inner()
    }

    /// An API server that has just started has not loaded the roles and refuses everything. If the agent concluded at once that
    /// ServiceCIDRs are not served, it would let pods start without those ranges.
    #[test]
    fn a_refusal_of_service_cidrs_counts_when_it_lasts() {
        assert_eq!(unserved_before(&[403, 403]), 0);
        assert_eq!(unserved_before(&[403, 403, 403]), 1);
        assert_eq!(unserved_before(&[404]), 1);
        // A request is made again after another failure, which is a problem until it is known that nothing is served.
        assert_eq!(unserved_before(&[500, 404]), 1);
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
