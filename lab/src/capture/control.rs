//! The positive control: frames that a leak would look like, sent on purpose.

use std::net::IpAddr;

use super::pick;
use crate::packet::{self, Mac};

/// Nobody's: the router takes no notice of frames to it, the capture does.
const NOBODY: Mac = [0x02, 0x53, 0x4c, 0x56, 0xff, 0x01];
const PLANTER: Mac = [0x02, 0x53, 0x4c, 0x56, 0xff, 0x02];

/// Ports of a tunnel at both ends.
const WIREGUARD: [u16; 2] = [51830; 2];

/// What to plant frames with: addresses of the cluster, of both families or of one.
#[derive(Debug, Clone)]
pub struct Samples {
    /// Pod addresses.
    pub pods: Vec<IpAddr>,
    /// Service addresses.
    pub services: Vec<IpAddr>,
    /// Node addresses.
    pub nodes: Vec<IpAddr>,
    /// The canary.
    pub canary: Vec<u8>,
}

impl Samples {
    /// Frames to be found, each unlike any other ever sent: a pod as source, a Service as destination, a pod quoted
    /// in an ICMP error, inside VXLAN, and in the clear where a WireGuard message has its ciphertext, for each family; an ARP
    /// request for a pod; the canary between nodes, bare and in such a message.
    pub(super) fn frames(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mut frames = Vec::new();
        for v6 in [false, true] {
            if let (Some(pod), Some(node)) = (pick(&self.pods, v6), pick(&self.nodes, v6)) {
                frames.extend(self.family(pod, node, pick(&self.services, v6), token));
            }
        }
        Ok(frames)
    }

    fn family(&self, pod: IpAddr, node: IpAddr, service: Option<IpAddr>, token: [u8; 16]) -> Vec<Vec<u8>> {
        let kind = if pod.is_ipv6() { packet::IPV6 } else { packet::IPV4 };
        let frame = |packet: &[u8]| packet::ethernet(NOBODY, PLANTER, kind, packet);
        let plain = packet::udp(pod, node, [1, 2], &token);
        let canary = packet::udp(node, node, [1, 2], &[&token[..], &self.canary].concat());
        let message = |content: &[u8]| packet::udp(node, node, WIREGUARD, &transport_message(content, token));
        let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &frame(&plain)].concat();
        let mut frames = vec![
            frame(&plain),
            frame(&canary),
            frame(&packet::udp(node, node, [40000, 4789], &vxlan)),
            frame(&quote(node, &plain)),
            frame(&message(&plain)),
            frame(&message(&canary)),
        ];
        frames.extend(service.map(|service| frame(&packet::udp(node, service, [1, 2], &token))));
        if let (IpAddr::V4(pod), IpAddr::V4(node)) = (pod, node) {
            let arp = packet::arp(1, (PLANTER, node), ([0; 6], pod));
            let padded = [&arp[..], &token].concat();
            frames.push(packet::ethernet(NOBODY, PLANTER, packet::ARP, &padded));
        }
        frames
    }
}

/// What a WireGuard transport message (type 4) would be, were its content not encrypted: receiver, counter, the content padded
/// to 16 bytes, and something in place of the authentication tag.
fn transport_message(content: &[u8], token: [u8; 16]) -> Vec<u8> {
    let padding = vec![0; content.len().next_multiple_of(16) - content.len()];
    [&[4, 0, 0, 0][..], &token[..4], &[7, 0, 0, 0, 0, 0, 0, 0], content, &padding, &token].concat()
}

/// An ICMP error from a node to itself that quotes a packet.
fn quote(node: IpAddr, quoted: &[u8]) -> Vec<u8> {
    match node {
        IpAddr::V4(node) => packet::ipv4(node, node, 1, &packet::icmp(3, 4, [0, 0, 5, 0xdc], quoted)),
        IpAddr::V6(node) => packet::icmpv6(node, node, 2, 64, &[&[0, 0, 5, 0xdc][..], quoted].concat()),
    }
}
