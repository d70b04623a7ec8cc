//! What becomes of the first packet of a connection: the shape of `GET /v1/services/trace/SOURCE/TARGET`, and the
//! [`decision`], made as the kernel's table makes it.

mod decision;
mod surroundings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::plan::Action;
use super::target::{Kind, Target};
use crate::kernel::protocol::Protocol;
pub use decision::{other_proxy, trace};
pub use surroundings::Surroundings;

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Name of the node that answers: another one may decide otherwise.
    pub node: String,
    /// Why the kernel's table may differ from what the answer follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Source of the packet.
    pub source: IpAddr,
    /// Who has that address, as this node sees it.
    pub origin: Origin,
    /// Destination of the packet.
    pub target: SocketAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// The Service that has the target, as `namespace/name`, or the cluster IP where it has no such port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The port of that Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The kind of address that the target is of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// What becomes of the packet.
    pub verdict: TraceVerdict,
    /// The same in words, with the cause.
    pub reason: String,
    /// Which of the Service's endpoints serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Where it is sent to: to one of these.
    pub endpoints: Vec<TracedEndpoint>,
    /// Seconds for which the client keeps its endpoint; none without session affinity. A client that is remembered goes to that
    /// one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u64>,
}

/// Where a packet is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A pod of this node.
    Pod,
    /// This node itself.
    Node,
    /// Anybody else: clients outside the cluster, other nodes, their pods.
    Outside,
}

/// What becomes of a packet, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TraceVerdict {
    /// Sent to an endpoint.
    Served,
    /// Answered with a TCP reset or an ICMP port unreachable message.
    Rejected,
    /// Dropped.
    Dropped,
    /// Dropped, because its source is in none of `loadBalancerSourceRanges`.
    Refused,
    /// Not the business of any Service: it goes where it is addressed to.
    NoService,
    /// This node's Services are somebody else's (`services = "off"`).
    OtherProxy,
}

/// An endpoint that a packet may be sent to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracedEndpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// It is on this node.
    pub local: bool,
    /// Probability that a connection goes there, from 0 to 100.
    pub percent: f64,
    /// It is where the packet comes from.
    pub hairpin: bool,
    /// What becomes of the source.
    pub translation: Translation,
    /// The source that the endpoint sees; none where the kernel takes the address of the device that the packet leaves by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
}

/// What becomes of the source of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Translation {
    /// It stays.
    Kept,
    /// It becomes this node's fabric address.
    Fabric,
    /// It becomes the address of the device that the packet leaves by.
    Uplink,
}

/// The first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub target: Target,
}

impl Packet {
    /// From `ADDRESS` and `ADDRESS:PORT`, the latter with `/tcp`, `/udp` or `/sctp` behind it; TCP otherwise.
    ///
    /// # Errors
    /// For people: which of the two cannot be used, or that they are of two families.
    pub fn parse(source: &str, target: &str) -> Result<Self, String> {
        let source: IpAddr = source.parse().map_err(|_| format!("{source:?} is not an IP address"))?;
        let target = parse_target(target)?;
        if source.is_ipv4() != target.at.is_ipv4() {
            return Err(format!("{source} and {} are not of the same address family", target.at.ip()));
        }
        Ok(Self { source, target })
    }
}

/// `ADDRESS:PORT[/PROTOCOL]`, an IPv6 address in brackets.
///
/// # Errors
/// For people, when it is something else.
pub fn parse_target(text: &str) -> Result<Target, String> {
    let (at, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let at = at.parse().map_err(|_| format!("{at:?} is not ADDRESS:PORT; IPv6: [ADDRESS]:PORT"))?;
    let protocol =
        Protocol::parse(protocol).ok_or_else(|| format!("{protocol:?} is not tcp, udp or sctp"))?;
    Ok(Target { at, protocol })
}
