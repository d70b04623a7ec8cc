//! The Services of this node, for people and programs: the shapes of `GET /v1/services`, and what fills them. Everything in
//! them is what the kernel's table was made from, not what the API server has since shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::balancer::Balancer;
use super::endpoints::Backend;
use super::object::ServiceName;
use super::object::TrafficPolicy;
use super::plan::{Action, Plan, PortPlan};
use super::reserved::Refusal;
use super::target::{Kind, Target};
use crate::kernel::protocol::Protocol;

/// The Services of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceList {
    /// Name of the node.
    pub node: String,
    /// Whether the agent serves Services. If not, everything else is empty.
    pub enabled: bool,
    /// Who does instead, with `services = "auto"`; or that this is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_proxy: Option<String>,
    /// Why the kernel's table may differ from this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// By name.
    pub services: Vec<ShownService>,
    /// Services that were asked for and are not served on this node, as `namespace/name`.
    pub absent: Vec<String>,
    /// Targets that several Services claim, by target.
    pub conflicts: Vec<ShownConflict>,
    /// First packets of connections, by what became of them; none when the kernel has no table of Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters: Option<BTreeMap<String, u64>>,
}

/// A Service that this node serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ports, once for each family.
    pub ports: Vec<ShownPort>,
}

/// A port of a Service, in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The port at the cluster IP.
    pub port: u16,
    /// What packets are sent to.
    pub addresses: Vec<ShownAddress>,
    /// What it asks for and no Service gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<ShownWithheld>,
    /// Which endpoints serve packets to the cluster IP.
    pub internal_traffic_policy: TrafficPolicy,
    /// Which endpoints serve packets from outside to the other addresses.
    pub external_traffic_policy: TrafficPolicy,
    /// Seconds for which a client keeps its endpoint after its last connection; none without session affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u64>,
    /// Who may use the ingress IPs; none: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<IpNet>>,
    /// Who serves for the policy `Cluster`.
    pub cluster_endpoints: Vec<ShownEndpoint>,
    /// Who serves for the policy `Local`.
    pub local_endpoints: Vec<ShownEndpoint>,
}

/// An address of a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownAddress {
    /// Its kind.
    pub kind: Kind,
    /// Address and port.
    pub address: SocketAddr,
    /// What becomes of packets from pods of this node and from the node itself.
    pub from_inside: Action,
    /// What becomes of packets from elsewhere; none where they are not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_outside: Option<Action>,
    /// The Service that has this address instead, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<String>,
}

/// An address that a Service asks for and does not get, whoever else does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownWithheld {
    /// Address and port.
    pub address: SocketAddr,
    /// Why.
    pub reason: String,
}

/// Where packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownEndpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// It is on this node.
    pub local: bool,
}

/// A target that a Service claims and another one has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownConflict {
    /// Address and port.
    pub address: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service that is served there, as `namespace/name`.
    pub owner: String,
    /// The Service that is not.
    pub refused: String,
}

/// The Service that `text`, a `namespace/name`, names.
#[must_use]
pub fn parse_name(text: &str) -> Option<ServiceName> {
    let (namespace, name) = text.split_once('/')?;
    let is_name = |part: &str| !part.is_empty() && !part.contains(['/', ',']);
    (is_name(namespace) && is_name(name))
        .then(|| ServiceName { namespace: namespace.into(), name: name.into() })
}

/// All Services, or those of these names, by name.
#[must_use]
pub fn services(balancer: &Balancer, names: &BTreeSet<ServiceName>) -> Vec<ShownService> {
    let mut found: Vec<(&ServiceName, &Plan)> = if names.is_empty() {
        balancer.plans().collect()
    } else {
        names.iter().filter_map(|name| Some((name, balancer.plan(name)?))).collect()
    };
    found.sort_unstable_by_key(|(name, _)| *name);
    found.into_iter().map(|(name, plan)| service(balancer, name, plan)).collect()
}

/// The names among these whose Services are not served.
#[must_use]
pub fn absent(balancer: &Balancer, names: &BTreeSet<ServiceName>) -> Vec<String> {
    names.iter().filter(|name| balancer.plan(name).is_none()).map(ToString::to_string).collect()
}

/// All conflicts, or those of these Services, by target.
#[must_use]
pub fn conflicts(balancer: &Balancer, names: &BTreeSet<ServiceName>) -> Vec<ShownConflict> {
    let asked = |name: &ServiceName| names.is_empty() || names.contains(name);
    let mut found: Vec<_> =
        balancer.conflicts().filter(|it| asked(&it.owner) || asked(&it.refused)).collect();
    found.sort_unstable_by(|a, b| (a.target, &a.refused).cmp(&(b.target, &b.refused)));
    let shown = found.into_iter().map(|it| ShownConflict {
        address: it.target.at,
        protocol: it.target.protocol,
        owner: it.owner.to_string(),
        refused: it.refused.to_string(),
    });
    shown.collect()
}

fn service(balancer: &Balancer, name: &ServiceName, plan: &Plan) -> ShownService {
    let ports = plan.iter().filter_map(|plan| port(balancer, name, plan)).collect();
    ShownService { namespace: name.namespace.clone(), name: name.name.clone(), ports }
}

/// None of a plan without any target, which there is not.
fn port(balancer: &Balancer, name: &ServiceName, plan: &PortPlan) -> Option<ShownPort> {
    let (first, _) = plan.targets.first()?;
    let addresses = plan.targets.iter().filter_map(|(to, kind)| address(balancer, name, plan, (*to, *kind)));
    Some(ShownPort {
        protocol: first.protocol,
        port: first.at.port(),
        addresses: addresses.collect(),
        withheld: plan.refused.iter().map(withheld).collect(),
        internal_traffic_policy: plan.internal_policy,
        external_traffic_policy: plan.external_policy,
        affinity_seconds: plan.affinity.as_ref().map(|affinity| affinity.timeout.as_secs()),
        source_ranges: plan.sources.as_ref().map(|sources| sources.ranges.clone()),
        cluster_endpoints: endpoints(&plan.backends.cluster),
        local_endpoints: endpoints(&plan.backends.local),
    })
}

fn withheld((target, why): &(Target, Refusal)) -> ShownWithheld {
    ShownWithheld { address: target.at, reason: why.to_string() }
}

/// None where the Service is served at the same target as another kind of address.
fn address(
    balancer: &Balancer,
    name: &ServiceName,
    plan: &PortPlan,
    (target, kind): (Target, Kind),
) -> Option<ShownAddress> {
    let owner = balancer.served(target);
    if owner.is_some_and(|(owner, served)| owner == name && served.kind != kind) {
        return None;
    }
    Some(ShownAddress {
        kind,
        address: target.at,
        from_inside: plan.from_inside(kind),
        from_outside: plan.from_outside(kind),
        taken_by: owner.filter(|(owner, _)| *owner != name).map(|(owner, _)| owner.to_string()),
    })
}

/// Ascending by address: their indices are the kernel's matter.
fn endpoints(backends: &[Backend]) -> Vec<ShownEndpoint> {
    let shown = |backend: &Backend| ShownEndpoint { address: backend.to, local: backend.is_local };
    let mut shown: Vec<_> = backends.iter().map(shown).collect();
    shown.sort_unstable_by_key(|endpoint| endpoint.address);
    shown
}
