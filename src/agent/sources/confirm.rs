//! Asks for whole Nodes, whose objects confirm what they publish, and puts what they show into the view.
//!
//! A Node is asked for at once when nothing is known of it, when it claims something new or when another Node contests what
//! it has, spread over a moment that grows with the cluster, and with growing pauses while its object may still be filled in.
//! Many are listed in pages. A Node that a list lacks is kept for a while, and then one GET of it decides.

mod agenda;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use ipnet::IpNet;
use tokio::sync::Notify;

use crate::agent::api::Api;
use crate::agent::context::Context;
use crate::agent::control::{Board, Name};
use crate::agent::ranges::ServiceRanges;
use crate::agent::retry::{Retry, jittered};
use crate::agent::view::contest::Contested;
use crate::agent::view::store::{Key, Object, Store};
use crate::config::ClusterRanges;
use crate::mesh::resolve::{Confirmed, Need, NodeClaims, need};
use agenda::{Agenda, LAST_PAUSE};
use whole::WholeNode;

/// Above this number of Nodes to ask for, one paged list of all Nodes is cheaper.
const MOST_GETS: usize = 16;
/// GETs under way at once, and GETs of missing Nodes a second.
const AT_ONCE: usize = 4;
/// All agents learn of a new Node in the same moment; each waits up to this long for every Node of the cluster, so that 5,000
/// agents ask within 50 ms and not at once.
const SPREAD: Duration = Duration::from_micros(10);
/// Pause between two pages, so that the agents of a cluster that start together take turns.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Pauses after the API server has not answered, whatever changes meanwhile.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Missing Nodes that a log line names.
const SHOWN: usize = 5;

/// The task that asks.
pub(in crate::agent) struct Confirmer {
    api: Api,
    own: String,
    cluster_pod_cidrs: Vec<IpNet>,
    service_ranges: Arc<ServiceRanges>,
    /// How long a Node that a list lacks is kept before it is asked for.
    grace: Duration,
    nodes: Arc<Store<NodeClaims>>,
    confirmed: Arc<Store<Confirmed>>,
    contested: Arc<Contested>,
    board: Arc<Board>,
    agenda: Agenda,
    /// Nodes that a list lacks, and that were accepted before.
    missing: BTreeSet<String>,
    /// The contested Nodes that were seen to.
    seen: Arc<BTreeSet<String>>,
    /// The first list is confirmed.
    is_complete: bool,
}

/// What it is time to ask for.
#[derive(Debug, Default)]
struct Due {
    present: Vec<(Key, Object<NodeClaims>)>,
    missing: Vec<(Key, Arc<Confirmed>)>,
}

impl Confirmer {
    /// Starts with what the records had confirmed. This node itself is not asked for.
    pub(in crate::agent) fn new(context: &Context) -> Self {
        let view = &context.view;
        for (name, record) in &context.records.nodes {
            view.confirmed.apply(&Key::name(name), String::new(), Confirmed::from_record(record));
        }
        Self {
            api: context.api.clone(),
            own: context.config.node_name.clone(),
            cluster_pod_cidrs: context.config.cluster_pod_cidrs.clone(),
            service_ranges: Arc::clone(&context.service_ranges),
            grace: Duration::from_secs(context.config.agent.missing_node_grace.into()),
            nodes: Arc::clone(&view.nodes),
            confirmed: Arc::clone(&view.confirmed),
            contested: Arc::clone(&view.contested),
            board: Arc::clone(&context.board),
            agenda: Agenda::default(),
            missing: BTreeSet::new(),
            seen: Arc::default(),
            is_complete: false,
        }
    }

    /// Asks until the task is dropped.
    pub(in crate::agent) async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        let subscription = self.nodes.subscribe(PartialEq::ne, move || wake.notify_one());
        let contested = Arc::clone(&self.contested);
        let mut retry = Retry::between(FIRST_RETRY, LAST_RETRY);
        loop {
            // Before what changed is taken: then that holds all of the first list.
            let is_synced = self.nodes.is_synced();
            let missing = self.missing.len();
            for (key, object) in subscription.take() {
                self.note(&key, object);
            }
            self.contest();
            let due = self.due(Instant::now());
            self.warn_of_missing(missing);
            if self.ask(due).await.is_err() {
                tokio::time::sleep(retry.next().unwrap_or(LAST_RETRY)).await;
                continue;
            }
            retry = Retry::between(FIRST_RETRY, LAST_RETRY);
            if is_synced {
                self.complete();
            }
            let pause = self.agenda.next().map(|at| at.saturating_duration_since(Instant::now()));
            let news = async {
                tokio::select! {
                    () = changed.notified() => {}
                    () = contested.changed() => {}
                }
            };
            let _ = tokio::time::timeout(pause.unwrap_or(LAST_PAUSE), news).await;
        }
    }

    fn note(&mut self, key: &Key, object: Option<Object<NodeClaims>>) {
        if key.name == self.own {
            return;
        }
        let Some(object) = object else { return self.note_absence(key) };
        self.missing.remove(&key.name);
        let confirmed = self.confirmed.get(key).map(|object| object.value);
        match need(&object.value, confirmed.as_deref()) {
            Need::Nothing if self.seen.contains(&key.name) => {}
            Need::Nothing => self.agenda.forget(&key.name),
            Need::Now if self.is_complete => self.agenda.ask(&key.name, Instant::now() + self.spread()),
            Need::Now => self.agenda.ask(&key.name, Instant::now()),
            Need::Later => self.agenda.ask_again(&key.name, Instant::now()),
        }
    }

    fn note_absence(&mut self, key: &Key) {
        if self.nodes.is_missing(key) && self.confirmed.get(key).is_some() {
            return self.miss(&key.name);
        }
        self.missing.remove(&key.name);
        self.agenda.forget(&key.name);
        self.confirmed.delete(key);
    }

    /// Keeps a Node for the time of grace, or until somebody contests what it has.
    fn miss(&mut self, name: &str) {
        let now = Instant::now();
        let grace =
            if self.seen.contains(name) { self.spread() } else { self.grace + jittered(self.grace / 4) };
        self.agenda.ask(name, now + grace);
        self.missing.insert(name.to_owned());
    }

    /// Asks for Nodes that have become contested.
    fn contest(&mut self) {
        let named = self.contested.get();
        if Arc::ptr_eq(&named, &self.seen) {
            return;
        }
        let before = std::mem::replace(&mut self.seen, Arc::clone(&named));
        for name in named.difference(&before) {
            let exists = self.missing.contains(name) || self.nodes.get(&Key::name(name)).is_some();
            if exists && *name != self.own {
                self.agenda.ask(name, Instant::now() + self.spread());
            }
        }
    }

    /// A random part of the time over which the agents of this cluster spread their questions.
    fn spread(&self) -> Duration {
        let spread = SPREAD * u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        jittered(spread * 2).saturating_sub(spread)
    }

    /// The Nodes that it is time to ask for. One that has not changed since it was asked for would answer the same.
    fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        for name in self.agenda.due(now) {
            let key = Key::name(&name);
            if self.missing.contains(&name) {
                match self.confirmed.get(&key) {
                    Some(confirmed) => due.missing.push((key, confirmed.value)),
                    None => self.agenda.forget(&name),
                }
                continue;
            }
            let Some(object) = self.nodes.get(&key) else {
                self.agenda.forget(&name);
                continue;
            };
            if self.agenda.asked_at(&name) == Some(object.version.as_str()) {
                self.agenda.ask_again(&name, now);
            } else {
                due.present.push((key, object));
            }
        }
        self.postpone(&mut due.missing, now);
        due
    }

    /// Leaves a few of the missing Nodes, those that are contested first, and puts off the others.
    fn postpone(&mut self, missing: &mut Vec<(Key, Arc<Confirmed>)>, now: Instant) {
        missing.sort_by_key(|(key, _)| !self.seen.contains(&key.name));
        for (key, _) in missing.split_off(missing.len().min(AT_ONCE)) {
            self.agenda.ask(&key.name, now + jittered(Duration::from_secs(1)));
        }
    }

    async fn ask(&mut self, due: Due) -> Result<(), String> {
        let count = due.present.len() + due.missing.len();
        let present = self.ask_present(&due.present).await;
        let missing = self.ask_missing(due.missing).await;
        let asked = present.and(missing);
        let problem = asked.as_ref().err().map(|error| format!("{count} Nodes are not confirmed: {error}"));
        if count > 0 {
            self.board.note(Name::Confirmation, problem.as_deref());
        }
        asked
    }

    async fn ask_present(&mut self, due: &[(Key, Object<NodeClaims>)]) -> Result<(), String> {
        if due.len() > MOST_GETS {
            return self.list(due).await;
        }
        let nodes = self.get(due.iter().map(|(key, _)| key.name.clone()).collect()).await?;
        let mut nodes: BTreeMap<String, WholeNode> =
            nodes.into_iter().map(|node| (node.metadata.name.clone(), node)).collect();
        for (key, object) in due {
            self.answered(key, object, nodes.remove(&key.name));
        }
        Ok(())
    }

    fn ranges(&self) -> ClusterRanges {
        let (pods, services) = (self.cluster_pod_cidrs.clone(), self.service_ranges.get().to_vec());
        ClusterRanges { pods, services }
    }

    fn answered(&mut self, key: &Key, object: &Object<NodeClaims>, node: Option<WholeNode>) {
        self.agenda.answered(&key.name, &object.version, Instant::now());
        // It is gone: the watch will say so.
        let Some(node) = node else { return };
        let confirmed = node.confirm(object.value.facts(), &self.ranges());
        if need(&object.value, Some(&confirmed)) == Need::Nothing && !self.seen.contains(&key.name) {
            self.agenda.forget(&key.name);
        }
        self.confirmed.apply(key, String::new(), confirmed);
    }

    /// Never by a list: a list lacks them already.
    async fn ask_missing(&mut self, due: Vec<(Key, Arc<Confirmed>)>) -> Result<(), String> {
        let nodes = self.get(due.iter().map(|(key, _)| key.name.clone()).collect()).await?;
        let mut nodes: BTreeMap<String, WholeNode> =
            nodes.into_iter().map(|node| (node.metadata.name.clone(), node)).collect();
        for (key, before) in due {
            match nodes.remove(&key.name) {
                Some(node) => self.found(&key, &before, node),
                None => self.deleted(&key),
            }
        }
        Ok(())
    }

    fn found(&mut self, key: &Key, before: &Confirmed, node: WholeNode) {
        tracing::warn!(node = key.name, "the list of Nodes lacks this Node, although it exists; keeping it");
        self.confirmed.apply(key, String::new(), node.confirm(before.facts.clone(), &self.ranges()));
        self.agenda.ask(&key.name, Instant::now() + self.grace.max(LAST_PAUSE));
    }

    fn deleted(&mut self, key: &Key) {
        tracing::info!(node = key.name, "the missing Node does not exist any more; its claims are free");
        self.missing.remove(&key.name);
        self.agenda.forget(&key.name);
        self.nodes.confirm_deletion(key);
        self.confirmed.delete(key);
    }

    fn complete(&mut self) {
        if std::mem::replace(&mut self.is_complete, true) {
            return;
        }
        // What the records have and the first list lacks may have been deleted while no agent ran.
        for key in self.confirmed.keys() {
            if key.name != self.own && self.nodes.get(&key).is_none() {
                self.miss(&key.name);
            }
        }
        self.confirmed.set_synced();
    }

    fn warn_of_missing(&self, before: usize) {
        let count = self.missing.len();
        if count > before {
            let first: Vec<&String> = self.missing.iter().take(SHOWN).collect();
            let seconds = self.grace.as_secs();
            tracing::warn!(
                count,
                ?first,
                seconds,
                "a list lacks Nodes that were not reported as deleted; keeping their peers and addresses"
            );
        }
    }

    async fn get(&self, names: Vec<String>) -> Result<Vec<WholeNode>, String> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.api
            .ask(|client| async move {
                let asked = names.into_iter().map(|name| whole::get(client.clone(), name));
                let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
                answers.into_iter().filter_map(Result::transpose).collect()
            })
            .await
    }

    /// Pages through all Nodes. What a page has confirmed stays so, and is not asked for again if a later page fails.
    async fn list(&mut self, due: &[(Key, Object<NodeClaims>)]) -> Result<(), String> {
        let mut left: BTreeMap<&str, (&Key, &Object<NodeClaims>)> =
            due.iter().map(|(key, object)| (key.name.as_str(), (key, object))).collect();
        let mut token = String::new();
        loop {
            let from = token.clone();
            let page = self.api.ask(|client| async move { whole::page(&client, &from).await }).await?;
            for node in page.items {
                if let Some((key, object)) = left.remove(node.metadata.name.as_str()) {
                    self.answered(key, object, Some(node));
                }
            }
            token = page.metadata.continue_token;
            if token.is_empty() {
                break;
            }
            tokio::time::sleep(jittered(PAGE_PAUSE)).await;
        }
        left.into_values().for_each(|(key, object)| self.answered(key, object, None));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
