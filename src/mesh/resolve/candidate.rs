//! One Node by itself: what it publishes, checked against the cluster's ranges and its own record.

use std::net::IpAddr;

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::usable::node_addresses;
use super::{Fabric, ObservedNode, PeerKeys, Reason, Record, Refusal, Resolution};
use crate::mesh::annotation::{Keys, NodeAnnotations};

/// A Node about which everything but other Nodes' claims speaks for believing it.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) node: &'a ObservedNode,
    pub(super) annotations: &'a NodeAnnotations,
    pub(super) record: Option<&'a Record>,
    /// Ascending by epoch.
    pub(super) keys: Vec<PeerKeys>,
    /// Confirmed, ascending.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// Confirmed and usable ([`node_addresses`](super::node_addresses)), ascending.
    pub(super) node_addresses: Vec<IpAddr>,
}

impl Candidate<'_> {
    /// Nothing of its prefixes is confirmed yet: it counts among the claimants of its keys, and is no peer.
    pub(super) fn waits(&self) -> bool {
        self.pod_cidrs.is_empty()
    }

    /// The key of lane 0 in the epoch in use. There is always one: `read` puts it first.
    pub(super) fn main(&self) -> PublicKey {
        self.keys[0].keys.public_key
    }

    pub(super) fn name(&self) -> &str {
        &self.node.claims.name
    }

    pub(super) fn refusal(&self, reason: Reason, no_peer: bool) -> Refusal {
        refusal(self.node, reason, no_peer)
    }
}

/// None when the Node is no member, has no pod CIDR yet, or is refused; the last with a refusal noted.
pub(super) fn read<'a>(
    fabric: &Fabric,
    node: &'a ObservedNode,
    record: Option<&'a Record>,
    resolution: &mut Resolution,
) -> Option<Candidate<'a>> {
    let published = node.claims.published.as_ref();
    let checked = published.map_err(|errors| Reason::Malformed(errors.clone())).and_then(|annotations| {
        let Some(annotations) = annotations else { return Ok(None) };
        unrevoked(fabric, node, annotations)?;
        endpoints(fabric, annotations)?;
        inside(fabric, &annotations.pod_cidrs)?;
        epoch(annotations, record)?;
        let cidrs = pod_cidrs(node, annotations, record)?;
        inside(fabric, &cidrs.believed)?;
        Ok(Some((annotations, cidrs)))
    });
    let (annotations, cidrs) = match checked {
        Ok(checked) => checked?,
        Err(reason) => {
            resolution.refusals.push(refusal(node, reason, true));
            return None;
        }
    };
    if annotations.pod_cidrs.is_empty() {
        return None;
    }
    let known = known_addresses(fabric, record);
    let (inside, claimed): (Vec<IpAddr>, Vec<IpAddr>) =
        annotations.node_addresses.iter().partition(|address| fabric.ranges.contains(**address));
    let addresses = confirmed_addresses(node, &claimed, &known);
    if !cidrs.sure || addresses.as_ref().is_ok_and(|addresses| !addresses.sure) {
        resolution.confirm.push(node.claims.name.clone());
    }
    let mut note = |reason| resolution.refusals.push(refusal(node, reason, false));
    let node_addresses = match addresses {
        Ok(addresses) => addresses.believed,
        Err(reason) => {
            note(reason);
            known
        }
    };
    inside.into_iter().for_each(|address| note(Reason::AddressInside(address)));
    let mut keys = keys(annotations);
    if let Some(key) = keys.iter().skip(1).find_map(|next| revoked(fabric, &next.keys)) {
        note(Reason::KeyRevoked(key));
        keys.truncate(1);
    }
    let pod_cidrs = cidrs.believed;
    Some(Candidate { node, keys, annotations, record, pod_cidrs, node_addresses })
}

/// Neither the Node nor a key that it uses now is revoked.
fn unrevoked(fabric: &Fabric, node: &ObservedNode, annotations: &NodeAnnotations) -> Result<(), Reason> {
    if let Some((_, bar)) = fabric.revoked.bar(&node.claims.uid) {
        return Err(Reason::Barred { node: bar.node.clone(), by: bar.by.clone() });
    }
    revoked(fabric, &annotations.keys).map_or(Ok(()), |key| Err(Reason::KeyRevoked(key)))
}

fn revoked(fabric: &Fabric, keys: &Keys) -> Option<PublicKey> {
    keys.iter().find(|key| fabric.revoked.has(key))
}

/// Something that only a GET of the Node can confirm.
struct Fact<T> {
    /// What is claimed if that is sure, else what was believed before.
    believed: Vec<T>,
    /// False when a GET is needed.
    sure: bool,
}

fn endpoints(fabric: &Fabric, annotations: &NodeAnnotations) -> Result<(), Reason> {
    match annotations.endpoints.iter().find(|endpoint| fabric.ranges.contains(endpoint.ip())) {
        Some(endpoint) => Err(Reason::EndpointInside(*endpoint)),
        None => Ok(()),
    }
}

fn inside(fabric: &Fabric, pod_cidrs: &[IpNet]) -> Result<(), Reason> {
    match pod_cidrs.iter().find(|net| !fabric.ranges.hold_pods(net)) {
        Some(net) => Err(Reason::CidrOutside(*net)),
        None => Ok(()),
    }
}

fn epoch(annotations: &NodeAnnotations, record: Option<&Record>) -> Result<(), Reason> {
    let claimed = annotations.key_epoch;
    let Some(record) = record else { return Ok(()) };
    if claimed < record.epoch {
        return Err(Reason::EpochBack { claimed, accepted: record.epoch });
    }
    let accepted = record.keys.get(&claimed).filter(|_| claimed == record.epoch);
    // Lanes that were not believed are not in the record, and still published.
    let same = |keys: &Vec<PublicKey>| {
        keys.first() == Some(&annotations.keys.public_key)
            && keys.iter().skip(1).all(|key| annotations.keys.lanes.contains(key))
    };
    if accepted.is_some_and(|keys| !same(keys)) {
        return Err(Reason::EpochReused(claimed));
    }
    Ok(())
}

fn pod_cidrs(
    node: &ObservedNode,
    annotations: &NodeAnnotations,
    record: Option<&Record>,
) -> Result<Fact<IpNet>, Reason> {
    let known = record.map(|record| record.pod_cidrs.clone()).unwrap_or_default();
    let confirmed = node.confirmed.as_ref().map(|confirmed| confirmed.facts.pod_cidrs.as_slice());
    fact(node, &annotations.pod_cidrs, known, confirmed).map_err(Reason::CidrsUnconfirmed)
}

fn confirmed_addresses(
    node: &ObservedNode,
    claimed: &[IpAddr],
    known: &[IpAddr],
) -> Result<Fact<IpAddr>, Reason> {
    let confirmed = node.confirmed.as_ref().map(|confirmed| confirmed.facts.node_addresses.as_slice());
    fact(node, claimed, known.to_vec(), confirmed).map_err(Reason::AddressesUnconfirmed)
}

/// The ranges may be others than when the record was written.
fn known_addresses(fabric: &Fabric, record: Option<&Record>) -> Vec<IpAddr> {
    let known = record.map(|record| record.node_addresses.as_slice()).unwrap_or_default();
    node_addresses(&fabric.ranges, known.iter().copied())
}

/// Believes `claimed` if each of it was `known` before, and no GET has found it gone since, or is `confirmed`. The error is
/// what is in neither.
fn fact<T: Copy + PartialEq>(
    node: &ObservedNode,
    claimed: &[T],
    known: Vec<T>,
    confirmed: Option<&[T]>,
) -> Result<Fact<T>, Vec<T>> {
    let asked = node.confirmed.as_ref().filter(|answer| answer.uid == node.claims.uid);
    let confirmed = confirmed.filter(|_| asked.is_some()).unwrap_or_default();
    let missing = |set: &[T]| claimed.iter().filter(|item| !set.contains(item)).copied().collect::<Vec<_>>();
    let unconfirmed = missing(confirmed);
    if missing(&known).is_empty() || unconfirmed.is_empty() {
        return Ok(Fact { believed: claimed.to_vec(), sure: true });
    }
    match asked.is_some_and(|answer| answer.asked.as_ref() == Some(&node.claims.facts())) {
        true => Err(unconfirmed),
        false => Ok(Fact { believed: known, sure: false }),
    }
}

fn keys(annotations: &NodeAnnotations) -> Vec<PeerKeys> {
    let now = PeerKeys { epoch: annotations.key_epoch, keys: annotations.keys.clone() };
    // `parse` refuses a next key when there is no epoch after this one.
    let next = annotations.next_keys.clone().zip(annotations.key_epoch.checked_add(1));
    std::iter::once(now).chain(next.map(|(keys, epoch)| PeerKeys { epoch, keys })).collect()
}

fn refusal(node: &ObservedNode, reason: Reason, no_peer: bool) -> Refusal {
    Refusal { node: node.claims.name.clone(), uid: node.claims.uid.clone(), reason, no_peer }
}
