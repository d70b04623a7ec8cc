//! The rules of one port: what its pod may send.

use std::net::{IpAddr, Ipv6Addr};

use crate::kernel::mac::Mac;
use crate::kernel::nft::{Family, Meta, PayloadBase, Rule};
use crate::pod::pool::Addresses;

/// Names of the counters that the rules count in: what was dropped, of all ports together.
pub(super) const COUNTERS: [&str; 9] = [MAC, IPV4, IPV6, ARP, ND, ROUTER, LISTENER, ETHERTYPE, UNKNOWN_PORT];
const MAC: &str = "spoofed-mac";
const IPV4: &str = "spoofed-ipv4";
const IPV6: &str = "spoofed-ipv6";
const ARP: &str = "spoofed-arp";
const ND: &str = "spoofed-nd";
const ROUTER: &str = "router-advertisement";
/// Dropped because nobody needs it, not because it is wrong.
const LISTENER: &str = "multicast-listener";
const ETHERTYPE: &str = "other-ethertype";
/// From a port that has no rules where its packets come by.
pub(super) const UNKNOWN_PORT: &str = "unknown-port";

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router advertisement and redirect (RFC 4861).
const OF_ROUTERS: [u8; 2] = [134, 137];
/// Router solicitation, and multicast listener messages (RFC 4861, RFC 2710, RFC 3810).
const UNHEARD: [u8; 4] = [133, 131, 132, 143];
/// Offsets of the source address.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
/// Offset of the target in NS and NA.
const ND_TARGET: u32 = 8;
/// Ethernet and IPv4, lengths 6 and 4 (RFC 826).
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Offset of the sender's two addresses.
const ARP_SENDER: u32 = 8;

/// The rules of a port in a table of this family. The Ethernet header is there in all of them.
#[must_use]
pub(super) fn rules(family: Family, mac: Mac, addresses: &Addresses) -> Vec<Rule> {
    let mut rules = vec![Rule::new().payload_not(PayloadBase::Link, 6, mac.0).count(MAC).drop()];
    if family != Family::Arp {
        rules.extend(ipv4(addresses));
    }
    if family != Family::Inet {
        rules.extend(arp(mac, addresses));
    }
    if family != Family::Arp {
        rules.push(not_of_type(ETHERTYPE_IPV6).count(ETHERTYPE).drop());
        rules.extend(ipv6(mac, addresses));
    }
    rules
}

fn own_ipv4(addresses: &Addresses) -> impl Iterator<Item = [u8; 4]> {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    })
}

fn ipv4(addresses: &Addresses) -> Vec<Rule> {
    let own = |address| of_type(ETHERTYPE_IPV4).payload(PayloadBase::Network, IPV4_SOURCE, address).accept();
    let foreign = of_type(ETHERTYPE_IPV4).count(IPV4).drop();
    own_ipv4(addresses).map(own).chain([foreign]).collect()
}

fn arp(mac: Mac, addresses: &Addresses) -> Vec<Rule> {
    let own = |address: [u8; 4]| {
        of_type(ETHERTYPE_ARP)
            .payload(PayloadBase::Network, 0, ARP_HEADER)
            .payload(PayloadBase::Network, ARP_SENDER, [&mac.0[..], &address].concat())
            .accept()
    };
    let foreign = of_type(ETHERTYPE_ARP).count(ARP).drop();
    own_ipv4(addresses).map(own).chain([foreign]).collect()
}

/// What is left when everything but IPv6 has been decided on.
fn ipv6(mac: Mac, addresses: &Addresses) -> Vec<Rule> {
    let own = || {
        addresses.iter().filter_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    };
    let from =
        |rule: Rule, address: Ipv6Addr| rule.payload(PayloadBase::Network, IPV6_SOURCE, address.octets());
    let mut rules: Vec<Rule> =
        own().map(|address| from(Rule::new().meta_not(Meta::L4Proto, [ICMPV6]), address).accept()).collect();
    rules.extend(OF_ROUTERS.map(|kind| icmp(kind).count(ROUTER).drop()));
    rules.extend(UNHEARD.map(|kind| icmp(kind).count(LISTENER).drop()));
    // An IPv4 pod has no use for ND, nor for the link-local address that the kernel assigns to it.
    let neighbours = own().next().map(|_| own().chain([mac.link_local()]));
    for address in neighbours.into_iter().flatten() {
        let target = |rule: Rule| rule.payload(PayloadBase::Transport, ND_TARGET, address.octets());
        rules.push(from(icmp(SOLICITATION), address).accept());
        rules.push(target(from(icmp(ADVERTISEMENT), address)).accept());
    }
    rules.extend([SOLICITATION, ADVERTISEMENT].map(|kind| icmp(kind).count(ND).drop()));
    rules.extend(own().map(|address| from(Rule::new(), address).accept()));
    rules.push(Rule::new().count(IPV6).drop());
    rules
}

/// The type as it is in the frame: that of a VLAN tag, if there is one.
fn of_type(ethertype: [u8; 2]) -> Rule {
    Rule::new().payload(PayloadBase::Link, 12, ethertype)
}

fn not_of_type(ethertype: [u8; 2]) -> Rule {
    Rule::new().payload_not(PayloadBase::Link, 12, ethertype)
}

/// ICMPv6, behind whatever extension headers, of this type.
fn icmp(kind: u8) -> Rule {
    Rule::new().meta(Meta::L4Proto, [ICMPV6]).payload(PayloadBase::Transport, 0, [kind])
}
