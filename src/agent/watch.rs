//! Watches on the Kubernetes API: this node's own object whole, all Nodes by their metadata alone.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::api::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;
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
    let watch = Watch { what: "this node's object", broken, metrics };
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
    let watch = Watch { what: "all Nodes", broken, metrics };
    watch.follow(client, watcher::Config::default(), into).await;
}

#[derive(Clone)]
struct Watch {
    what: &'static str,
    broken: Sender<Broken>,
    metrics: Metrics,
}

impl Watch {
    async fn follow<K>(self, client: Client, config: watcher::Config, into: Sender<Option<Objects<K>>>)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let api = Api::all(self.hears(client));
        let stream = watch(api, config.timeout(WATCH_TIMEOUT_SECONDS)).backoff(Retry::default());
        let mut stream = std::pin::pin!(stream);
        let mut listing = Objects::new();
        loop {
            match stream.try_next().await {
                Ok(Some(event)) => apply(event, &mut listing, &into),
                Ok(None) => return,
                Err(error) => self.broke(cause::told(&error)),
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
                let answer = client.send(request).await?;
                if answer.status().is_success() {
                    watch.broken.send_if_modified(|broken| broken.remove(watch.what).is_some());
                }
                Ok::<_, kube::Error>(answer)
            }
        });
        Client::new(service, namespace)
    }
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
