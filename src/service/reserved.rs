//! Addresses and ports that no Service gets, whatever its object says: who may write a Service may not take over the nodes.
//!
//! An external or ingress IP may be a node's (k3s does so), and any user who may write Services may name any address there
//! (CVE-2020-8554).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::target::{Kind, Target};
use crate::kernel::protocol::Protocol;

/// What is the cluster's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reserved {
    /// Ports of the nodes' own programs, on every node's addresses: kubelet's, the tunnel's, the agent's, an API server's.
    pub ports: BTreeSet<(Protocol, u16)>,
    /// Addresses of this node.
    pub own: BTreeSet<IpAddr>,
    /// Addresses of all other nodes, ascending.
    pub others: Arc<[IpAddr]>,
    /// API servers.
    pub servers: BTreeSet<Target>,
    /// Where pods' addresses are from.
    pub pod_cidrs: Vec<IpNet>,
    /// Where cluster IPs are from.
    pub service_cidrs: Vec<IpNet>,
}

/// Why a target is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A node's own program has the port.
    OfNode,
    /// It is an API server's.
    OfApiServer,
    /// It is in the range of pods.
    OfPods,
    /// It is in the range of cluster IPs, and not one.
    OfServices,
    /// It is no address of one host.
    NoHost,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OfNode => "a port of the nodes themselves",
            Self::OfApiServer => "an API server's",
            Self::OfPods => "in the range of pods",
            Self::OfServices => "in the range of cluster IPs",
            Self::NoHost => "loopback, link-local, multicast or unspecified",
        })
    }
}

impl Reserved {
    /// Why a Service does not get the target.
    #[must_use]
    pub fn refusal(&self, target: &Target, kind: Kind) -> Option<Refusal> {
        let address = target.at.ip();
        let within = |cidrs: &[IpNet]| cidrs.iter().any(|cidr| cidr.contains(&address));
        if is_no_host(address) {
            return Some(Refusal::NoHost);
        }
        if within(&self.pod_cidrs) {
            return Some(Refusal::OfPods);
        }
        if kind == Kind::ClusterIp {
            return None;
        }
        if within(&self.service_cidrs) {
            return Some(Refusal::OfServices);
        }
        if self.servers.contains(target) {
            return Some(Refusal::OfApiServer);
        }
        let is_node = || self.own.contains(&address) || self.others.binary_search(&address).is_ok();
        (self.ports.contains(&(target.protocol, target.at.port())) && is_node()).then_some(Refusal::OfNode)
    }

    /// Whether an endpoint can be there: not where cluster IPs are from, nor where no host is.
    #[must_use]
    pub fn is_endpoint(&self, address: IpAddr) -> bool {
        !is_no_host(address) && !self.service_cidrs.iter().any(|cidr| cidr.contains(&address))
    }
}

/// Nothing that packets can be sent to from elsewhere.
#[must_use]
pub fn is_no_host(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_service_gets() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let target = |at: &str, protocol| Target { at: at.parse().unwrap(), protocol };
        let reserved = Reserved {
            ports: [(Protocol::Tcp, 10_250), (Protocol::Udp, 51_830)].into(),
            own: [address("192.0.2.1")].into(),
            others: [address("192.0.2.2"), address("2001:db8::2")].into(),
            servers: [target("198.51.100.1:443", Protocol::Tcp)].into(),
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        };
        for (at, protocol, kind, expected) in [
            ("192.0.2.1:10250", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::OfNode)),
            ("192.0.2.2:51830", Protocol::Udp, Kind::Ingress, Some(Refusal::OfNode)),
            ("[2001:db8::2]:51830", Protocol::Udp, Kind::NodePort, Some(Refusal::OfNode)),
            ("192.0.2.2:51830", Protocol::Tcp, Kind::Ingress, None),
            ("192.0.2.1:80", Protocol::Tcp, Kind::ExternalIp, None),
            ("192.0.2.9:10250", Protocol::Tcp, Kind::ExternalIp, None),
            ("198.51.100.1:443", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::OfApiServer)),
            ("198.51.100.1:80", Protocol::Tcp, Kind::ExternalIp, None),
            ("10.244.1.2:80", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::OfPods)),
            ("10.244.1.2:80", Protocol::Tcp, Kind::ClusterIp, Some(Refusal::OfPods)),
            ("10.96.0.1:80", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::OfServices)),
            ("10.96.0.1:80", Protocol::Tcp, Kind::ClusterIp, None),
            ("127.0.0.1:80", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::NoHost)),
            ("[ff02::1]:80", Protocol::Tcp, Kind::Ingress, Some(Refusal::NoHost)),
            ("169.254.169.254:80", Protocol::Tcp, Kind::ExternalIp, Some(Refusal::NoHost)),
        ] {
            assert_eq!(reserved.refusal(&target(at, protocol), kind), expected, "{at}/{protocol} {kind:?}");
        }
    }
}
