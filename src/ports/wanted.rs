//! What the agent wants held, as it says it to the holder.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything that is to be held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// The state of the node's proxy; none where this agent does not serve Services, and then no port is held.
    pub proxy: Option<Proxy>,
    /// The health checks of Services, by port.
    #[serde(default)]
    pub checks: BTreeMap<u16, Check>,
    /// Ports of loopback, with where connections to them lead to: to the one of their own family.
    #[serde(default)]
    pub forwards: BTreeMap<u16, Vec<SocketAddr>>,
}

/// The state of what serves Services on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// When the kernel was last known to have what the cluster wants.
    pub updated: Timestamp,
    /// Load balancers may send traffic to this node: its Node is neither being deleted nor about to be.
    pub is_eligible: bool,
}

/// A Service whose health is asked for at a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many of its ready endpoints, by address, are on this node.
    pub local_endpoints: usize,
}

/// What the holder answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Ports that could not be had, with the reason: somebody else has them.
    pub refused: BTreeMap<u16, String>,
    /// Connections to node ports on loopback that this holder has reset.
    #[serde(default)]
    pub reset: u64,
}
