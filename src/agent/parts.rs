//! What went wrong in which part of a pass, and what was changed: for readiness, metrics and the log.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::observe::metrics::{Metrics, Part};

/// Changes of one part that a log line names; the first pass makes dozens.
const SHOWN: usize = 4;

/// A part of a node that a pass brings to its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// The nftables table that fails closed.
    Guard,
    /// The watches on the API server. When they break off, what was seen last holds.
    Watches,
    /// This node's own object.
    OwnNode,
    /// Claims of the other nodes.
    Mesh,
    /// The accepted claims on disk.
    Records,
    /// Addresses, MTU and state of the TUN device.
    Link,
    /// Routes and rules.
    Routes,
    /// Sysctls.
    Sysctls,
    /// The tunnel's configuration.
    Tunnel,
    /// Masquerading.
    Egress,
    /// The node's side of running pods: bridge, ports, their rules against spoofing.
    Wiring,
    /// What the CNI plugin needs to know, and the plugin itself.
    Pods,
    /// This node's annotations.
    Annotations,
    /// The condition and the taint that hold pods back from a new node.
    Admission,
}

impl Name {
    /// As in metrics and messages.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Watches => "watches",
            Self::OwnNode => "own-node",
            Self::Mesh => "mesh",
            Self::Records => "records",
            Self::Link => "link",
            Self::Routes => "routes",
            Self::Sysctls => "sysctls",
            Self::Tunnel => "tunnel",
            Self::Egress => "egress",
            Self::Wiring => "wiring",
            Self::Pods => "pods",
            Self::Annotations => "annotations",
            Self::Admission => "admission",
        }
    }
}

/// The parts that are not as they should be, with the reason.
#[derive(Debug, Default)]
pub struct Parts {
    problems: BTreeMap<Name, String>,
    metrics: Metrics,
}

impl Parts {
    /// Counts into `metrics`.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { problems: BTreeMap::new(), metrics }
    }

    /// Takes the result of one part: a list of what was changed, or why it failed. Logs only what is news.
    pub fn settle<E: Display>(&mut self, name: Name, result: Result<Vec<String>, E>) -> bool {
        match result {
            Ok(changes) => {
                if !changes.is_empty() {
                    self.metrics.changes.get_or_create(&part(name)).inc();
                    let (count, first) = (changes.len(), &changes[..changes.len().min(SHOWN)]);
                    tracing::info!(part = name.label(), count, ?first, "brought to its desired state");
                    tracing::debug!(part = name.label(), ?changes, "in full");
                }
                if self.problems.remove(&name).is_some() {
                    tracing::info!(part = name.label(), "works again");
                }
                true
            }
            Err(error) => {
                self.metrics.reconcile_errors.get_or_create(&part(name)).inc();
                self.fail(name, error.to_string());
                false
            }
        }
    }

    /// A part that waits for something that is no error.
    pub fn wait(&mut self, name: Name, what: impl Into<String>) {
        self.problems.insert(name, what.into());
    }

    fn fail(&mut self, name: Name, error: String) {
        if self.problems.get(&name) != Some(&error) {
            tracing::warn!(part = name.label(), error, "not as it should be; it is tried again");
            self.problems.insert(name, error);
        }
    }

    /// For people: one line a part.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.problems.iter().map(|(name, problem)| format!("{}: {problem}", name.label())).collect()
    }

    /// Whether another pass has nothing to try again. Watches begin again by themselves.
    #[must_use]
    pub fn all_done(&self) -> bool {
        self.problems.keys().all(|name| *name == Name::Watches)
    }

    /// Whether none of `names` has a problem.
    #[must_use]
    pub fn all_well(&self, names: &[Name]) -> bool {
        names.iter().all(|name| !self.problems.contains_key(name))
    }
}

fn part(name: Name) -> Part {
    Part { part: name.label().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stays_until_its_part_works() {
        let mut parts = Parts::new(Metrics::default());
        assert!(!parts.settle(Name::Guard, Err("no permission")));
        assert!(parts.settle::<String>(Name::Link, Ok(vec!["mtu".into()])));
        assert_eq!(parts.problems(), ["guard: no permission"]);
        assert!(!parts.all_well(&[Name::Link, Name::Guard]) && parts.all_well(&[Name::Link]));
        assert!(parts.settle::<String>(Name::Guard, Ok(Vec::new())));
        assert!(parts.problems().is_empty());
        parts.wait(Name::Watches, "refused");
        assert!(parts.all_done() && !parts.problems().is_empty());
        parts.wait(Name::Tunnel, "no answer");
        assert!(!parts.all_done());
    }
}
