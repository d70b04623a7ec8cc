//! Which addresses a lab has: pure arithmetic, the same for every lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Most nodes a lab can have; the third byte of an underlay address is the node's number.
pub const MOST_NODES: usize = 64;
/// MTU of the links between nodes, in bytes.
pub const UNDERLAY_MTU: u32 = 1500;
/// MTU of the link to the internet: smaller than what pods send, so that path MTU discovery has work to do.
pub const INTERNET_MTU: u32 = 1400;
/// MTU of pods and tunnel.
pub const POD_MTU: u32 = UNDERLAY_MTU - 80;
/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// TCP port of the flow that is meant to be plaintext: captures look at its headers alone.
pub const PLAIN_PORT: u16 = 5201;
/// Ports of the server on the internet.
pub const INTERNET_PORTS: [u16; 2] = [80, 8080];
/// Ports of the server on every node, in the node's own network.
pub const HOST_PORTS: [u16; 2] = [9080, PLAIN_PORT];

const CONTROL: u8 = 250;
const OUTSIDE: u8 = 251;
/// Name of the machine that the control plane of a real Kubernetes is on when that is no node.
pub const OUTSIDE_NAME: &str = "outside";

/// Address families of a lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Families {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both; IPv4 comes first.
    Dual,
}

/// One of the two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Families {
    /// The families, the first one first.
    #[must_use]
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::V4],
            Self::Ipv6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    /// The first of `addresses` that is of this family.
    #[must_use]
    pub fn pick(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().copied().find(|address| Self::of(*address) == self)
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A cable between the router and something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cable {
    /// Name of the router's end, and of the link in captures.
    pub name: String,
    /// The router's addresses on it.
    pub router: Vec<IpNet>,
    /// The other end's.
    pub host: Vec<IpNet>,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

impl Cable {
    /// The host's addresses, without prefix length.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.host.iter().map(IpNet::addr).collect()
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// Its name, `node1` and so on.
    pub name: String,
    /// Its cable; the node's own address on it is its InternalIP.
    pub cable: Cable,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// The whole lab.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Its families.
    pub families: Families,
    /// How many nodes.
    pub nodes: usize,
    /// How pods are wired.
    pub datapath: Datapath,
    /// The control plane of a real Kubernetes is on a machine of its own, which is no node.
    pub outside: bool,
    /// The ranges of pods have room for thousands of nodes, beside the few that the lab itself has.
    pub large: bool,
}

/// How pods are wired to their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Datapath {
    /// As ports of a bridge
    #[default]
    Bridge,
    /// Without a bridge
    Routed,
}

impl std::fmt::Display for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Routed => "routed",
        })
    }
}

impl Plan {
    /// With the usual wiring.
    #[must_use]
    pub fn new(families: Families, nodes: usize) -> Self {
        Self { families, nodes, datapath: Datapath::default(), outside: false, large: false }
    }

    /// `clusterPodCIDRs`.
    #[must_use]
    pub fn cluster_pod_cidrs(&self) -> Vec<IpNet> {
        if self.large {
            return self.both(v4([10, 128, 0, 0], 9), v6([0xfd00, 0x10, 0x240, 0, 0, 0, 0, 0], 44));
        }
        self.both(v4([10, 244, 0, 0], 16), v6([0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0], 56))
    }

    /// `serviceCIDRs`.
    #[must_use]
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        self.both(v4([10, 96, 0, 0], 16), v6([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0], 112))
    }

    /// All nodes.
    #[must_use]
    pub fn node_plans(&self) -> Vec<NodePlan> {
        (1..=self.nodes.min(MOST_NODES))
            .filter_map(|number| u8::try_from(number).ok())
            .map(|n| self.node(n))
            .collect()
    }

    fn node(&self, number: u8) -> NodePlan {
        let (name, wide) = (format!("node{number}"), u16::from(number));
        let pod_cidrs =
            self.both(v4([10, 244, number, 0], 24), v6([0xfd00, 0x10, 0x244, wide, 0, 0, 0, 0], 64));
        NodePlan { cable: self.inside(&name, number), name, pod_cidrs }
    }

    /// The control plane's cable; the API server listens at its end.
    #[must_use]
    pub fn control(&self) -> Cable {
        self.inside("control", CONTROL)
    }

    /// The cable to the internet.
    #[must_use]
    pub fn internet(&self) -> Cable {
        let ends = |host: u8| {
            let wide = [0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, u16::from(host)];
            self.both(v4([203, 0, 113, host], 24), v6(wide, 64))
        };
        Cable { name: "internet".into(), router: ends(1), host: ends(2), mtu: INTERNET_MTU }
    }

    /// All cables: the nodes', that of a control plane outside, the lab's own and that to the internet.
    #[must_use]
    pub fn cables(&self) -> Vec<Cable> {
        let nodes = self.node_plans().into_iter().map(|node| node.cable);
        nodes.chain(self.outside()).chain([self.control(), self.internet()]).collect()
    }

    /// The cable of a control plane that is outside.
    #[must_use]
    pub fn outside(&self) -> Option<Cable> {
        self.outside.then(|| self.inside(OUTSIDE_NAME, OUTSIDE))
    }

    /// `trustedSources`: who may speak to pods from outside the fabric.
    #[must_use]
    pub fn trusted_sources(&self) -> Vec<IpAddr> {
        self.outside().map(|cable| cable.addresses()).unwrap_or_default()
    }

    /// Where nodes find the API server.
    #[must_use]
    pub fn api(&self) -> SocketAddr {
        let address = self.control().addresses().first().copied();
        SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), API_PORT)
    }

    fn inside(&self, name: &str, net: u8) -> Cable {
        let ends = |host: u8| {
            let wide = [0xfd00, 0x172, 0x31, u16::from(net), 0, 0, 0, u16::from(host)];
            self.both(v4([172, 31, net, host], 24), v6(wide, 64))
        };
        Cable { name: name.to_owned(), router: ends(1), host: ends(2), mtu: UNDERLAY_MTU }
    }

    fn both(&self, v4: IpNet, v6: IpNet) -> Vec<IpNet> {
        let families = self.families.each().iter();
        families.map(|family| if *family == Family::V4 { v4 } else { v6 }).collect()
    }
}

fn v4(octets: [u8; 4], length: u8) -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::from(octets), length).into()
}

fn v6(segments: [u16; 8], length: u8) -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::from(segments), length).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps() {
        for large in [false, true] {
            nothing_overlaps_in(Plan { outside: true, large, ..Plan::new(Families::Dual, MOST_NODES) });
        }
    }

    fn nothing_overlaps_in(plan: Plan) {
        let nodes = plan.node_plans();
        let cables = plan.cables();
        let mut nets: Vec<IpNet> =
            cables.iter().flat_map(|cable| cable.host.clone()).map(|net| net.trunc()).collect();
        nets.extend(plan.cluster_pod_cidrs());
        nets.extend(plan.service_cidrs());
        for (at, one) in nets.iter().enumerate() {
            assert!(nets[at + 1..].iter().all(|other| !other.contains(one) && !one.contains(other)), "{one}");
        }
        assert_eq!(nodes.len(), MOST_NODES);
        for (at, node) in nodes.iter().enumerate() {
            for cidr in &node.pod_cidrs {
                assert!(plan.cluster_pod_cidrs().iter().any(|cluster| cluster.contains(cidr)), "{cidr}");
                assert!(nodes[at + 1..].iter().all(|other| !other.pod_cidrs.contains(cidr)), "{cidr}");
            }
        }
    }

    #[test]
    fn one_family_has_no_address_of_the_other() {
        let plan = Plan::new(Families::Ipv6, 1);
        let node = plan.node_plans().remove(0);
        let all = [&node.pod_cidrs[..], &node.cable.host, &plan.internet().host, &plan.cluster_pod_cidrs()]
            .concat();
        assert!(all.iter().all(|net| net.addr().is_ipv6()), "{all:?}");
        assert_eq!(plan.api().to_string(), "[fd00:172:31:fa::2]:6443");
    }
}
