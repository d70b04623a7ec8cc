//! Kubernetes Events about nodes whose claims are refused.

use std::collections::BTreeSet;

use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::status::Refused;
use crate::mesh::node_object::reference;
use crate::observe::metrics::{Metrics, Reason};

/// Most bytes of an Event's note (events.k8s.io/v1).
const NOTE: usize = 1000;

/// Reports each refusal once, when it begins: as an Event on the refused Node, in the log and in the metrics.
pub struct Reporting {
    recorder: Recorder,
    metrics: Metrics,
    known: BTreeSet<(String, String)>,
}

impl Reporting {
    /// Reports as the agent of node `own`.
    #[must_use]
    pub fn new(client: Client, own: &str, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: "selvedge.dev/agent".into(), instance: Some(own.into()) };
        Self { recorder: Recorder::new(client, reporter), metrics, known: BTreeSet::new() }
    }

    /// Takes the refusals of one pass: (UID of the node, the refusal).
    pub fn report(&mut self, refusals: &[(String, Refused)]) {
        let now: BTreeSet<_> =
            refusals.iter().map(|(uid, refused)| (uid.clone(), refused.reason.clone())).collect();
        for (uid, refused) in refusals {
            if !self.known.contains(&(uid.clone(), refused.reason.clone())) {
                self.begin(uid, refused);
            }
        }
        self.metrics.refused_nodes.clear();
        for (_, refused) in refusals {
            self.metrics.refused_nodes.get_or_create(&Reason { reason: refused.reason.clone() }).inc();
        }
        self.known = now;
    }

    fn begin(&self, uid: &str, refused: &Refused) {
        tracing::warn!(
            node = refused.node,
            reason = refused.reason,
            message = refused.message,
            "node refused"
        );
        self.metrics.refusals.get_or_create(&Reason { reason: refused.reason.clone() }).inc();
        let event = Event {
            type_: EventType::Warning,
            reason: refused.reason.clone(),
            note: Some(note(&refused.message)),
            action: "RefusePeer".into(),
            secondary: None,
        };
        let reference = reference(&refused.node, uid);
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::warn!(%error, node = reference.name, "cannot write an Event about the node");
            }
        });
    }
}

/// The beginning of `text` that fits a note.
fn note(text: &str) -> String {
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
    fn notes_are_cut_between_characters() {
        assert_eq!(note("short"), "short");
        let long = note(&"ä".repeat(600));
        assert_eq!((long.len(), long.chars().count()), (1000, 500));
    }
}
