//! This node's own object.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::agent::control::{Bus, Trigger, Unmet};
use crate::mesh::node_object::{OwnNode, OwnNodeError};

/// This node's own object, as last seen.
pub(in crate::agent) struct Own {
    seen: Mutex<Seen>,
    bus: Bus,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Seen {
    /// The API server has not answered yet.
    #[default]
    Nothing,
    /// There is no such Node.
    Absent,
    /// It cannot be used.
    Invalid(OwnNodeError),
    Node(Arc<OwnNode>),
}

impl Own {
    pub(super) fn new(bus: Bus) -> Self {
        Self { seen: Mutex::default(), bus }
    }

    /// Takes the object as the API server shows it now.
    pub(in crate::agent) fn put(&self, node: Option<&Node>, cluster_pod_cidrs: &[IpNet]) {
        let now = match node.map(|node| OwnNode::from_object(node, cluster_pod_cidrs)) {
            None => Seen::Absent,
            Some(Err(error)) => Seen::Invalid(error),
            Some(Ok(own)) => Seen::Node(Arc::new(own)),
        };
        let before = std::mem::replace(&mut *self.seen(), now.clone());
        for trigger in changes(&before, &now) {
            self.bus.post(trigger);
        }
    }

    /// The object, or what keeps it from being used.
    pub(in crate::agent) fn get(&self, name: &str) -> Result<Arc<OwnNode>, Unmet> {
        match &*self.seen() {
            Seen::Nothing => {
                Err(Unmet::waiting(format!("the API server has not answered for Node {name} yet")))
            }
            Seen::Absent => Err(Unmet::waiting(format!("there is no Node {name}"))),
            Seen::Invalid(error) => Err(Unmet::failed(error)),
            Seen::Node(own) if own.pod_cidrs.is_empty() => {
                Err(Unmet::waiting(format!("Node {name} has no pod CIDR yet")))
            }
            Seen::Node(own) => Ok(Arc::clone(own)),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which triggers a change of the object is. A heartbeat, which changes the resource version alone, is none.
fn changes(before: &Seen, now: &Seen) -> Vec<Trigger> {
    const ALL: [Trigger; 3] = [Trigger::OwnNode, Trigger::OwnAnnotations, Trigger::OwnAdmission];
    let (Seen::Node(before), Seen::Node(now)) = (before, now) else {
        return if before == now { Vec::new() } else { ALL.to_vec() };
    };
    let mut triggers = Vec::new();
    let identity = |own: &OwnNode| {
        let addresses = (own.pod_cidrs.clone(), own.internal.clone(), own.external.clone());
        (own.uid.clone(), addresses, own.zone.clone(), own.kubelet_port)
    };
    if identity(before) != identity(now) {
        triggers.push(Trigger::OwnNode);
    }
    if before.annotations != now.annotations {
        triggers.push(Trigger::OwnAnnotations);
    }
    let admission = |own: &OwnNode| (own.taints.clone(), own.network_unavailable, own.is_deleted);
    if admission(before) != admission(now) {
        triggers.push(Trigger::OwnAdmission);
    }
    triggers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_no_trigger_and_each_other_change_is_its_own() {
        let seen = |change: &dyn Fn(&mut OwnNode)| {
            let mut own = OwnNode { name: "a".into(), uid: "u".into(), ..OwnNode::default() };
            change(&mut own);
            Seen::Node(Arc::new(own))
        };
        let before = seen(&|_| {});
        let triggers = |change: &dyn Fn(&mut OwnNode)| changes(&before, &seen(change));
        assert_eq!(triggers(&|own| own.resource_version = "2".into()), []);
        assert_eq!(triggers(&|own| own.uid = "v".into()), [Trigger::OwnNode]);
        assert_eq!(triggers(&|own| own.kubelet_port = Some(10_251)), [Trigger::OwnNode]);
        let annotate = |own: &mut OwnNode| drop(own.annotations.insert("a".into(), "b".into()));
        assert_eq!(triggers(&annotate), [Trigger::OwnAnnotations]);
        assert_eq!(triggers(&|own| own.network_unavailable = true), [Trigger::OwnAdmission]);
        assert_eq!(changes(&Seen::Nothing, &before).len(), 3);
        assert_eq!(changes(&Seen::Absent, &Seen::Absent), []);
    }
}
