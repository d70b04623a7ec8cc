//! The Nodes of a large cluster: each a member of the fabric with keys, pod CIDRs and addresses of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use selvedge::mesh::annotation::{ENDPOINTS, Keys, NodeAnnotations, render};
use selvedge_keys::PrivateKey;
use serde_json::Value;

use crate::plan::NodePlan;

/// Limit of members: the number of /24 between the start of a large cluster's pod range and the pod CIDRs of the lab's
/// nodes.
pub(super) const MOST: u32 = (244 - 128) << 8;
/// UDP port of every member until it changes its endpoints.
const PORT: u16 = 51830;

/// One Node.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) pod_cidrs: Vec<IpNet>,
    /// Those under `selvedge.dev/`; empty before its agent has published them.
    pub(super) annotations: BTreeMap<String, String>,
}

impl Member {
    /// The member with this number, below [`MOST`]. Deterministic; keys, prefixes and addresses differ between members.
    pub(super) fn new(number: u32) -> Self {
        let [v4, v6] = addresses(number);
        let mut member = Self {
            name: format!("worker-{number:05}.example.internal"),
            addresses: vec![v4, v6],
            pod_cidrs: pod_cidrs(number),
            annotations: BTreeMap::new(),
        };
        member.annotations = render(&NodeAnnotations {
            keys: Keys { public_key: private_key(number).public_key(), lanes: Vec::new() },
            next_keys: None,
            key_epoch: 1,
            key_created: Timestamp::from_second(1_760_000_000 + i64::from(number)).ok(),
            endpoints: member.endpoints(PORT),
            pod_cidrs: member.pod_cidrs.clone(),
            node_addresses: member.addresses.clone(),
            location: None,
            features: Vec::new(),
        });
        member
    }

    /// The node under test, before its agent has published anything.
    pub(super) fn of(node: &NodePlan) -> Self {
        Self {
            name: node.name.clone(),
            addresses: node.cable.addresses(),
            pod_cidrs: node.pod_cidrs.clone(),
            annotations: BTreeMap::new(),
        }
    }

    /// Its endpoints when it listens on `port`.
    pub(super) fn endpoints(&self, port: u16) -> Vec<SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
    }

    /// The merge patch that publishes these endpoints.
    pub(super) fn moved(&self, port: u16) -> Value {
        let endpoints: Vec<String> = self.endpoints(port).iter().map(ToString::to_string).collect();
        serde_json::json!({"metadata": {"annotations": {ENDPOINTS: endpoints.join(",")}}})
    }
}

/// A key derived from the number.
fn private_key(number: u32) -> PrivateKey {
    let mut bytes = [0x5e; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_bytes(bytes)
}

/// 172.20.1.0 + number and fd00:172:20::1 + number.
fn addresses(number: u32) -> [IpAddr; 2] {
    let v4 = u32::from(Ipv4Addr::new(172, 20, 1, 0)) + number;
    let v6 = u128::from(Ipv6Addr::new(0xfd00, 0x172, 0x20, 0, 0, 0, 0, 1)) + u128::from(number);
    [Ipv4Addr::from(v4).into(), Ipv6Addr::from(v6).into()]
}

/// The /24 and the /64 with this number, from 10.128.0.0 and fd00:10:240:: on.
fn pod_cidrs(number: u32) -> Vec<IpNet> {
    let v4 = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + (number << 8);
    let v6 = u128::from(Ipv6Addr::new(0xfd00, 0x10, 0x240, 0, 0, 0, 0, 0)) + (u128::from(number) << 64);
    vec![Ipv4Net::new_assert(v4.into(), 24).into(), Ipv6Net::new_assert(v6.into(), 64).into()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use selvedge::mesh::annotation::parse;

    use super::*;
    use crate::plan::{Families, Plan};

    #[test]
    fn members_fit_the_address_plan() {
        let plan = Plan { large: true, ..Plan::new(Families::Dual, 1) };
        let own = plan.node_plans().remove(0);
        let cluster = plan.cluster_pod_cidrs();
        for number in [0, 1, 255, 256, 4_999, MOST - 1] {
            let member = Member::new(number);
            let published = parse(&member.annotations).unwrap().unwrap();
            assert_eq!(published.pod_cidrs, member.pod_cidrs);
            assert_eq!(published.endpoints, member.endpoints(PORT));
            for cidr in &member.pod_cidrs {
                assert!(cluster.iter().any(|range| range.contains(cidr)), "{cidr}");
                assert!(own.pod_cidrs.iter().all(|other| !other.contains(cidr)), "{cidr}");
            }
            for address in &member.addresses {
                let ranges =
                    [plan.cluster_pod_cidrs(), plan.service_cidrs(), own.cable.host.clone()].concat();
                assert!(ranges.iter().all(|range| !range.contains(address)), "{address}");
            }
        }
    }

    #[test]
    fn members_share_no_value() {
        let mut texts = BTreeSet::new();
        for number in 0..600 {
            let member = Member::new(number);
            let own = member.annotations.iter().filter(|(name, _)| !name.ends_with("key-epoch"));
            assert!(own.map(|(_, text)| text.clone()).all(|text| texts.insert(text)), "{member:?}");
        }
    }
}
