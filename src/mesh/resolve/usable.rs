//! Which addresses a node can have at all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{ClusterRanges, range};
use crate::mesh::annotation::MAX_NODE_ADDRESSES;

/// Those of `given` that can be the addresses of one node, ascending: not in a special range, not a pod's or a Service's,
/// and at most [`MAX_NODE_ADDRESSES`]. The one judgement for what a node publishes and for what others take from it.
#[must_use]
pub fn node_addresses(ranges: &ClusterRanges, given: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let usable = |address: &IpAddr| range::special(*address).is_none() && !ranges.contains(*address);
    let addresses: BTreeSet<IpAddr> = given.into_iter().filter(usable).collect();
    addresses.into_iter().take(MAX_NODE_ADDRESSES).collect()
}
