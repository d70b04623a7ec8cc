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

use super::retry::Retry;
use crate::cause;
use crate::observe::metrics::Metrics;

/// A set of objects by name, as last seen. Complete: never a half-read list.
pub type Objects<K> = BTreeMap<String, K>;

/// A watch that is cut silently is noticed after this time.
const WATCH_TIMEOUT_SECONDS: u32 = 120;
/// A connection on which nothing comes for so long is dead: a watch that lives is ended by the server before.
pub(super) const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT_SECONDS as u64 + 20);

/// Keeps `into` at this node's own object, until the task is dropped. `None` when it does not exist, and
/// unchanged (at first: not marked as changed) while the API server does not answer.
pub async fn own_node(client: Client, name: String, into: Sender<Option<Node>>, metrics: Metrics) {
    let (objects, mut seen) = tokio::sync::watch::channel(None::<Objects<Node>>);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let follow = follow(Api::all(client), config, objects, metrics);
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
    metrics: Metrics,
) {
    follow(Api::all(client), watcher::Config::default(), into, metrics).await;
}

async fn follow<K>(api: Api<K>, config: watcher::Config, into: Sender<Option<Objects<K>>>, metrics: Metrics)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let stream = watch(api, config.timeout(WATCH_TIMEOUT_SECONDS)).backoff(Retry::default());
    let mut stream = std::pin::pin!(stream);
    let mut listing = Objects::new();
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => apply(event, &mut listing, &into),
            Ok(None) => return,
            Err(error) => {
                metrics.watch_errors.inc();
                tracing::warn!(error = %cause::told(&error), "the watch on nodes broke off; trying again");
            }
        }
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
