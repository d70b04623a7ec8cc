//! Decides whom to believe: from all Nodes and what was accepted before to this node's peers.
//!
//! A Node is believed about its own keys and endpoints, and about its pod prefixes and addresses once one GET has
//! confirmed them. What was accepted stays with its Node until that Node object is gone; who claims it second is
//! refused. Of new claims that contradict each other none is believed. The result depends on the arguments alone,
//! not on the order of the Nodes.

mod address;
mod candidate;
mod claim;
mod usable;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::annotation::{AnnotationError, Keys, NodeAnnotations};
use super::record::{Reach, Record, Records};
use super::refusal::{Reason, Refusal};
use super::revoked::Revoked;
use crate::config::ClusterRanges;
use crate::config::range;
use candidate::Candidate;
pub use usable::node_addresses;

/// Most epochs whose keys are remembered of a Node: the one in use, the next, and the last retired ones.
const MAX_EPOCHS: usize = 4;

/// Most earlier keys of a peer that may have sessions: the one that was in use, and a next one that was withdrawn.
const MAX_RETIRED: usize = 2;

/// What this node knows of itself and of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fabric {
    /// This node.
    pub own: OwnClaims,
    /// What operators have revoked: nobody is believed who claims it.
    pub revoked: Arc<Revoked>,
    /// The ranges of pods and Services.
    pub ranges: ClusterRanges,
    /// True when this node can reach IPv4 endpoints.
    pub ipv4: bool,
    /// True when this node can reach IPv6 endpoints.
    pub ipv6: bool,
}

/// This node itself; whatever it has, no peer can claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnClaims {
    /// Name of its Node object.
    pub name: String,
    /// All its public keys: of every epoch and lane.
    pub keys: Vec<PublicKey>,
    /// Its pod prefixes.
    pub pod_cidrs: Vec<IpNet>,
    /// Its addresses.
    pub node_addresses: Vec<IpAddr>,
    /// Its site or cloud.
    pub location: Option<String>,
}

/// What a Node publishes of itself, read once when its metadata arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeClaims {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its annotations; none when it is not a member of the fabric.
    pub published: Result<Option<NodeAnnotations>, Vec<AnnotationError>>,
}

impl NodeClaims {
    /// What the Node claims and only a GET of it can confirm.
    #[must_use]
    pub fn facts(&self) -> Facts {
        match &self.published {
            Ok(Some(published)) => Facts {
                pod_cidrs: published.pod_cidrs.clone(),
                node_addresses: published.node_addresses.clone(),
            },
            _ => Facts::default(),
        }
    }
}

/// A Node as it is known. This node's own may be among those given; it is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNode {
    /// What it publishes.
    pub claims: Arc<NodeClaims>,
    /// What the last GET of it showed, if there was one.
    pub confirmed: Option<Arc<Confirmed>>,
}

impl ObservedNode {
    /// A Node that a list lacks although nothing has reported it as deleted: it counts as if it still published what was
    /// accepted of it, so that its peer, its claims and its addresses stay.
    #[must_use]
    pub fn remembered(name: &str, record: &Record, confirmed: Arc<Confirmed>) -> Self {
        let keys = |epoch: u64| {
            let (public_key, lanes) = record.keys.get(&epoch)?.split_first()?;
            Some(Keys { public_key: *public_key, lanes: lanes.to_vec() })
        };
        let published = record.reach.as_ref().zip(keys(record.epoch)).map(|(reach, now)| NodeAnnotations {
            keys: now,
            next_keys: record.epoch.checked_add(1).and_then(keys),
            key_epoch: record.epoch,
            key_created: None,
            endpoints: reach.endpoints.clone(),
            pod_cidrs: record.pod_cidrs.clone(),
            node_addresses: record.node_addresses.clone(),
            location: reach.location.clone(),
            features: reach.features.clone(),
        });
        let claims = NodeClaims { name: name.to_owned(), uid: record.uid.clone(), published: Ok(published) };
        Self { claims: Arc::new(claims), confirmed: Some(confirmed) }
    }
}

/// What only a GET of a whole Node can confirm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// The internal addresses of `status.addresses`.
    pub node_addresses: Vec<IpAddr>,
}

impl Facts {
    /// Whether all of `claimed` is among these.
    #[must_use]
    pub fn cover(&self, claimed: &Self) -> bool {
        claimed.pod_cidrs.iter().all(|net| self.pod_cidrs.contains(net))
            && claimed.node_addresses.iter().all(|address| self.node_addresses.contains(address))
    }
}

/// What a GET of a whole Node showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// UID of the Node found.
    pub uid: String,
    /// What the Node claimed when it was asked for: for one claim it is asked once, and then refused. None when this is
    /// from a record of before.
    pub asked: Option<Facts>,
    /// What it showed.
    pub facts: Facts,
}

impl Confirmed {
    /// What was confirmed when `record` was written.
    #[must_use]
    pub fn from_record(record: &Record) -> Self {
        let facts =
            Facts { pod_cidrs: record.pod_cidrs.clone(), node_addresses: record.node_addresses.clone() };
        Self { uid: record.uid.clone(), asked: None, facts }
    }
}

/// Whether a Node has to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// What it claims is confirmed.
    Nothing,
    /// Nothing is known of it, or it claims something new.
    Now,
    /// It does not publish anything that its object would have to confirm, or what it publishes was refused: its object
    /// may still be filled in.
    Later,
}

/// Whether a GET of the Node is needed before what it claims can be believed.
#[must_use]
pub fn need(claims: &NodeClaims, confirmed: Option<&Confirmed>) -> Need {
    let Some(confirmed) = confirmed.filter(|confirmed| confirmed.uid == claims.uid) else { return Need::Now };
    let claimed = claims.facts();
    if claimed.pod_cidrs.is_empty() {
        return Need::Later;
    }
    match confirmed.facts.cover(&claimed) {
        true => Need::Nothing,
        false if confirmed.asked.as_ref() == Some(&claimed) => Need::Later,
        false => Need::Now,
    }
}

/// What is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The peers of this node, by name.
    pub peers: Vec<Peer>,
    /// Every address of every other Node, peer or refused, ascending: pods reach them through the tunnel or not at all.
    pub addresses: Vec<IpAddr>,
    /// Everything that is not believed, by Node name.
    pub refusals: Vec<Refusal>,
    /// Names of Nodes that wait for their confirmation (see [`need`]); until then what was believed before stays.
    pub confirm: Vec<String>,
    /// Names of Nodes that have what others claim, to be asked for again: a GET that does not show it any more frees it.
    pub contested: BTreeSet<String>,
    /// What is accepted now. Save it before the peers are put to use, if it is not what it was.
    pub records: Records,
}

/// Another node of the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Name of its Node.
    pub name: String,
    /// UID of its Node.
    pub uid: String,
    /// Its keys, ascending by epoch: the one in use and, while it rotates, the next.
    pub keys: Vec<PeerKeys>,
    /// The keys of lane 0 before these, with their epochs, newest first: there may be sessions on them. One may have been a next
    /// key that was never in use.
    pub retired: Vec<(u64, PublicKey)>,
    /// Endpoints of families that this node can reach, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its pod prefixes and those of its addresses that nobody else has, ascending.
    pub allowed_ips: Vec<IpNet>,
    /// Its site or cloud.
    pub location: Option<String>,
    /// What it says this node may rely on.
    pub features: Vec<String>,
}

/// A peer's keys of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerKeys {
    /// The epoch.
    pub epoch: u64,
    /// The keys.
    pub keys: Keys,
}

/// Decides whom to believe. `nodes` is every Node there is, those that a list lacks as [`ObservedNode::remembered`]: the
/// records of Nodes that are not given are forgotten. Given the records of its own result it changes nothing any more. Takes
/// time in n log n for n Nodes, once more for each link of the longest chain in which one Node takes what another gives up.
#[must_use]
pub fn resolve(fabric: &Fabric, nodes: &[ObservedNode], records: &Records) -> Resolution {
    let mut resolution = pass(fabric, nodes, records);
    // Who is refused may have waited for what another gave up. Without a refusal nobody waits.
    if resolution.refusals.is_empty() || resolution.records == *records {
        return resolution;
    }
    // A Node accepted with all that it claims stays so; each further pass can only let in those who waited for that.
    for _ in nodes {
        let settled = pass(fabric, nodes, &resolution.records);
        let before = std::mem::replace(&mut resolution, settled);
        if resolution.records == before.records {
            break;
        }
    }
    resolution
}

/// As [`resolve`], but what a Node gives up is free only in the next pass.
fn pass(fabric: &Fabric, nodes: &[ObservedNode], records: &Records) -> Resolution {
    let mut resolution = Resolution::default();
    let nodes = others(fabric, nodes, &mut resolution.refusals);
    let standing = present(&nodes, records);
    let known: BTreeMap<&str, &Record> = standing.iter().map(|(name, record)| (*name, &**record)).collect();
    let candidates: Vec<_> = nodes
        .values()
        .filter_map(|node| {
            candidate::read(fabric, node, known.get(node.claims.name.as_str()).copied(), &mut resolution)
        })
        .collect();
    let accepted = claim::settle(fabric, candidates, &known, &mut resolution.refusals);
    let held = address::settle(fabric, &accepted, &known, &mut resolution.refusals);
    let kept = |record: &Record| Record { reach: None, ..record.clone() };
    resolution.records.nodes =
        known.iter().map(|(name, record)| ((*name).to_owned(), kept(record))).collect();
    for candidate in accepted {
        let held = held.get(candidate.name()).cloned().unwrap_or_default();
        resolution.peers.push(peer(fabric, &candidate, &held));
        resolution.records.nodes.insert(candidate.name().to_owned(), record(&candidate, held));
    }
    claim::release(&mut resolution.records.nodes);
    for peer in &mut resolution.peers {
        let record = resolution.records.nodes.get(&peer.name);
        peer.retired = record.map(|record| retired(fabric, record, &peer.keys)).unwrap_or_default();
    }
    resolution.addresses = address::members(fabric, &nodes, &resolution.records.nodes);
    resolution.refusals.sort_by(|one, other| one.node.cmp(&other.node));
    resolution.contested = contested(&nodes, &resolution);
    resolution
}

/// Why other nodes would refuse `endpoint`, None if they would not. For this node to publish none of those.
#[must_use]
pub fn endpoint_problem(ranges: &ClusterRanges, endpoint: SocketAddr) -> Option<&'static str> {
    let port = (endpoint.port() == 0).then_some("no port");
    let special = range::special(endpoint.ip());
    port.or(special).or_else(|| ranges.contains(endpoint.ip()).then_some("pod or Service"))
}

/// The epoch that this node's own Node already shows with other keys than `keys` at `epoch`, or above it: then
/// the key store was lost or is an old copy, and other nodes refuse these keys. The remedy is
/// [`KeyStore::supersede`](selvedge_keys::KeyStore::supersede) with that epoch.
#[must_use]
pub fn superseded(published: &NodeAnnotations, epoch: u64, keys: &Keys) -> Option<u64> {
    let other = published.key_epoch == epoch && published.keys != *keys;
    (published.key_epoch > epoch || other).then_some(published.key_epoch)
}

/// All Nodes but this one, by name; of those that share a name none.
fn others<'a>(
    fabric: &Fabric,
    nodes: &'a [ObservedNode],
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<&'a str, &'a ObservedNode> {
    let mut by_name: BTreeMap<&str, &ObservedNode> = BTreeMap::new();
    let mut repeated = BTreeSet::new();
    for node in nodes.iter().filter(|node| node.claims.name != fabric.own.name) {
        if by_name.insert(&node.claims.name, node).is_some() {
            repeated.insert(node.claims.name.as_str());
        }
    }
    for name in repeated {
        by_name.remove(name);
        refusals.push(Refusal {
            node: name.to_owned(),
            uid: String::new(),
            reason: Reason::RepeatedName,
            no_peer: true,
        });
    }
    by_name
}

/// The records of Nodes that are still there, not as another object of the same name, as far as they stand.
fn present<'a>(
    nodes: &BTreeMap<&'a str, &'a ObservedNode>,
    records: &'a Records,
) -> BTreeMap<&'a str, Cow<'a, Record>> {
    let same = |(name, node): (&&'a str, &&'a ObservedNode)| {
        let record = records.nodes.get(*name).filter(|record| record.uid == node.claims.uid)?;
        Some((*name, standing(record, node.confirmed.as_deref())))
    };
    nodes.iter().filter_map(same).collect()
}

/// The record without prefixes and addresses that the last GET no longer showed: those are free, whatever the Node publishes.
fn standing<'a>(record: &'a Record, confirmed: Option<&Confirmed>) -> Cow<'a, Record> {
    let answer = confirmed.filter(|answer| answer.uid == record.uid && answer.asked.is_some());
    let Some(facts) = answer.map(|answer| &answer.facts) else { return Cow::Borrowed(record) };
    if facts.cover(&Confirmed::from_record(record).facts) {
        return Cow::Borrowed(record);
    }
    let mut record = record.clone();
    record.pod_cidrs.retain(|net| facts.pod_cidrs.contains(net));
    record.node_addresses.retain(|address| facts.node_addresses.contains(address));
    record.held_addresses.retain(|address| facts.node_addresses.contains(address));
    Cow::Owned(record)
}

/// Nodes that have what another claims or, without publishing anything, has: their objects may not show it any more.
fn contested(nodes: &BTreeMap<&str, &ObservedNode>, resolution: &Resolution) -> BTreeSet<String> {
    let mut contested: BTreeSet<String> =
        resolution.refusals.iter().filter_map(|refusal| refusal.reason.other()).map(str::to_owned).collect();
    let records = resolution.records.nodes.iter();
    let holders: BTreeMap<IpAddr, &String> = records
        .flat_map(|(name, record)| record.held_addresses.iter().map(move |address| (*address, name)))
        .collect();
    let silent = nodes.values().filter(|node| matches!(node.claims.published, Ok(None)));
    for node in silent {
        let seen = node.confirmed.iter().filter(|confirmed| confirmed.asked.is_some());
        for address in seen.flat_map(|confirmed| &confirmed.facts.node_addresses) {
            let holder = holders.get(address).filter(|holder| ***holder != node.claims.name);
            contested.extend(holder.map(|holder| (*holder).clone()));
        }
    }
    contested
}

/// The newest keys before `keys`, without those that are among them or revoked.
fn retired(fabric: &Fabric, record: &Record, keys: &[PeerKeys]) -> Vec<(u64, PublicKey)> {
    let first = keys.first().map_or(0, |keys| keys.epoch);
    let is_used = |key: PublicKey| keys.iter().any(|keys| keys.keys.iter().any(|used| used == key));
    let before = record.keys.range(..first).rev();
    let before = before.filter_map(|(epoch, keys)| Some((*epoch, *keys.first()?)));
    before.filter(|(_, key)| !is_used(*key) && !fabric.revoked.has(key)).take(MAX_RETIRED).collect()
}

fn peer(fabric: &Fabric, candidate: &Candidate<'_>, held: &[IpAddr]) -> Peer {
    let mut allowed_ips = candidate.pod_cidrs.clone();
    allowed_ips.extend(held.iter().map(|address| IpNet::from(*address)));
    allowed_ips.sort_unstable();
    Peer {
        name: candidate.name().to_owned(),
        uid: candidate.node.claims.uid.clone(),
        keys: candidate.keys.clone(),
        retired: Vec::new(),
        endpoints: endpoints(fabric, candidate.annotations),
        allowed_ips,
        location: candidate.annotations.location.clone(),
        features: candidate.annotations.features.clone(),
    }
}

/// As published, but to another location the private addresses come last.
fn endpoints(fabric: &Fabric, node: &NodeAnnotations) -> Vec<SocketAddr> {
    let reachable = |endpoint: &&SocketAddr| if endpoint.is_ipv4() { fabric.ipv4 } else { fabric.ipv6 };
    let mut endpoints: Vec<_> = node.endpoints.iter().filter(reachable).copied().collect();
    if node.location != fabric.own.location {
        endpoints.sort_by_key(|endpoint| is_private(endpoint.ip()));
    }
    endpoints
}

/// RFC 1918, RFC 6598 and RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

fn record(candidate: &Candidate<'_>, held_addresses: Vec<IpAddr>) -> Record {
    let mut keys = candidate.record.map(|record| record.keys.clone()).unwrap_or_default();
    let last = candidate.keys.last().map_or(0, |keys| keys.epoch);
    keys.retain(|epoch, _| *epoch <= last);
    keys.extend(candidate.keys.iter().map(|keys| (keys.epoch, keys.keys.iter().collect())));
    while keys.len() > MAX_EPOCHS {
        keys.pop_first();
    }
    Record {
        uid: candidate.node.claims.uid.clone(),
        epoch: candidate.keys.first().map_or(0, |keys| keys.epoch),
        keys,
        pod_cidrs: candidate.pod_cidrs.clone(),
        node_addresses: candidate.node_addresses.clone(),
        held_addresses,
        reach: Some(Reach {
            endpoints: candidate.annotations.endpoints.clone(),
            location: candidate.annotations.location.clone(),
            features: candidate.annotations.features.clone(),
        }),
    }
}

#[cfg(test)]
mod tests;
