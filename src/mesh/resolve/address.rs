//! Whose a node address is if more than one Node has it, because two clouds may use the same private ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::candidate::Candidate;
use super::usable::node_addresses;
use super::{Fabric, ObservedNode, Reason, Record, Refusal};
use crate::mesh::annotation::MAX_NODE_ADDRESSES;

/// Every address of every other Node, peer or refused, ascending: pods reach them through the tunnel or not at all. This
/// node's own addresses are not among them, whoever claims them.
pub(super) fn members(
    fabric: &Fabric,
    nodes: &BTreeMap<&str, &ObservedNode>,
    records: &BTreeMap<String, Record>,
) -> Vec<IpAddr> {
    let mut by_node: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    // Accepted addresses first, so that the bound never leaves out what a peer is believed to have.
    for (name, record) in records {
        by_node.insert(name, node_addresses(&fabric.ranges, record.node_addresses.iter().copied()));
    }
    for (name, node) in nodes {
        let confirmed =
            node.confirmed.iter().flat_map(|confirmed| confirmed.facts.node_addresses.iter().copied());
        let of_node = by_node.entry(name).or_default();
        of_node.extend(node_addresses(&fabric.ranges, confirmed));
    }
    let bounded = by_node.into_values().flat_map(|mut of_node| {
        let mut seen = BTreeSet::new();
        of_node.retain(|address| seen.insert(*address));
        of_node.into_iter().take(MAX_NODE_ADDRESSES)
    });
    let mut addresses: BTreeSet<IpAddr> = bounded.collect();
    for own in &fabric.own.node_addresses {
        addresses.remove(own);
    }
    addresses.into_iter().collect()
}

/// Which addresses are a Node's and nobody else's, by its name, ascending; refusals for the others.
pub(super) fn settle(
    fabric: &Fabric,
    accepted: &[Candidate<'_>],
    known: &BTreeMap<&str, &Record>,
    refusals: &mut Vec<Refusal>,
) -> BTreeMap<String, Vec<IpAddr>> {
    let own = fabric.own.location.as_deref();
    let mut held: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for (address, claims) in claims(fabric, accepted, known) {
        let winner = winner(&claims, own);
        for claim in &claims {
            let Some(candidate) = claim.candidate else { continue };
            if winner.is_some_and(|winner| winner.name == claim.name) {
                held.entry(claim.name.to_owned()).or_default().push(address);
                continue;
            }
            // That the own location comes first is as it should be, and nothing to report.
            if winner.is_none_or(|winner| winner.location == claim.location) {
                let other = winner.or_else(|| claims.iter().find(|other| other.name != claim.name));
                let other = other.map(|other| other.name.to_owned()).unwrap_or_default();
                refusals.push(candidate.refusal(Reason::AddressShared { address, other }, false));
            }
        }
    }
    held
}

/// A Node that has an address.
struct Claim<'a> {
    name: &'a str,
    location: Option<&'a str>,
    /// True when the address was accepted as this Node's before.
    held: bool,
    /// None for this node itself, and for a Node that is no peer now but whose claim stays.
    candidate: Option<&'a Candidate<'a>>,
}

fn claims<'a>(
    fabric: &'a Fabric,
    accepted: &'a [Candidate<'a>],
    known: &BTreeMap<&'a str, &'a Record>,
) -> BTreeMap<IpAddr, Vec<Claim<'a>>> {
    let own = fabric.own.location.as_deref();
    let mut claims: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for address in &fabric.own.node_addresses {
        let claim = Claim { name: &fabric.own.name, location: own, held: true, candidate: None };
        claims.entry(*address).or_default().push(claim);
    }
    let mut absent = known.clone();
    for candidate in accepted {
        absent.remove(candidate.name());
        for address in &candidate.node_addresses {
            let held = candidate.record.is_some_and(|record| record.held_addresses.contains(address));
            let location = candidate.annotations.location.as_deref();
            let claim = Claim { name: candidate.name(), location, held, candidate: Some(candidate) };
            claims.entry(*address).or_default().push(claim);
        }
    }
    for (name, record) in absent {
        for address in &record.held_addresses {
            let claim = Claim { name, location: own, held: true, candidate: None };
            claims.entry(*address).or_default().push(claim);
        }
    }
    claims
}

/// Of the claims from one location, the own one if it has any, the only one, or the only one held before. None
/// when other locations contradict each other: then nobody can tell which is meant.
fn winner<'a, 'b>(claims: &'b [Claim<'a>], own: Option<&str>) -> Option<&'b Claim<'a>> {
    let near = claims.iter().any(|claim| claim.location == own);
    let location = if near { own } else { claims.first()?.location };
    if !near && claims.iter().any(|claim| claim.location != location) {
        return None;
    }
    let group = || claims.iter().filter(|claim| claim.location == location);
    only(group()).or_else(|| only(group().filter(|claim| claim.held)))
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}
