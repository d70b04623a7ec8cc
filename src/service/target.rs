//! What packets are sent to, and how a rule looks it up.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::kernel::nft::{End, Ip, Selector};
use crate::kernel::protocol::Protocol;

/// The kind of an address that a Service is reached at. Where two Services claim the same, that of the first kind gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// `spec.clusterIPs`.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// A node port, on an address of the node.
    NodePort,
    /// `status.loadBalancer.ingress`.
    #[serde(rename = "ingressIP")]
    Ingress,
    /// `spec.externalIPs`.
    #[serde(rename = "externalIP")]
    ExternalIp,
}

/// An address, a port and a protocol that packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address and port.
    pub at: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.at, self.protocol)
    }
}

/// The target of a packet, as the keys of the kernel's maps have it.
pub(super) fn selectors(ip: Ip) -> [Selector; 3] {
    [Selector::Address(ip, End::Destination), Selector::Protocol, Selector::Port(End::Destination)]
}
