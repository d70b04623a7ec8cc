//! Whom of the other nodes to believe. What is accepted is on disk before anybody acts on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::events::Reporting;
use crate::agent::members::Members;
use crate::agent::status::Refused;
use crate::agent::view::store::{Store, Subscription};
use crate::mesh::node_object::OwnNode;
use crate::mesh::record::Records;
use crate::mesh::refusal::Refusal;
use crate::mesh::resolve::{
    Confirmed, Fabric, Need, NodeClaims, ObservedNode, OwnClaims, Resolution, need, resolve,
};

pub(in crate::agent) struct Mesh {
    context: Arc<Context>,
    claims: Subscription<NodeClaims>,
    confirmed: Subscription<Confirmed>,
    known: Known,
    records: Records,
    /// The records on disk have the same claims, but not how all peers are reached.
    unsaved: bool,
    /// What the last resolution that is in force was made from.
    resolved: Option<Fabric>,
    reporting: Reporting,
}

/// This controller's copy of the view, kept by deltas.
#[derive(Default)]
struct Known {
    claims: BTreeMap<String, Arc<NodeClaims>>,
    confirmed: BTreeMap<String, Arc<Confirmed>>,
    /// Something changed since the last resolution that is in force.
    changed: bool,
}

impl Mesh {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let records = (*context.records).clone();
        let bus = || {
            let bus = context.bus.clone();
            move || bus.post(Trigger::Nodes)
        };
        let claims = context.view.nodes.subscribe(PartialEq::ne, bus());
        let confirmed = context.view.confirmed.subscribe(PartialEq::ne, bus());
        let reporting =
            Reporting::new(context.api.clone(), &context.config.node_name, context.metrics.clone());
        Ok(Self {
            claims,
            confirmed,
            known: Known::default(),
            records,
            unsaved: false,
            resolved: None,
            reporting,
            context,
        })
    }

    fn resolve(&mut self, fabric: Fabric) -> Outcome {
        let mut resolution = resolve(&fabric, &self.known.observed(&self.records), &self.records);
        let mut changes = Vec::new();
        if !resolution.records.same_claims(&self.records) {
            resolution.records.save(&self.context.paths.records()).map_err(Unmet::failed)?;
            (self.records, self.unsaved) = (std::mem::take(&mut resolution.records), false);
            changes.push("accepted records".to_owned());
        } else if resolution.records != self.records {
            // How a peer is reached may change often, and nothing has to wait for it.
            (self.records, self.unsaved) = (std::mem::take(&mut resolution.records), true);
        }
        (self.known.changed, self.resolved) = (false, Some(fabric));
        let refusals = resolution.refusals.iter().map(|refusal| (refusal.uid.clone(), refused(refusal)));
        self.reporting.report(&refusals.collect::<Vec<_>>());
        self.context.view.contested.set(std::mem::take(&mut resolution.contested));
        let missing = self.known.missing(&self.records).count();
        self.context.metrics.missing_nodes.set(i64::try_from(missing).unwrap_or(i64::MAX));
        self.publish(resolution);
        Ok(changes)
    }

    fn save_reach(&mut self) -> Result<(), Unmet> {
        if std::mem::take(&mut self.unsaved) {
            self.records
                .save(&self.context.paths.records())
                .inspect_err(|_| self.unsaved = true)
                .map_err(Unmet::failed)?;
        }
        Ok(())
    }

    fn publish(&self, resolution: Resolution) {
        let members = Members {
            addresses: resolution.addresses.into(),
            refused: resolution.refusals.iter().map(refused).collect(),
            peers: resolution.peers.into(),
        };
        let before = self.context.members.lock().replace(Arc::new(members.clone()));
        let differs =
            |same: fn(&Members, &Members) -> bool| before.as_ref().is_none_or(|it| !same(it, &members));
        if differs(|one, other| one.addresses == other.addresses) {
            self.context.bus.post(Trigger::MemberAddresses);
        }
        if differs(|one, other| one.peers == other.peers) {
            self.context.bus.post(Trigger::Peers);
        }
    }
}

impl Known {
    fn update(
        &mut self,
        claims: &Subscription<NodeClaims>,
        confirmed: &Subscription<Confirmed>,
        nodes: &Store<NodeClaims>,
        records: &Records,
    ) {
        for (key, object) in claims.take() {
            self.changed |= !self.waits(&key.name, object.as_ref().map(|object| &*object.value), records);
            if let Some(object) = object {
                self.claims.insert(key.name, object.value);
                continue;
            }
            self.claims.remove(&key.name);
            // A deletion that was reported acts at once; what a list lacks is remembered.
            if !nodes.is_missing(&key) {
                self.confirmed.remove(&key.name);
            }
        }
        for (key, object) in confirmed.take() {
            self.changed = true;
            match object {
                Some(object) => self.confirmed.insert(key.name, object.value),
                None => self.confirmed.remove(&key.name),
            };
        }
    }

    /// Whether this is a newcomer that can be believed only once it is confirmed, which is another change.
    fn waits(&self, name: &str, claims: Option<&NodeClaims>, records: &Records) -> bool {
        let confirmed = self.confirmed.get(name).map(|confirmed| &**confirmed);
        !self.claims.contains_key(name)
            && !records.nodes.contains_key(name)
            && claims.is_some_and(|claims| need(claims, confirmed) == Need::Now)
    }

    fn observed(&self, records: &Records) -> Vec<ObservedNode> {
        let observed = |(name, claims): (&String, &Arc<NodeClaims>)| ObservedNode {
            claims: Arc::clone(claims),
            confirmed: self.confirmed.get(name).cloned(),
        };
        self.claims.iter().map(observed).chain(self.missing(records)).collect()
    }

    /// The Nodes that have records and are not known to be deleted, although no list has them.
    fn missing(&self, records: &Records) -> impl Iterator<Item = ObservedNode> {
        let missing = self.confirmed.iter().filter(move |(name, _)| !self.claims.contains_key(*name));
        missing.filter_map(move |(name, confirmed)| {
            let record = records.nodes.get(name).filter(|record| record.uid == confirmed.uid)?;
            Some(ObservedNode::remembered(name, record, Arc::clone(confirmed)))
        })
    }
}

impl Controller for Mesh {
    async fn reconcile(&mut self, pending: Triggers) -> Outcome {
        if pending.has(Trigger::Resync) {
            self.save_reach()?;
        }
        let own = self.context.own()?;
        if !self.context.view.nodes.is_synced() {
            return Err(Unmet::waiting("the Nodes of the cluster have not been listed yet"));
        }
        if !self.context.view.confirmed.is_synced() {
            return Err(Unmet::waiting("the Nodes of the cluster have not been confirmed yet"));
        }
        self.known.update(&self.claims, &self.confirmed, &self.context.view.nodes, &self.records);
        let fabric = fabric(&self.context, &own)?;
        if !self.known.changed && self.resolved.as_ref() == Some(&fabric) {
            return Ok(Vec::new());
        }
        self.resolve(fabric)
    }
}

fn refused(refusal: &Refusal) -> Refused {
    Refused {
        node: refusal.node.clone(),
        reason: refusal.reason.label().to_owned(),
        message: refusal.reason.to_string(),
    }
}

fn fabric(context: &Context, own: &OwnNode) -> Result<Fabric, Unmet> {
    let has = |ipv4: bool| own.internal.iter().chain(&own.external).any(|address| address.is_ipv4() == ipv4);
    Ok(Fabric {
        own: OwnClaims {
            name: own.name.clone(),
            keys: context.keys.lock().all(),
            pod_cidrs: own.pod_cidrs.clone(),
            node_addresses: own.internal.clone(),
            location: context.config.location.clone(),
        },
        revoked: context.revoked()?,
        ranges: context.ranges(),
        ipv4: has(true),
        ipv6: has(false),
    })
}
