//! Which endpoints serve one port of a Service on this node.
//!
//! As kube-proxy decides (behaviour of Kubernetes 1.37; "Service Internal Traffic Policy", "Topology Aware Routing" and
//! "ProxyTerminatingEndpoints" in its documentation): ready endpoints; where none is, those that terminate but still serve;
//! for the policies `Cluster` and `Local` each for itself. Topology hints narrow down the ready endpoints of the cluster,
//! where every one of them has a hint and one of them is for this node, or else for this node's zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::object::{Endpoint, Slice};
use crate::kernel::nft::Ip;
use crate::kernel::protocol::Protocol;

/// Where this node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// Name of its Node.
    pub node: String,
    /// The label `topology.kubernetes.io/zone` of its Node.
    pub zone: Option<String>,
}

/// A place that packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address and port of the endpoint.
    pub to: SocketAddr,
    /// It is on this node.
    pub is_local: bool,
}

/// What serves one port of a Service, ascending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// For the policy `Cluster`.
    pub cluster: Vec<Backend>,
    /// For the policy `Local`.
    pub local: Vec<Backend>,
}

/// What serves the port `name` of a Service with these slices, in one family.
#[must_use]
pub fn choose(slices: &[&Slice], (name, protocol): (&str, Protocol), ip: Ip, place: &Place) -> Backends {
    let all = candidates(slices, name, protocol, ip);
    let is_local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(place.node.as_str());
    let chosen = |accepts: &dyn Fn(&Endpoint) -> bool| {
        let accepted = all.iter().filter(|(_, endpoint)| accepts(endpoint));
        accepted.map(|(to, endpoint)| Backend { to: *to, is_local: is_local(endpoint) }).collect::<Vec<_>>()
    };
    let ready: Vec<&Endpoint> = all.values().copied().filter(|endpoint| endpoint.is_ready).collect();
    let hint = Hint::of(&ready, place);
    let or_last_resort = |ready: Vec<Backend>, among: &dyn Fn(&Endpoint) -> bool| match ready.is_empty() {
        true => chosen(&|endpoint| endpoint.is_last_resort() && among(endpoint)),
        false => ready,
    };
    Backends {
        cluster: or_last_resort(
            chosen(&|endpoint| endpoint.is_ready && hint.allows(endpoint, place)),
            &|_| true,
        ),
        local: or_last_resort(chosen(&|endpoint| endpoint.is_ready && is_local(endpoint)), &is_local),
    }
}

/// The endpoints by address and port. Where one is in several slices, as while it moves from one to another, the one that is
/// not terminating counts, then the one that is ready.
fn candidates<'a>(
    slices: &[&'a Slice],
    name: &str,
    protocol: Protocol,
    ip: Ip,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let rank = |endpoint: &Endpoint| (!endpoint.is_terminating, endpoint.is_ready, endpoint.is_serving);
    let mut found: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|port| port.name == name && port.protocol == protocol);
        for port in ports {
            for endpoint in slice.endpoints.iter().filter(|endpoint| Ip::of(endpoint.address) == ip) {
                let to = SocketAddr::new(endpoint.address, port.port);
                let best = found.entry(to).or_insert(endpoint);
                if rank(endpoint) > rank(best) {
                    *best = endpoint;
                }
            }
        }
    }
    found
}

/// Which hints narrow down the endpoints of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    None,
    Node,
    Zone,
}

impl Hint {
    fn of(ready: &[&Endpoint], place: &Place) -> Self {
        let usable = |hints: fn(&Endpoint) -> &[Box<str>], here: Option<&str>| {
            let every = ready.iter().all(|endpoint| !hints(endpoint).is_empty());
            every && here.is_some_and(|here| ready.iter().any(|endpoint| has(hints(endpoint), here)))
        };
        if usable(|endpoint| &endpoint.for_nodes, Some(&place.node)) {
            Self::Node
        } else if usable(|endpoint| &endpoint.for_zones, place.zone.as_deref()) {
            Self::Zone
        } else {
            Self::None
        }
    }

    fn allows(self, endpoint: &Endpoint, place: &Place) -> bool {
        match self {
            Self::None => true,
            Self::Node => has(&endpoint.for_nodes, &place.node),
            Self::Zone => place.zone.as_ref().is_some_and(|zone| has(&endpoint.for_zones, zone)),
        }
    }
}

fn has(hints: &[Box<str>], name: &str) -> bool {
    hints.iter().any(|hint| **hint == *name)
}
