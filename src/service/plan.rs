//! How one Service is served on this node: on which addresses, from where, and by which backends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::affinity::Affinity;
use super::endpoints::{self, Backend, Backends, Place};
use super::object::{Service, ServiceName, ServicePort, Slice, TrafficPolicy};
use super::order::arrange;
use super::reserved::{Refusal, Reserved};
use super::target::{Kind, Target};
use crate::kernel::nft::Ip;

/// What Services are reached at beside their own addresses, and where this node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its Node's name, and zone.
    pub place: Place,
    /// Own addresses at which node ports are served.
    pub node_port_addresses: Vec<IpAddr>,
    /// Node ports are on loopback, too.
    pub has_loopback: bool,
    /// What no Service gets.
    pub reserved: Arc<Reserved>,
}

/// What becomes of the first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Answered with a TCP reset or an ICMP port unreachable message: the Service has no endpoint.
    Reject,
    /// Dropped: there are endpoints, but none on this node, which the policy asks for.
    Drop,
    /// To one of the cluster's backends.
    Cluster,
    /// To one of the cluster's backends, from an address of this node.
    Masquerade,
    /// To one of this node's backends.
    Local,
}

/// A port of a Service, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// What packets are sent to.
    pub targets: Vec<(Target, Kind)>,
    /// Who serves it, by index.
    pub backends: Backends,
    /// For packets to the cluster IP.
    pub internal_policy: TrafficPolicy,
    /// For packets from outside to the other targets.
    pub external_policy: TrafficPolicy,
    /// Clients come back to the backend that they had.
    pub affinity: Option<Affinity>,
    /// Who may use the ingress IPs; none: everybody.
    pub sources: Option<Arc<Sources>>,
    /// What it would be reached at, but is not for it to have.
    pub refused: Vec<(Target, Refusal)>,
}

/// `loadBalancerSourceRanges`, of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// Whose packets are let through. Empty where all ranges are of the other family: then nobody's are.
    pub ranges: Vec<IpNet>,
    /// This node is in a range. What it sends to an ingress IP may have that as its source, too.
    pub has_node: bool,
}

impl Sources {
    /// None where everybody may.
    fn of(service: &Service, ip: Ip, node: &Node) -> Option<Self> {
        let of_family = |net: &&IpNet| Ip::of(net.addr()) == ip;
        let ranges: Vec<IpNet> = service.source_ranges.as_ref()?.iter().filter(of_family).copied().collect();
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            return None;
        }
        let has_node = node.reserved.own.iter().any(|own| ranges.iter().any(|range| range.contains(own)));
        Some(Self { ranges, has_node })
    }
}

impl PortPlan {
    /// What becomes of a packet to a target of this kind from a pod of this node, or from this node itself. At external
    /// addresses they are served as at the cluster IP of the policy `Cluster`.
    #[must_use]
    pub fn from_inside(&self, kind: Kind) -> Action {
        let policy = if kind == Kind::ClusterIp { self.internal_policy } else { TrafficPolicy::Cluster };
        self.action(policy, Action::Cluster)
    }

    /// What becomes of a packet to a target of this kind from elsewhere; none at a cluster IP, which is not reached from there.
    #[must_use]
    pub fn from_outside(&self, kind: Kind) -> Option<Action> {
        (kind != Kind::ClusterIp).then(|| self.action(self.external_policy, Action::Masquerade))
    }

    /// Whether packets to the cluster IP are dropped: there are endpoints, but none here.
    #[must_use]
    pub fn drops_inside(&self) -> bool {
        self.from_inside(Kind::ClusterIp) == Action::Drop
    }

    /// The same of packets from outside to the other targets, if there are such.
    #[must_use]
    pub fn drops_outside(&self) -> bool {
        self.targets.iter().any(|(_, kind)| self.from_outside(*kind) == Some(Action::Drop))
    }

    fn action(&self, policy: TrafficPolicy, cluster: Action) -> Action {
        match policy {
            _ if self.backends.cluster.is_empty() && self.backends.local.is_empty() => Action::Reject,
            TrafficPolicy::Cluster => cluster,
            TrafficPolicy::Local if self.backends.local.is_empty() => Action::Drop,
            TrafficPolicy::Local => Action::Local,
        }
    }

    /// The backends that a packet to a target of this kind may go to with this action.
    #[must_use]
    pub fn backends(&self, action: Action) -> &[Backend] {
        match action {
            Action::Reject | Action::Drop => &[],
            Action::Cluster | Action::Masquerade => &self.backends.cluster,
            Action::Local => &self.backends.local,
        }
    }
}

/// What serves a target: a port of a Service that the target is an address of.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) kind: Kind,
    pub(super) port: Arc<PortPlan>,
}

/// How a Service is served: a plan for each of its ports and families.
pub type Plan = Vec<Arc<PortPlan>>;

/// What a port had before: backends keep their indices as far as that goes, and their numbers.
#[derive(Debug, Clone, Default)]
pub struct Had {
    /// The backends, by index.
    pub backends: Backends,
    /// Their numbers, if clients remember them.
    pub affinity: Option<Affinity>,
}

/// The plan of a Service with these slices; `had` says what a port with such targets had before.
#[must_use]
pub fn plan(
    name: &ServiceName,
    service: &Service,
    slices: &[&Slice],
    node: &Node,
    had: impl Fn(&[(Target, Kind)]) -> Had,
) -> Plan {
    let families = Ip::BOTH.into_iter().filter_map(|ip| {
        let cluster_ip = service.cluster_ips.iter().copied().find(|address| Ip::of(*address) == ip)?;
        Some((ip, cluster_ip))
    });
    let ports = families.flat_map(|family| ports(service).map(move |port| (family, port)));
    let plans = ports.map(|((ip, cluster_ip), port)| {
        let claimed = targets(service, port, (ip, cluster_ip), node);
        let refusal = |(target, kind): &(Target, Kind)| node.reserved.refusal(target, *kind);
        let targets: Vec<_> = claimed.iter().copied().filter(|claim| refusal(claim).is_none()).collect();
        let refused = claimed.iter().filter_map(|claim| Some((claim.0, refusal(claim)?))).collect();
        let had = had(&targets);
        let mut chosen = endpoints::choose(slices, (&port.name, port.protocol), ip, &node.place);
        for backends in [&mut chosen.cluster, &mut chosen.local] {
            backends.retain(|backend| node.reserved.is_endpoint(backend.to.ip()));
        }
        let backends = Backends {
            cluster: arrange(&had.backends.cluster, chosen.cluster),
            local: arrange(&had.backends.local, chosen.local),
        };
        let affinity = service.affinity.map(|timeout| {
            let protocol = port.protocol.to_string().to_lowercase();
            let port = format!("{name}/{protocol}/{}", port.port);
            Affinity::of(port, timeout, had.affinity.as_ref(), &backends)
        });
        Arc::new(PortPlan {
            targets,
            backends,
            internal_policy: service.internal_policy,
            external_policy: service.external_policy,
            affinity,
            sources: Sources::of(service, ip, node).map(Arc::new),
            refused,
        })
    });
    plans.collect()
}

/// The ports of a Service. Of two with the same number and protocol, which the API refuses, the first counts.
fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    let is_new = |(index, port): &(usize, &ServicePort)| {
        let same = |other: &ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
        !service.ports[..*index].iter().any(same)
    };
    service.ports.iter().enumerate().filter(is_new).map(|(_, port)| port)
}

/// What a port is reached at: its cluster IP first. Another family's external addresses are not for it.
fn targets(
    service: &Service,
    port: &ServicePort,
    (ip, cluster_ip): (Ip, IpAddr),
    node: &Node,
) -> Vec<(Target, Kind)> {
    let at = |address: &IpAddr, number: u16| Target {
        at: SocketAddr::new(*address, number),
        protocol: port.protocol,
    };
    let of_family = move |addresses: &'_ [IpAddr]| {
        addresses.iter().copied().filter(move |address| Ip::of(*address) == ip).collect::<Vec<_>>()
    };
    let mut targets = vec![(at(&cluster_ip, port.port), Kind::ClusterIp)];
    if let Some(number) = port.node_port {
        let addresses = of_family(&node.node_port_addresses);
        targets.extend(addresses.iter().map(|address| (at(address, number), Kind::NodePort)));
    }
    let external = [(Kind::Ingress, &service.ingress_ips), (Kind::ExternalIp, &service.external_ips)];
    for (kind, addresses) in external {
        targets.extend(of_family(addresses).iter().map(|address| (at(address, port.port), kind)));
    }
    targets
}
