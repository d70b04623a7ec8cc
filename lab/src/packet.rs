//! Builds packets and frames byte by byte: for planted frames, forged ones and tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

/// A MAC address.
pub type Mac = [u8; 6];

/// An Ethernet frame.
#[must_use]
pub fn ethernet(destination: Mac, source: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet without options, TTL 64, with its checksum.
///
/// # Panics
/// When the payload is longer than an IPv4 packet can carry.
#[must_use]
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("an IPv4 packet is at most 65535 bytes");
    let [high, low] = length.to_be_bytes();
    let mut packet = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet with the given hop limit (neighbour discovery needs 255).
///
/// # Panics
/// When the payload is longer than an IPv6 packet can carry.
#[must_use]
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("an IPv6 payload is at most 65535 bytes");
    let [high, low] = length.to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, high, low, next, hops];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IP packet of either family that carries a UDP datagram, checksums included.
///
/// # Panics
/// When the addresses are of different families or the payload is too long.
#[must_use]
pub fn udp(source: IpAddr, destination: IpAddr, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a UDP datagram is at most 65535 bytes");
    let fields = [ports[0], ports[1], length, 0];
    let mut datagram: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
    datagram.extend(payload);
    let sum = match transport_checksum(source, destination, 17, &datagram) {
        0 => u16::MAX,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, 17, &datagram),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, 17, 64, &datagram),
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// An ICMPv6 message in its packet; `body` is what follows the checksum.
#[must_use]
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0][..], body].concat();
    let sum = transport_checksum(source.into(), destination.into(), 58, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv6(source, destination, 58, hops, &message)
}

/// An ICMP message of 8 bytes and then `body`, with its checksum, without an IP header.
#[must_use]
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, body].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An ARP request (operation 1) or reply (2).
#[must_use]
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender.0);
    packet.extend(sender.1.octets());
    packet.extend(target.0);
    packet.extend(target.1.octets());
    packet
}

/// The Internet checksum (RFC 1071) over all parts, each of even length but the last.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for word in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// The checksum of UDP, TCP and ICMPv6, over the pseudo header and `payload`.
#[must_use]
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let tail = [&length[..], &[0, 0, 0, protocol]].concat();
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => checksum(&[&s.octets(), &d.octets(), &tail, payload]),
        (IpAddr::V6(s), IpAddr::V6(d)) => checksum(&[&s.octets(), &d.octets(), &tail, payload]),
        _ => 0,
    }
}
