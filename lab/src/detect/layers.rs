//! The layers of a frame, outermost first, each looking only at addresses and at what it carries.
//!
//! Every function takes the bytes of its layer, possibly cut short, and gives the first forbidden address.

use std::net::IpAddr;

use super::{Finding, Ranges};

/// Layers deeper than this are left to the search at any offset.
const DEEPEST: usize = 12;

/// Looks through an Ethernet frame.
pub(super) fn ethernet(frame: &[u8], ranges: &Ranges) -> Option<Finding> {
    Walk { ranges, path: Path::default() }.ethernet(frame)
}

/// Source and destination of a frame that is an IP packet and nothing around it.
pub(super) fn ends(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let packet = frame.get(14..)?;
    match be16(frame, 12)? {
        0x0800 => {
            let at = |from: usize| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(from..from + 4)?).ok()?));
            Some([at(12)?, at(16)?])
        }
        0x86dd => {
            let at =
                |from: usize| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(from..from + 16)?).ok()?));
            Some([at(8)?, at(24)?])
        }
        _ => None,
    }
}

/// The names of the layers walked through.
#[derive(Clone, Copy, Default)]
struct Path {
    names: [&'static str; DEEPEST],
    depth: usize,
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    ranges: &'a Ranges,
    path: Path,
}

impl Walk<'_> {
    fn deeper(mut self, name: &'static str) -> Option<Self> {
        *self.path.names.get_mut(self.path.depth)? = name;
        self.path.depth += 1;
        Some(self)
    }

    fn address(self, role: &str, address: IpAddr) -> Option<Finding> {
        let what = self.ranges.kind(address)?;
        let place = format!("{} {role}", self.path.names[..self.path.depth].join(" > "));
        Some(Finding { what, address: Some(address), place })
    }

    fn v4(self, role: &str, bytes: &[u8], at: usize) -> Option<Finding> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        self.address(role, octets.into())
    }

    fn v6(self, role: &str, bytes: &[u8], at: usize) -> Option<Finding> {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        self.address(role, octets.into())
    }

    fn ethernet(self, frame: &[u8]) -> Option<Finding> {
        self.ether_type(be16(frame, 12)?, frame.get(14..)?)
    }

    fn ether_type(self, kind: u16, bytes: &[u8]) -> Option<Finding> {
        match kind {
            0x0800 => self.deeper("IPv4")?.ipv4(bytes),
            0x86dd => self.deeper("IPv6")?.ipv6(bytes),
            0x0806 => self.deeper("ARP")?.arp(bytes),
            0x8100 | 0x88a8 | 0x9100 => self.deeper("VLAN")?.ether_type(be16(bytes, 2)?, bytes.get(4..)?),
            0x8847 | 0x8848 => self.deeper("MPLS")?.mpls(bytes),
            0x8864 => self.deeper("PPPoE")?.ppp(bytes.get(6..)?),
            0x6558 => self.deeper("Ethernet")?.ethernet(bytes),
            _ => None,
        }
    }

    fn arp(self, bytes: &[u8]) -> Option<Finding> {
        self.v4("sender", bytes, 14).or_else(|| self.v4("target", bytes, 24))
    }

    fn mpls(self, bytes: &[u8]) -> Option<Finding> {
        let bottom = bytes.chunks_exact(4).position(|label| label[2] & 1 == 1)?;
        self.any_ip(bytes.get((bottom + 1) * 4..)?)
    }

    fn ppp(self, bytes: &[u8]) -> Option<Finding> {
        match be16(bytes, 0)? {
            0x0021 => self.deeper("IPv4")?.ipv4(&bytes[2..]),
            0x0057 => self.deeper("IPv6")?.ipv6(&bytes[2..]),
            _ => None,
        }
    }

    fn any_ip(self, bytes: &[u8]) -> Option<Finding> {
        match bytes.first()? >> 4 {
            4 => self.deeper("IPv4")?.ipv4(bytes),
            6 => self.deeper("IPv6")?.ipv6(bytes),
            _ => None,
        }
    }

    fn ipv4(self, bytes: &[u8]) -> Option<Finding> {
        let header = usize::from(bytes.first()? & 0x0f) * 4;
        let options = bytes.get(20..header.min(bytes.len())).unwrap_or_default();
        self.v4("source", bytes, 12)
            .or_else(|| self.v4("destination", bytes, 16))
            .or_else(|| (0..options.len()).find_map(|at| self.v4("option", options, at)))
            .or_else(|| {
                let first_fragment = be16(bytes, 6)? & 0x1fff == 0;
                first_fragment.then_some(())?;
                self.carried(*bytes.get(9)?, bytes.get(header.max(20)..)?)
            })
    }

    fn ipv6(self, bytes: &[u8]) -> Option<Finding> {
        self.v6("source", bytes, 8)
            .or_else(|| self.v6("destination", bytes, 24))
            .or_else(|| self.carried(*bytes.get(6)?, bytes.get(40..)?))
    }

    /// What an IP packet, or an extension header, carries.
    fn carried(self, protocol: u8, bytes: &[u8]) -> Option<Finding> {
        match protocol {
            0 | 60 | 135 | 139 | 140 => self.extension(bytes),
            43 => self.routing(bytes).or_else(|| self.extension(bytes)),
            44 => {
                let first_fragment = be16(bytes, 2)? & 0xfff8 == 0;
                first_fragment.then_some(())?;
                self.deeper("fragment")?.carried(*bytes.first()?, bytes.get(8..)?)
            }
            51 => {
                let length = (usize::from(*bytes.get(1)?) + 2) * 4;
                self.deeper("AH")?.carried(*bytes.first()?, bytes.get(length..)?)
            }
            1 => self.deeper("ICMP")?.icmp(bytes),
            58 => self.deeper("ICMPv6")?.icmpv6(bytes),
            4 | 94 => self.deeper("IPv4")?.ipv4(bytes),
            41 => self.deeper("IPv6")?.ipv6(bytes),
            47 => self.deeper("GRE")?.gre(bytes),
            17 => self.deeper("UDP")?.udp(bytes),
            55 => {
                let walk = self.deeper("minimal encapsulation")?;
                walk.v4("destination", bytes, 4).or_else(|| walk.v4("source", bytes, 8))
            }
            97 => self.deeper("EtherIP")?.ethernet(bytes.get(2..)?),
            137 => self.deeper("MPLS")?.mpls(bytes),
            _ => None,
        }
    }

    fn extension(self, bytes: &[u8]) -> Option<Finding> {
        let length = (usize::from(*bytes.get(1)?) + 1) * 8;
        self.deeper("extension")?.carried(*bytes.first()?, bytes.get(length..)?)
    }

    /// Addresses in a routing header (RFC 8200 4.4, RFC 8754): all types hold them from byte 8 on.
    fn routing(self, bytes: &[u8]) -> Option<Finding> {
        let length = (usize::from(*bytes.get(1)?) + 1) * 8;
        let header = bytes.get(..length)?;
        (8..length).step_by(16).find_map(|at| self.v6("routing header", header, at))
    }

    fn icmp(self, bytes: &[u8]) -> Option<Finding> {
        match bytes.first()? {
            3 | 4 | 11 | 12 => self.deeper("quote")?.any_ip(bytes.get(8..)?),
            5 => self
                .v4("redirect gateway", bytes, 4)
                .or_else(|| self.deeper("quote")?.any_ip(bytes.get(8..)?)),
            _ => None,
        }
    }

    fn icmpv6(self, bytes: &[u8]) -> Option<Finding> {
        match bytes.first()? {
            1..=4 => self.deeper("quote")?.any_ip(bytes.get(8..)?),
            134 => self.neighbour_options(bytes.get(16..)?),
            135 | 136 => self.v6("neighbour", bytes, 8).or_else(|| self.neighbour_options(bytes.get(24..)?)),
            137 => self
                .v6("redirect target", bytes, 8)
                .or_else(|| self.v6("redirect destination", bytes, 24))
                .or_else(|| self.neighbour_options(bytes.get(40..)?)),
            _ => None,
        }
    }

    /// Options of neighbour discovery (RFC 4861 4.6) that hold a prefix or quote a packet.
    fn neighbour_options(self, mut bytes: &[u8]) -> Option<Finding> {
        while let [kind, units, ..] = *bytes {
            let length = usize::from(units) * 8;
            if length == 0 {
                return None;
            }
            let option = bytes.get(..length)?;
            let found = match kind {
                3 => self.v6("announced prefix", option, 16),
                4 => self.deeper("quote")?.any_ip(&option[8..]),
                24 => self.v6("announced route", option, 8),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
            bytes = &bytes[length..];
        }
        None
    }

    /// RFC 2784, RFC 2890; ERSPAN II as used by mirrors.
    fn gre(self, bytes: &[u8]) -> Option<Finding> {
        let flags = be16(bytes, 0)?;
        let optional = [0x8000, 0x2000, 0x1000].iter().filter(|bit| flags & **bit != 0).count();
        let payload = bytes.get(4 + optional * 4..)?;
        match be16(bytes, 2)? {
            0x88be => self.deeper("ERSPAN")?.ethernet(payload.get(8..)?),
            kind => self.ether_type(kind, payload),
        }
    }

    fn udp(self, bytes: &[u8]) -> Option<Finding> {
        let ports = [be16(bytes, 0)?, be16(bytes, 2)?];
        let payload = bytes.get(8..)?;
        ports.into_iter().find_map(|port| match port {
            4789 | 8472 => self.deeper("VXLAN")?.ethernet(payload.get(8..)?),
            4790 => self.deeper("VXLAN-GPE")?.any_ip(payload.get(8..)?),
            6081 => {
                let options = usize::from(payload.first()? & 0x3f) * 4;
                self.deeper("Geneve")?.ether_type(be16(payload, 2)?, payload.get(8 + options..)?)
            }
            4754 => self.deeper("GRE")?.gre(payload),
            6635 => self.deeper("MPLS")?.mpls(payload),
            _ => None,
        })
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
