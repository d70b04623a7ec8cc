//! Asks for whole Nodes, whose objects confirm what they publish, and puts what they show into the view.
//!
//! A Node is asked for at once when nothing is known of it or when it claims something new, spread over a moment that grows
//! with the cluster, and with growing pauses while its object may still be filled in. Many are listed in pages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::core::Request;
use kube::{Client, Resource as _};
use serde::Deserialize;
use tokio::sync::Notify;

use crate::agent::api::Api;
use crate::agent::context::Context;
use crate::agent::control::{Board, Name};
use crate::agent::retry::{Retry, jittered};
use crate::agent::view::store::{Key, Object, Store};
use crate::config::ClusterRanges;
use crate::mesh::resolve::{Confirmed, Facts, Need, NodeClaims, need, node_addresses};

/// Above this number of Nodes to ask for, one paged list of all Nodes is cheaper.
const MOST_GETS: usize = 16;
/// GETs under way at once.
const AT_ONCE: usize = 4;
/// Nodes in a page of a list: some 4 MB of JSON.
const PAGE: u32 = 250;
/// All agents learn of a new Node in the same moment; each waits up to this long for every Node of the cluster, so that 5,000
/// agents ask within 50 ms and not at once.
const SPREAD: Duration = Duration::from_micros(10);
/// Pauses before a Node is asked for again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(600);

/// The task that asks.
pub(in crate::agent) struct Confirmer {
    api: Api,
    own: String,
    ranges: ClusterRanges,
    nodes: Arc<Store<NodeClaims>>,
    confirmed: Arc<Store<Confirmed>>,
    board: Arc<Board>,
    agenda: Agenda,
    /// The first list is confirmed.
    is_complete: bool,
}

impl Confirmer {
    /// Starts with what the records had confirmed. This node itself is not asked for.
    pub(in crate::agent) fn new(context: &Context) -> Self {
        let (nodes, confirmed) = (Arc::clone(&context.view.nodes), Arc::clone(&context.view.confirmed));
        for (name, record) in &context.records.nodes {
            confirmed.apply(&Key::name(name), String::new(), Confirmed::from_record(record));
        }
        Self {
            api: context.api.clone(),
            own: context.config.node_name.clone(),
            ranges: context.config.ranges(),
            nodes,
            confirmed,
            board: Arc::clone(&context.board),
            agenda: Agenda::default(),
            is_complete: false,
        }
    }

    /// Asks until the task is dropped.
    pub(in crate::agent) async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let subscription = self.nodes.subscribe(PartialEq::ne, move || wake.notify_one());
        let mut retry = Retry::default();
        loop {
            // Before what changed is taken: then that holds all of the first list.
            let is_synced = self.nodes.is_synced();
            for (key, object) in subscription.take() {
                self.note(&key, object);
            }
            let due = self.due(Instant::now());
            let pause = match self.ask(&due).await {
                Ok(()) => {
                    retry = Retry::default();
                    if is_synced {
                        self.completed();
                    }
                    self.agenda.next().map(|at| at.saturating_duration_since(Instant::now()))
                }
                Err(_) => retry.next(),
            };
            let pause = pause.unwrap_or(LAST_PAUSE);
            // A short pause at least, so that a storm of changes is asked for together.
            let _ = tokio::time::timeout(pause, changed.notified()).await;
        }
    }

    fn note(&mut self, key: &Key, object: Option<Object<NodeClaims>>) {
        if key.name == self.own {
            return;
        }
        let Some(object) = object else {
            self.agenda.forget(&key.name);
            return self.confirmed.delete(key);
        };
        let confirmed = self.confirmed.get(key).map(|object| object.value);
        match need(&object.value, confirmed.as_deref()) {
            Need::Nothing => self.agenda.forget(&key.name),
            Need::Now if self.is_complete => {
                let spread = SPREAD * u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
                self.agenda.ask(&key.name, Instant::now() + jittered(spread * 2).saturating_sub(spread));
            }
            Need::Now => self.agenda.ask(&key.name, Instant::now()),
            Need::Later => self.agenda.ask_again(&key.name, Instant::now()),
        }
    }

    /// The Nodes that it is time to ask for. One that has not changed since it was asked for would answer the same.
    fn due(&mut self, now: Instant) -> Vec<(Key, Object<NodeClaims>)> {
        let mut due = Vec::new();
        for name in self.agenda.due(now) {
            let key = Key::name(name);
            let Some(object) = self.nodes.get(&key) else { continue };
            if self.agenda.asked_at(&key.name) == Some(object.version.as_str()) {
                self.agenda.ask_again(&key.name, now);
            } else {
                due.push((key, object));
            }
        }
        due
    }

    async fn ask(&mut self, due: &[(Key, Object<NodeClaims>)]) -> Result<(), String> {
        let answers = match due.len() {
            0 => Ok(Vec::new()),
            1..=MOST_GETS => self.get(due).await,
            _ => self.list(due).await,
        };
        match answers {
            Ok(nodes) => {
                self.board.note(Name::Confirmation, None);
                let mut nodes: BTreeMap<String, WholeNode> =
                    nodes.into_iter().map(|node| (node.metadata.name.clone(), node)).collect();
                for (key, object) in due {
                    self.answered(key, object, nodes.remove(&key.name));
                }
                Ok(())
            }
            Err(error) => {
                let problem = format!("{} Nodes are not confirmed: {error}", due.len());
                self.board.note(Name::Confirmation, Some(&problem));
                Err(error)
            }
        }
    }

    fn answered(&mut self, key: &Key, object: &Object<NodeClaims>, node: Option<WholeNode>) {
        self.agenda.answered(&key.name, &object.version, Instant::now());
        // It is gone: the watch will say so.
        let Some(node) = node else { return };
        let confirmed = node.confirm(object.value.facts(), &self.ranges);
        if need(&object.value, Some(&confirmed)) == Need::Nothing {
            self.agenda.forget(&key.name);
        }
        self.confirmed.apply(key, String::new(), confirmed);
    }

    fn completed(&mut self) {
        if !std::mem::replace(&mut self.is_complete, true) {
            self.confirmed.set_synced();
        }
    }

    async fn get(&self, due: &[(Key, Object<NodeClaims>)]) -> Result<Vec<WholeNode>, String> {
        let names: Vec<String> = due.iter().map(|(key, _)| key.name.clone()).collect();
        self.api
            .ask(|client| async move {
                let asked = names.into_iter().map(|name| get(client.clone(), name));
                let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
                answers.into_iter().filter_map(Result::transpose).collect()
            })
            .await
    }

    /// Pages through all Nodes and keeps those asked for.
    async fn list(&self, due: &[(Key, Object<NodeClaims>)]) -> Result<Vec<WholeNode>, String> {
        let mut nodes = Vec::with_capacity(due.len());
        let mut token = String::new();
        loop {
            let from = token.clone();
            let page = self.api.ask(|client| async move { page(&client, &from).await }).await?;
            let asked = |node: &WholeNode| {
                due.binary_search_by(|(key, _)| key.name.as_str().cmp(&node.metadata.name)).is_ok()
            };
            nodes.extend(page.items.into_iter().filter(asked));
            token = page.metadata.continue_token;
            if token.is_empty() {
                return Ok(nodes);
            }
        }
    }
}

async fn get(client: Client, name: String) -> Result<Option<WholeNode>, kube::Error> {
    let request = Request::new(Node::url_path(&(), None));
    let request = request.get(&name, &kube::api::GetParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    match client.request::<WholeNode>(request).await {
        Ok(node) => Ok(Some(node)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn page(client: &Client, token: &str) -> Result<Page, kube::Error> {
    let request = Request::new(Node::url_path(&(), None));
    let mut parameters = kube::api::ListParams::default().limit(PAGE);
    if !token.is_empty() {
        parameters = parameters.continue_token(token);
    }
    let request = request.list(&parameters).map_err(kube::Error::BuildRequest)?;
    client.request::<Page>(request).await
}

/// What is read of a whole Node: of 15 KiB, some 200 bytes.
#[derive(Debug, Deserialize)]
struct WholeNode {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Vec<WholeNode>,
}

#[derive(Debug, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    continue_token: String,
}

impl WholeNode {
    /// What the Node shows. Text that is not a CIDR confirms nothing; a CIDR outside the cluster's ranges is for
    /// [`resolve`](crate::mesh::resolve::resolve) to refuse. Only usable addresses count, and a bounded number of them.
    fn confirm(self, asked: Facts, ranges: &ClusterRanges) -> Confirmed {
        let texts = self.spec.pod_cidrs.unwrap_or_else(|| self.spec.pod_cidr.into_iter().collect());
        let cidrs: Result<Vec<IpNet>, _> = texts.iter().map(|text| text.parse::<IpNet>()).collect();
        let mut pod_cidrs: Vec<IpNet> = cidrs.unwrap_or_default().iter().map(IpNet::trunc).collect();
        let internal = self.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let node_addresses = node_addresses(ranges, internal.filter_map(|found| found.address.parse().ok()));
        pod_cidrs.sort_unstable();
        Confirmed { uid: self.metadata.uid, asked: Some(asked), facts: Facts { pod_cidrs, node_addresses } }
    }
}

/// When to ask for which Node.
#[derive(Debug, Default)]
struct Agenda(BTreeMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    at: Instant,
    pauses: Retry,
    /// Resource version of the Node when it was last asked for.
    asked_at: Option<String>,
}

impl Agenda {
    /// Asks at `at`, whatever was before.
    fn ask(&mut self, name: &str, at: Instant) {
        let pauses = Retry::between(FIRST_PAUSE, LAST_PAUSE);
        self.0.insert(name.to_owned(), Entry { at, pauses, asked_at: None });
    }

    /// Asks again after the next pause.
    fn ask_again(&mut self, name: &str, now: Instant) {
        let entry = self.0.entry(name.to_owned()).or_insert_with(|| Entry {
            at: now,
            pauses: Retry::between(FIRST_PAUSE, LAST_PAUSE),
            asked_at: None,
        });
        entry.at = now + entry.pauses.next().unwrap_or(LAST_PAUSE);
    }

    fn answered(&mut self, name: &str, version: &str, now: Instant) {
        self.ask_again(name, now);
        if let Some(entry) = self.0.get_mut(name) {
            entry.asked_at = Some(version.to_owned());
        }
    }

    fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    fn asked_at(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.asked_at.as_deref()
    }

    /// Names in ascending order.
    fn due(&self, now: Instant) -> Vec<String> {
        self.0.iter().filter(|(_, entry)| entry.at <= now).map(|(name, _)| name.clone()).collect()
    }

    fn next(&self) -> Option<Instant> {
        self.0.values().map(|entry| entry.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::annotation::MAX_NODE_ADDRESSES;

    #[test]
    fn pauses_grow_and_a_new_claim_is_asked_for_at_once() {
        let (mut agenda, start) = (Agenda::default(), Instant::now());
        agenda.ask("a", start);
        assert_eq!(agenda.due(start), ["a"]);
        agenda.answered("a", "7", start);
        assert_eq!((agenda.due(start).len(), agenda.asked_at("a")), (0, Some("7")));
        let mut now = start;
        for _ in 0..12 {
            now = agenda.next().unwrap();
            agenda.ask_again("a", now);
        }
        let pause = agenda.next().unwrap() - now;
        assert!(pause >= LAST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
        agenda.ask("a", now);
        assert_eq!((agenda.due(now).len(), agenda.asked_at("a")), (1, None));
        agenda.forget("a");
        assert_eq!(agenda.next(), None);
    }

    #[test]
    fn what_a_whole_node_shows() {
        let crowd = (0..40).map(|number| format!("198.51.100.{number}"));
        let internal =
            ["192.0.2.2", "10.1.2.7", "127.0.0.1", "192.0.2.1"].map(str::to_owned).into_iter().chain(crowd);
        let mut addresses: Vec<serde_json::Value> =
            internal.map(|address| serde_json::json!({"type": "InternalIP", "address": address})).collect();
        addresses.push(serde_json::json!({"type": "Hostname", "address": "a"}));
        let node = serde_json::json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}},
            "spec": {"podCIDR": "10.1.2.0/24", "podCIDRs": ["fd00::/64", "10.1.2.3/24"]},
            "status": {"images": [{"names": ["x"]}], "addresses": addresses},
        });
        let node: WholeNode = serde_json::from_value(node).unwrap();
        let ranges = ClusterRanges { pods: vec!["10.1.0.0/16".parse().unwrap()], services: Vec::new() };
        let confirmed = node.confirm(Facts::default(), &ranges);
        assert_eq!(
            confirmed.facts.pod_cidrs,
            ["10.1.2.0/24".parse().unwrap(), "fd00::/64".parse::<IpNet>().unwrap()]
        );
        let texts = confirmed.facts.node_addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts[..3], ["192.0.2.1", "192.0.2.2", "198.51.100.0"], "usable ones, ascending");
        assert_eq!(texts.len(), MAX_NODE_ADDRESSES);
        let odd = serde_json::json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.2.0/24", "x"]}});
        let odd: WholeNode = serde_json::from_value(odd).unwrap();
        assert_eq!(odd.confirm(Facts::default(), &ranges).facts, Facts::default());
    }
}
