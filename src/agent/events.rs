//! Kubernetes Events about Nodes: those whose claims are refused, and this one.
//!
//! A node whose claims change all the time must not make every agent of the cluster write all the time: the same refusal of
//! the same node is reported once in a while, and all together at a bounded rate. Metrics and status are always exact.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::api::Api;
use super::status::Refused;
use crate::mesh::node_object::reference;
use crate::observe::REPORTING_CONTROLLER;
use crate::observe::metrics::{Metrics, Reason};

/// Most bytes of an Event's note (events.k8s.io/v1).
const NOTE: usize = 1000;
/// The same refusal of the same node is reported again after a pause, which doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// Events that may be written at once, and how often one more.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_secs(3);

/// Reports each refusal when it begins: as an Event on the refused Node, in the log and in the metrics.
pub(super) struct Reporting {
    events: NodeEvents,
    metrics: Metrics,
    said: Said,
}

impl Reporting {
    /// Reports as the agent of node `own`.
    pub(super) fn new(api: Api, own: &str, metrics: Metrics) -> Self {
        Self { events: NodeEvents::new(api, own), metrics, said: Said::new(Instant::now()) }
    }

    /// Takes all refusals there are now: (UID of the node, the refusal).
    pub(super) fn report(&mut self, refusals: &[(String, Refused)]) {
        let (begun, due) = self.said.take(refusals, Instant::now());
        for reason in begun {
            self.metrics.refusals.get_or_create(&Reason { reason }).inc();
        }
        for (uid, refused) in due {
            self.say(&uid, &refused);
        }
        self.metrics.refused_nodes.clear();
        for (_, refused) in refusals {
            self.metrics.refused_nodes.get_or_create(&Reason { reason: refused.reason.clone() }).inc();
        }
    }

    fn say(&self, uid: &str, refused: &Refused) {
        tracing::warn!(
            node = refused.node,
            reason = refused.reason,
            message = refused.message,
            "node refused"
        );
        self.events.warn(uid, refused, "RefusePeer");
    }
}

/// Writes Events about Nodes, in the background.
pub(super) struct NodeEvents {
    api: Api,
    /// One for all: it knows what was said before, which is then counted and not written again.
    recorder: Recorder,
}

impl NodeEvents {
    /// Writes as the agent of node `own`.
    pub(super) fn new(api: Api, own: &str) -> Self {
        let reporter = Reporter { controller: REPORTING_CONTROLLER.into(), instance: Some(own.into()) };
        let recorder = Recorder::new(api.client(), reporter);
        Self { api, recorder }
    }

    /// Writes a warning about the Node with this UID.
    pub(super) fn warn(&self, uid: &str, about: &Refused, action: &str) {
        let event = Event {
            type_: EventType::Warning,
            reason: about.reason.clone(),
            note: Some(note(&about.message)),
            action: action.into(),
            secondary: None,
        };
        let reference = reference(&about.node, uid);
        let recorder = self.recorder.clone();
        self.api.spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::warn!(%error, node = reference.name, "cannot write an Event about the node");
            }
        });
    }
}

/// What was refused before, and what of it has yet to be reported: at the next occasion, once the limit allows it.
pub(super) struct Said {
    refused: BTreeSet<(String, String)>,
    unreported: BTreeSet<(String, String)>,
    limit: Limit,
}

impl Said {
    pub(super) fn new(now: Instant) -> Self {
        Self { refused: BTreeSet::new(), unreported: BTreeSet::new(), limit: Limit::new(now) }
    }

    /// Takes all refusals there are now; returns the reasons of those that begin, and those to report.
    pub(super) fn take(
        &mut self,
        refusals: &[(String, Refused)],
        now: Instant,
    ) -> (Vec<String>, Vec<(String, Refused)>) {
        let key = |(uid, refused): &(String, Refused)| (uid.clone(), refused.reason.clone());
        let before = std::mem::replace(&mut self.refused, refusals.iter().map(key).collect());
        let (mut begun, mut due, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for refusal in refusals {
            let key = key(refusal);
            let begins = !before.contains(&key);
            begun.extend(begins.then(|| key.1.clone()));
            if !seen.insert(key.clone()) || !(begins || self.unreported.contains(&key)) {
                continue;
            }
            if self.limit.allows(&key.0, &key.1, now) {
                self.unreported.remove(&key);
                due.push(refusal.clone());
            } else {
                self.unreported.insert(key);
            }
        }
        self.unreported.retain(|key| self.refused.contains(key));
        (begun, due)
    }
}

/// Which refusals are reported.
struct Limit {
    /// When a refusal was last reported, and the pause after that.
    reported: BTreeMap<(String, String), (Instant, Duration)>,
    left: u32,
    refilled: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { reported: BTreeMap::new(), left: BURST, refilled: now }
    }

    fn allows(&mut self, uid: &str, reason: &str, now: Instant) -> bool {
        self.reported.retain(|_, (at, _)| now.duration_since(*at) < LAST_PAUSE * 2);
        let key = (uid.to_owned(), reason.to_owned());
        let before = self.reported.get(&key).copied();
        if before.is_some_and(|(at, pause)| now.duration_since(at) < pause) {
            return false;
        }
        while self.left < BURST && now.duration_since(self.refilled) >= EVERY {
            (self.left, self.refilled) = (self.left + 1, self.refilled + EVERY);
        }
        if self.left == BURST {
            self.refilled = now;
        }
        let allowed = self.left > 0;
        if allowed {
            self.left -= 1;
            let pause = before.map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LAST_PAUSE));
            self.reported.insert(key, (now, pause));
        }
        allowed
    }
}

/// The beginning of `text` that fits a note.
pub(super) fn note(text: &str) -> String {
    let mut note = text.to_owned();
    while note.len() > NOTE {
        note.pop();
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_is_reported_once_in_a_while_and_all_at_a_bounded_rate() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert!(limit.allows("a", "KeyTaken", start) && limit.allows("a", "CIDRTaken", start));
        // Said again all the time, it is reported after 5, 15, 35, ... seconds, and then every ten minutes.
        let again: Vec<u64> = (1..6000)
            .filter(|second| limit.allows("a", "KeyTaken", start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(again[..3], [5, 15, 35]);
        assert!(again.len() < 17, "{again:?}");
        let mut limit = Limit::new(start);
        let many = |limit: &mut Limit, from: u32, at| {
            (from..from + 100).filter(|n| limit.allows(&n.to_string(), "KeyTaken", at)).count()
        };
        assert_eq!(many(&mut limit, 0, start), 20);
        assert_eq!(many(&mut limit, 100, start + EVERY * 2), 2);
        assert_eq!(many(&mut limit, 200, start + EVERY * 1000), 20);
    }

    #[test]
    fn what_the_limit_held_back_is_reported_later() {
        let start = Instant::now();
        let mut said = Said::new(start);
        let refusal = |n: u32, reason: &str| {
            let refused = Refused { node: n.to_string(), reason: reason.into(), message: String::new() };
            (n.to_string(), refused)
        };
        let many: Vec<_> = (0..30).map(|n| refusal(n, "KeyTaken")).collect();
        let (begun, due) = said.take(&many, start);
        assert_eq!((begun.len(), due.len()), (30, 20), "all are counted, and a burst is reported");
        let (begun, due) = said.take(&many, start + EVERY * 4);
        assert_eq!((begun.len(), due.len(), due[0].0.as_str()), (0, 4, "20"));
        // What is refused no more is not reported any more.
        let (_, due) = said.take(&many[..27], start + EVERY * 400);
        assert_eq!(due.iter().map(|(uid, _)| uid.as_str()).collect::<Vec<_>>(), ["24", "25", "26"]);
        assert_eq!(said.take(&many[..27], start + EVERY * 800).1, []);
    }

    #[test]
    fn a_claim_that_flaps_is_reported_as_seldom_as_one_that_is_repeated() {
        let start = Instant::now();
        let mut said = Said::new(start);
        let refused = Refused { node: "n".into(), reason: "KeyTaken".into(), message: String::new() };
        let mut reported = Vec::new();
        let mut counted = 0;
        for tenth in 0..600_u32 {
            let now = start + Duration::from_millis(100) * tenth;
            let refusals =
                if tenth % 2 == 0 { vec![("uid".to_owned(), refused.clone())] } else { Vec::new() };
            let (begun, due) = said.take(&refusals, now);
            counted += begun.len();
            reported.extend(due.iter().map(|_| tenth / 10));
        }
        assert_eq!((counted, reported), (300, vec![0, 5, 15, 35]));
    }

    #[test]
    fn notes_are_cut_between_characters() {
        assert_eq!(note("short"), "short");
        let long = note(&"ä".repeat(600));
        assert_eq!((long.len(), long.chars().count()), (1000, 500));
    }
}
