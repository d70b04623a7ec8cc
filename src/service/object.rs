//! What a proxy needs of Services and EndpointSlices: the fields of the API objects that decide where packets go.
//!
//! Field by field as the Kubernetes API reference says (`Service` v1, `EndpointSlice` discovery.k8s.io/v1); absent values
//! have their defaults here already.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kernel::protocol::Protocol;

/// Label of Services and EndpointSlices that another proxy serves.
pub const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Label of Services and EndpointSlices that are for DNS alone.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// Which endpoints serve: `internalTrafficPolicy`, `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on the node that the packet comes to.
    Local,
}

/// Names a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service that this node serves: of type ClusterIP, NodePort or LoadBalancer, with at least one cluster IP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// `metadata.uid`, for Events about it.
    pub uid: String,
    /// `spec.clusterIPs`, at most one a family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`: the addresses whose packets arrive with that destination (`ipMode` VIP).
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// For packets to the cluster IPs.
    pub internal_policy: TrafficPolicy,
    /// For packets from outside to node ports, external and ingress IPs.
    pub external_policy: TrafficPolicy,
    /// How long a client keeps its endpoint after its last connection (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// `spec.loadBalancerSourceRanges`: who may use the ingress IPs. None: everybody.
    pub source_ranges: Option<Vec<IpNet>>,
    /// `spec.healthCheckNodePort`.
    pub health_check_port: Option<u16>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, by which EndpointSlices name theirs. May be empty.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port on the nodes' addresses.
    pub node_port: Option<u16>,
}

/// Some of a Service's endpoints, of one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slice {
    /// Name of the Service, in the slice's own namespace.
    pub service: String,
    /// When the Pod or Service changed that the slice was last written for.
    pub changed: Option<Timestamp>,
    /// The ports of all its endpoints.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of the endpoints of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service's port that it is for.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port on the endpoints' addresses.
    pub port: u16,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses; all of them lead to the same.
    pub address: IpAddr,
    /// It takes new connections.
    pub is_ready: bool,
    /// It answers, be it terminating or not.
    pub is_serving: bool,
    /// It is being deleted.
    pub is_terminating: bool,
    /// Name of its Node.
    pub node: Option<Box<str>>,
    /// Nodes that should use it (`hints.forNodes`).
    pub for_nodes: Box<[Box<str>]>,
    /// Zones that should use it (`hints.forZones`).
    pub for_zones: Box<[Box<str>]>,
}

impl Endpoint {
    /// Used where no endpoint is ready.
    #[must_use]
    pub fn is_last_resort(&self) -> bool {
        self.is_serving && self.is_terminating && !self.is_ready
    }
}
