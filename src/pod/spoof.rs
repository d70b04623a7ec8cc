//! What a pod may send: its own addresses as source, ARP and ND about itself, and nothing that claims to be a
//! router. One chain for each port, at the netdev ingress hook: before the bridge and before any other table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::kernel::mac::Mac;
use crate::kernel::nft::{self, Chain, Family, Meta, PayloadBase, Rule};

use super::pool::Addresses;

/// The table of all ports' chains.
pub const TABLE: &str = "selvedge-ports";

/// Names of the table's counters: what was dropped, of all ports together.
pub const COUNTERS: [&str; 8] = [MAC, IPV4, IPV6, ARP, ND, ROUTER, LISTENER, ETHERTYPE];
const MAC: &str = "spoofed-mac";
const IPV4: &str = "spoofed-ipv4";
const IPV6: &str = "spoofed-ipv6";
const ARP: &str = "spoofed-arp";
const ND: &str = "spoofed-nd";
const ROUTER: &str = "router-advertisement";
/// Dropped because nobody needs it, not because it is wrong.
const LISTENER: &str = "multicast-listener";
const ETHERTYPE: &str = "other-ethertype";

/// Before anybody else's ingress chains.
const PRIORITY: i32 = -500;
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

/// nftables did not do it.
#[derive(Debug, thiserror::Error)]
#[error("rules against spoofing on {port}: {source}")]
pub struct Error {
    port: String,
    source: nft::Error,
}

/// Puts the chain of a port in place.
pub fn protect(port: &str, mac: Mac, addresses: &Addresses) -> Result<(), Error> {
    nft::put_chain(Family::Netdev, TABLE, &COUNTERS, port, &chain(port, mac, addresses)).map_err(about(port))
}

/// Takes the chain of a port away; gone already is fine.
pub fn unprotect(port: &str) -> Result<(), Error> {
    nft::delete_chain(Family::Netdev, TABLE, port).map(drop).map_err(about(port))
}

/// The same for many ports at once.
pub fn unprotect_all(ports: &BTreeSet<String>) -> Result<(), Error> {
    nft::delete_chains(Family::Netdev, TABLE, ports).map_err(about("ports that are gone"))
}

/// The chains of all ports, read at once.
#[derive(Debug)]
pub struct Chains(BTreeMap<String, Chain>);

impl Chains {
    /// Reads them.
    pub fn read() -> Result<Self, Error> {
        let table = nft::read(Family::Netdev, TABLE).map_err(about("all ports"))?;
        Ok(Self(table.filter(|table| !table.dormant).map(|table| table.table.chains).unwrap_or_default()))
    }

    /// What is wrong with the chain of a port, if anything.
    #[must_use]
    pub fn problem(&self, port: &str, mac: Mac, addresses: &Addresses) -> Option<String> {
        match self.0.get(port) {
            None => Some(format!("the rules against spoofing on {port} are missing")),
            Some(found) if *found != chain(port, mac, addresses) => {
                Some(format!("the rules against spoofing on {port} have been changed"))
            }
            Some(_) => None,
        }
    }
}

/// The ports that have a chain.
pub fn protected() -> Result<Vec<String>, Error> {
    nft::chain_names(Family::Netdev, TABLE).map_err(about("all ports"))
}

fn about(port: &str) -> impl FnOnce(nft::Error) -> Error {
    move |source| Error { port: port.to_owned(), source }
}

/// The chain of a port: pure.
#[must_use]
fn chain(port: &str, mac: Mac, addresses: &Addresses) -> Chain {
    let mut rules = vec![Rule::new().payload_not(PayloadBase::Link, 6, mac.0).count(MAC).drop()];
    rules.extend(ipv4(mac, addresses));
    rules.push(not_of_type(ETHERTYPE_IPV6).count(ETHERTYPE).drop());
    rules.extend(ipv6(mac, addresses));
    Chain::ingress(port, PRIORITY, rules)
}

/// IPv4 and ARP.
fn ipv4(mac: Mac, addresses: &Addresses) -> Vec<Rule> {
    let mut rules = vec![];
    for address in addresses.iter() {
        let IpAddr::V4(address) = address else { continue };
        let sender = [&mac.0[..], &address.octets()].concat();
        rules.push(
            of_type(ETHERTYPE_IPV4).payload(PayloadBase::Network, IPV4_SOURCE, address.octets()).accept(),
        );
        rules.push(
            of_type(ETHERTYPE_ARP)
                .payload(PayloadBase::Network, 0, ARP_HEADER)
                .payload(PayloadBase::Network, ARP_SENDER, sender)
                .accept(),
        );
    }
    rules.push(of_type(ETHERTYPE_IPV4).count(IPV4).drop());
    rules.push(of_type(ETHERTYPE_ARP).count(ARP).drop());
    rules
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
    // An IPv4 pod has no use for ND, nor for the link-local address that the kernel gives it.
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
