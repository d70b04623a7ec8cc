//! Whose an address is, and what becomes of a packet's source on its way to an endpoint.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Origin, Packet, Translation};
use crate::kernel::nft::Ip;
use crate::service::endpoints::Backend;
use crate::service::plan::Action;

/// The addresses of a node and of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// Name of this node.
    pub node: String,
    /// All of this node's own addresses.
    pub own_addresses: Vec<IpAddr>,
    /// This node's fabric addresses, at most one a family.
    pub fabric_addresses: Vec<IpAddr>,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// All pod CIDRs of the cluster.
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// All Service CIDRs of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Destinations outside the cluster that see pods' own addresses.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Addresses of other member nodes, which pods reach by the tunnel.
    pub member_addresses: Arc<[IpAddr]>,
}

impl Surroundings {
    /// Who has this address.
    #[must_use]
    pub fn origin(&self, source: IpAddr) -> Origin {
        if self.is_own(source) {
            Origin::Node
        } else if contain(&self.pod_cidrs, source) {
            Origin::Pod
        } else {
            Origin::Outside
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || [&self.own_addresses, &self.fabric_addresses].into_iter().flatten().any(|own| *own == address)
    }

    fn fabric_address(&self, ip: Ip) -> Option<IpAddr> {
        self.fabric_addresses.iter().copied().find(|address| Ip::of(*address) == ip)
    }

    /// What becomes of the packet's source on its way to this endpoint: first by the table of Services, then by egress.
    pub(super) fn translate(
        &self,
        packet: &Packet,
        action: Action,
        to: &Backend,
    ) -> (Translation, Option<IpAddr>) {
        let (source, to_address) = (packet.source, to.to.ip());
        let fabric = self.fabric_address(Ip::of(source)).map(|address| (Translation::Fabric, Some(address)));
        let kept = (Translation::Kept, Some(source));
        let uplink = (Translation::Uplink, None);
        if is_hairpin(packet, to) {
            return fabric.unwrap_or(kept);
        }
        // What this node delivers to itself does not leave.
        if self.is_own(to_address) {
            return kept;
        }
        let is_member = self.member_addresses.contains(&to_address);
        if action == Action::Masquerade {
            let from_peer = contain(&self.cluster_pod_cidrs, source);
            let by_fabric = contain(&self.cluster_pod_cidrs, to_address) || (is_member && from_peer);
            return fabric.filter(|_| by_fabric).unwrap_or(uplink);
        }
        let unmasqueraded = [&self.cluster_pod_cidrs, &self.service_cidrs, &self.non_masquerade_cidrs];
        let stays = is_member || unmasqueraded.into_iter().any(|nets| contain(nets, to_address));
        if self.origin(source) == Origin::Pod && !stays { uplink } else { kept }
    }
}

pub(super) fn contain(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// A pod that is its own endpoint.
pub(super) fn is_hairpin(packet: &Packet, to: &Backend) -> bool {
    to.is_local && to.to.ip() == packet.source
}
