//! The other nodes as this node believes them: what the mesh controller hands to those that carry it out.

use std::net::IpAddr;
use std::sync::Arc;

use super::status::Refused;
use crate::mesh::resolve::Peer;

/// What is believed of the other nodes. What it rests on is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Members {
    /// The peers of this node, by name.
    pub(super) peers: Arc<[Peer]>,
    /// Every address of every other node, peer or not, ascending: pods reach them by the tunnel or not at all.
    pub(super) addresses: Arc<[IpAddr]>,
    /// Nodes whose claims are refused.
    pub(super) refused: Arc<[Refused]>,
}
