//! What may be joined to what: the rules of `tcp_gro_receive` and `inet_gro_receive` in Linux, made strict
//! enough that cutting gives the same bytes again.

use crate::tunnel::io::MAX_PACKET;
use crate::tunnel::io::checksum::{Sum, pseudo_header};
use crate::tunnel::io::joins::{Joining, Joins};
use crate::tunnel::io::packet::{IPV4, IPV6, TCP, UDP, long, put_word, word};
use crate::tunnel::io::segment::checksum_at;
use crate::tunnel::io::vnet::{Gso, VnetHeader};

/// Longest headers that are joined: IPv6, and TCP with all options.
pub(super) const MAX_HEADERS: usize = IPV6 + 60;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Most datagrams that the kernel cuts from one (`UDP_MAX_SEGMENTS` before Linux 6.9).
const MAX_DATAGRAMS: usize = 64;

const FIN_PSH: u8 = 0x09;
const SYN_RST_URG_CWR: u8 = 0xa6;
const ACK: u8 = 0x10;
/// More fragments, fragment offset, and the bit that must be zero.
const FRAGMENT: u16 = 0xbfff;

/// Packets joined so far. The first one's headers stand before all the payloads.
#[derive(Debug)]
pub(super) struct Group {
    /// Bytes in all.
    pub(super) len: usize,
    /// Length of the headers of each packet.
    pub(super) headers: usize,
    udp: bool,
    gso: Gso,
    /// A shorter packet may follow as the last.
    uneven: bool,
    transport: usize,
    /// Payload of the first packet, and of every other but the last.
    payload: usize,
    count: usize,
    /// Sequence number that continues.
    sequence: u32,
    /// Nothing may follow the first packet.
    pub(super) ends: bool,
    /// The first packet's checksums were found right.
    verified: bool,
}

impl Group {
    /// A group of the one packet `packet`; none for what is not joined, ever or by `joins`.
    pub(super) fn of(packet: &[u8], joins: Joins) -> Option<Self> {
        let len = packet.len();
        let (transport, protocol) = match packet.first()? >> 4 {
            4 if len > IPV4 => {
                let plain = packet[0] == 0x45 && word(packet, 6) & FRAGMENT == 0;
                (plain && usize::from(word(packet, 2)) == len).then_some((IPV4, packet[9]))?
            }
            6 if len > IPV6 => (usize::from(word(packet, 4)) + IPV6 == len).then_some((IPV6, packet[6]))?,
            _ => return None,
        };
        let rest = &packet[transport..];
        let udp = protocol == UDP;
        let header = match protocol {
            TCP if rest.len() > TCP_HEADER => {
                let flags = rest[13] & (SYN_RST_URG_CWR | ACK);
                (flags == ACK && rest[12] & 0xf == 0).then_some(usize::from(rest[12] >> 4) * 4)?
            }
            UDP if rest.len() > UDP_HEADER => {
                let whole = usize::from(word(rest, 4)) == rest.len();
                (whole && word(rest, 6) != 0).then_some(UDP_HEADER)?
            }
            _ => return None,
        };
        if header >= rest.len() || (!udp && header < TCP_HEADER) {
            return None;
        }
        let gso = match (udp, transport) {
            (true, _) => Gso::Udp,
            (false, IPV4) => Gso::TcpV4,
            (false, _) => Gso::TcpV6,
        };
        let uneven = match joins.of(gso) {
            Joining::Nothing => return None,
            Joining::Equal => false,
            Joining::All => true,
        };
        let payload = rest.len() - header;
        let sequence = if udp { 0 } else { long(rest, 4).wrapping_add(as_u32(payload)) };
        let headers = transport + header;
        let ends = !udp && rest[13] & FIN_PSH != 0;
        let (count, verified) = (1, false);
        Some(Self { len, headers, udp, gso, uneven, transport, payload, count, sequence, ends, verified })
    }

    /// Whether a packet of these `headers` and this `payload` continues the group, whose bytes are `packet`.
    pub(super) fn accepts(&mut self, packet: &[u8], headers: &[u8], payload: &[u8]) -> bool {
        headers.len() == self.headers
            && !payload.is_empty()
            && (payload.len() == self.payload || self.uneven && payload.len() < self.payload)
            && packet.len() + payload.len() <= MAX_PACKET
            && self.continues(packet, headers, payload.len())
            && self.is_verified(packet)
            && is_right(headers, payload, self.transport, self.udp)
    }

    fn continues(&self, first: &[u8], next: &[u8], payload: usize) -> bool {
        let same = |from: usize, to: usize| first[from..to] == next[from..to];
        let at = self.transport;
        let len = self.headers + payload;
        let network = if at == IPV4 {
            // Versions, lengths and TOS; flags, TTL and protocol; addresses. The ID counts.
            same(0, 2)
                && usize::from(word(next, 2)) == len
                && usize::from(word(next, 4).wrapping_sub(word(first, 4))) == self.count
                && same(6, 10)
                && same(12, 20)
        } else {
            same(0, 4) && usize::from(word(next, 4)) + IPV6 == len && same(6, IPV6)
        };
        if self.udp {
            return network
                && same(at, at + 4)
                && usize::from(word(next, at + 4)) == payload + UDP_HEADER
                && word(next, at + 6) != 0;
        }
        network
            && same(at, at + 4)
            && long(next, at + 4) == self.sequence
            && same(at + 8, at + 13)
            && (first[at + 13] ^ next[at + 13]) & !FIN_PSH == 0
            && same(at + 14, at + 16)
            && same(at + 18, self.headers)
    }

    fn is_verified(&mut self, packet: &[u8]) -> bool {
        if !self.verified {
            let (headers, payload) = packet.split_at(self.headers);
            self.verified = is_right(headers, payload, self.transport, self.udp);
        }
        self.verified
    }

    /// Adds a packet that was [accepted](Self::accepts) and whose payload stands behind `packet`. True if the
    /// group ends with it.
    pub(super) fn join(&mut self, packet: &mut [u8], headers: &[u8], payload: usize) -> bool {
        self.len += payload;
        self.count += 1;
        self.sequence = self.sequence.wrapping_add(as_u32(payload));
        let full = payload < self.payload || self.len + self.payload > MAX_PACKET;
        if self.udp {
            return full || self.count == MAX_DATAGRAMS;
        }
        let ending = headers[self.transport + 13] & FIN_PSH;
        packet[self.transport + 13] |= ending;
        full || ending != 0
    }

    /// Makes `packet` one super-packet and gives its description. A single packet stays as it is.
    #[expect(clippy::cast_possible_truncation, reason = "a group is no longer than 65,535 bytes")]
    pub(super) fn finish(&self, packet: &mut [u8]) -> VnetHeader {
        if self.count == 1 {
            return VnetHeader::default();
        }
        let (network, transport) = packet.split_at_mut(self.transport);
        let len = transport.len() as u16;
        let addresses = if self.transport == IPV4 {
            put_word(network, 2, self.len as u16);
            put_word(network, 10, 0);
            let checksum = Sum::default().bytes(network).checksum();
            network[10..12].copy_from_slice(&checksum);
            &network[12..20]
        } else {
            put_word(network, 4, len);
            &network[8..40]
        };
        let protocol = if self.udp { UDP } else { TCP };
        let sum = pseudo_header(addresses, protocol).number(len).folded();
        if self.udp {
            put_word(transport, 4, len);
        }
        let checksum = checksum_at(self.udp);
        transport[checksum..checksum + 2].copy_from_slice(&sum);
        VnetHeader {
            needs_checksum: true,
            gso: self.gso,
            header_len: self.headers as u16,
            gso_size: self.payload as u16,
            checksum_start: self.transport as u16,
            checksum_offset: checksum as u16,
        }
    }
}

/// Whether `packet` is of the flow whose first packet has the headers `first`, or may be a part of one that is.
pub(super) fn same_flow(first: &[u8], packet: &[u8]) -> bool {
    let same = |from: usize, to: usize| packet.len() >= to && first[from..to] == packet[from..to];
    let ports = |at: usize| packet.len() < at + 4 || same(at, at + 4);
    let Some(version) = packet.first().map(|byte| byte >> 4).filter(|version| *version == first[0] >> 4)
    else {
        return false;
    };
    if version == 4 {
        let fragment = packet.len() >= IPV4 && word(packet, 6) & 0x3fff != 0;
        let options = packet[0] != 0x45;
        return same(12, 20) && same(9, 10) && (fragment || options || ports(IPV4));
    }
    let known = packet.len() > IPV6 && matches!(packet[6], TCP | UDP);
    same(8, IPV6) && if known { same(6, 7) && ports(IPV6) } else { true }
}

/// Whether the checksums of a packet are right.
fn is_right(headers: &[u8], payload: &[u8], transport: usize, udp: bool) -> bool {
    let (network, header) = headers.split_at(transport);
    let v4 = transport == IPV4;
    let addresses = if v4 { &network[12..20] } else { &network[8..40] };
    let protocol = if udp { UDP } else { TCP };
    let Ok(len) = u16::try_from(header.len() + payload.len()) else { return false };
    (!v4 || Sum::default().bytes(network).is_valid())
        && pseudo_header(addresses, protocol).number(len).bytes(header).bytes(payload).is_valid()
}

#[expect(clippy::cast_possible_truncation, reason = "payloads are shorter than 65,536 bytes")]
fn as_u32(payload: usize) -> u32 {
    payload as u32
}
