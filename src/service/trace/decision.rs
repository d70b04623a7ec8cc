//! The decision about a packet: the rules of the table of Services, and of the guard where no Service takes the packet on.

use std::net::IpAddr;

use super::surroundings::{contain, is_hairpin};
use super::{Origin, Packet, Surroundings, Trace, TraceVerdict, TracedEndpoint};
use crate::service::balancer::Balancer;
use crate::service::class::MAX_BACKENDS;
use crate::service::endpoints::Backend;
use crate::service::object::ServiceName;
use crate::service::plan::{Action, Plan, PortPlan, Served};
use crate::service::target::Kind;

/// Of packets that another node's pod would send here by mistake.
const NOT_FROM_OUTSIDE: &str =
    "cluster IPs are not served from outside; another node's pods are served on their own node";

/// What becomes of the packet on this node.
#[must_use]
pub fn trace(balancer: &Balancer, surroundings: &Surroundings, packet: &Packet) -> Trace {
    let trace = Trace::of(surroundings, packet);
    let is_service_address = contain(&surroundings.service_cidrs, packet.target.at.ip());
    let by_tunnel = contain(&surroundings.cluster_pod_cidrs, packet.source);
    if !trace.is_inside() && is_service_address && !by_tunnel {
        let reason =
            "Service addresses are not reached from outside: the guard drops the packet when it arrives";
        return trace.ends(TraceVerdict::Dropped, reason);
    }
    match balancer.served(packet.target) {
        Some((service, served)) => of_service(trace, surroundings, packet, (service, served)),
        None => of_nobody(trace, balancer, is_service_address),
    }
}

/// The same where another proxy serves Services, as `reason` says.
#[must_use]
pub fn other_proxy(surroundings: &Surroundings, packet: &Packet, reason: &str) -> Trace {
    Trace::of(surroundings, packet).ends(TraceVerdict::OtherProxy, reason)
}

impl Trace {
    fn of(surroundings: &Surroundings, packet: &Packet) -> Self {
        Self {
            node: surroundings.node.clone(),
            problem: None,
            source: packet.source,
            origin: surroundings.origin(packet.source),
            target: packet.target.at,
            protocol: packet.target.protocol,
            service: None,
            port: None,
            kind: None,
            verdict: TraceVerdict::NoService,
            reason: String::new(),
            action: None,
            endpoints: Vec::new(),
            affinity_seconds: None,
        }
    }

    fn ends(self, verdict: TraceVerdict, reason: impl Into<String>) -> Self {
        Self { verdict, reason: reason.into(), ..self }
    }

    fn is_inside(&self) -> bool {
        self.origin != Origin::Outside
    }
}

/// To a target that no Service has.
fn of_nobody(mut trace: Trace, balancer: &Balancer, is_service_address: bool) -> Trace {
    let address = trace.target.ip();
    if let Some(owner) = owner(balancer, address).filter(|_| trace.is_inside()) {
        let (port, protocol) = (trace.target.port(), trace.protocol);
        let reason = format!("{address} is the cluster IP of {owner}, which has no port {port}/{protocol}");
        trace.service = Some(owner.to_string());
        trace.kind = Some(Kind::ClusterIp);
        return trace.ends(TraceVerdict::Rejected, reason);
    }
    if is_service_address {
        let reason = match trace.is_inside() {
            true => {
                "no Service has this address: the guard lets no packet to a Service address leave the node"
            }
            false => NOT_FROM_OUTSIDE,
        };
        return trace.ends(TraceVerdict::Dropped, reason);
    }
    let reason = "no Service has this address and port: the packet goes where it is addressed to";
    trace.ends(TraceVerdict::NoService, reason)
}

/// The first Service by name that is served at this cluster IP.
fn owner(balancer: &Balancer, address: IpAddr) -> Option<&ServiceName> {
    let is_served = |name: &ServiceName, plan: &Plan| {
        let targets = plan.iter().flat_map(|port| &port.targets);
        targets.filter(|(target, _)| target.at.ip() == address).any(|(target, _)| {
            balancer
                .served(*target)
                .is_some_and(|(owner, served)| owner == name && served.kind == Kind::ClusterIp)
        })
    };
    balancer.plans().filter(|(name, plan)| is_served(name, plan)).map(|(name, _)| name).min()
}

/// To a target that a Service has.
fn of_service(
    mut trace: Trace,
    surroundings: &Surroundings,
    packet: &Packet,
    (service, Served { kind, port }): (&ServiceName, &Served),
) -> Trace {
    trace.service = Some(service.to_string());
    trace.port = port.targets.first().map(|(target, _)| target.at.port());
    trace.kind = Some(*kind);
    if !is_allowed(port, *kind, packet) {
        let reason = format!("{} is in none of the loadBalancerSourceRanges of {service}", packet.source);
        return trace.ends(TraceVerdict::Refused, reason);
    }
    let inside = trace.is_inside();
    let action = if inside { Some(port.from_inside(*kind)) } else { port.from_outside(*kind) };
    let Some(action) = action else {
        let passes = !contain(&surroundings.service_cidrs, packet.target.at.ip());
        let verdict = if passes { TraceVerdict::NoService } else { TraceVerdict::Dropped };
        return trace.ends(verdict, NOT_FROM_OUTSIDE);
    };
    trace.action = Some(action);
    trace.endpoints = endpoints(surroundings, packet, action, port.backends(action));
    let policy = policy(port, *kind, inside);
    let (verdict, reason) = match action {
        Action::Reject => (TraceVerdict::Rejected, format!("{service} has no endpoint for this port")),
        Action::Drop => (TraceVerdict::Dropped, format!("{policy}, and no endpoint is on this node")),
        Action::Cluster | Action::Masquerade => {
            (TraceVerdict::Served, format!("by endpoints of the whole cluster: {policy}"))
        }
        Action::Local => (TraceVerdict::Served, format!("by endpoints of this node: {policy}")),
    };
    if verdict == TraceVerdict::Served {
        trace.affinity_seconds = port.affinity.as_ref().map(|affinity| affinity.timeout.as_secs());
    }
    trace.ends(verdict, reason)
}

/// Whether the source ranges of the Service let the packet through.
fn is_allowed(port: &PortPlan, kind: Kind, packet: &Packet) -> bool {
    let sources = port.sources.as_ref().filter(|_| kind == Kind::Ingress);
    sources.is_none_or(|sources| {
        let is_own = sources.has_node && packet.source == packet.target.at.ip();
        is_own || contain(&sources.ranges, packet.source)
    })
}

/// What says which endpoints serve.
fn policy(port: &PortPlan, kind: Kind, inside: bool) -> String {
    match (inside, kind) {
        (true, Kind::ClusterIp) => format!("internalTrafficPolicy is {:?}", port.internal_policy),
        (true, _) => "externalTrafficPolicy is for packets from outside alone".to_owned(),
        (false, _) => format!("externalTrafficPolicy is {:?}", port.external_policy),
    }
}

/// Ascending by address, each as probable as the other.
#[expect(clippy::cast_precision_loss, reason = "there are at most 65,536")]
fn endpoints(
    surroundings: &Surroundings,
    packet: &Packet,
    action: Action,
    backends: &[Backend],
) -> Vec<TracedEndpoint> {
    let backends = &backends[..backends.len().min(MAX_BACKENDS)];
    let traced = |backend: &Backend| {
        let (translation, source) = surroundings.translate(packet, action, backend);
        TracedEndpoint {
            address: backend.to,
            local: backend.is_local,
            percent: 100.0 / backends.len() as f64,
            hairpin: is_hairpin(packet, backend),
            translation,
            source,
        }
    };
    let mut endpoints: Vec<_> = backends.iter().map(traced).collect();
    endpoints.sort_unstable_by_key(|endpoint| endpoint.address);
    endpoints
}
