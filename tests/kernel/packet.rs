//! Packets to send, and what is looked at in those that come out.

use std::net::IpAddr;

use selvedge_lab::packet::{icmp, icmpv6, ipv4, ipv6, udp};

/// Port of whoever answers.
pub(crate) const PORT: u16 = 4000;

/// A UDP packet with a payload to know it by.
pub(crate) fn datagram(source: IpAddr, destination: IpAddr, canary: &str) -> Vec<u8> {
    udp(source, destination, [PORT, PORT], canary.as_bytes())
}

/// The same with one hop left.
pub(crate) fn dying(source: IpAddr, destination: IpAddr, ports: [u16; 2], canary: &str) -> Vec<u8> {
    let mut packet = udp(source, destination, ports, canary.as_bytes());
    if source.is_ipv6() {
        packet[7] = 1;
        return packet;
    }
    packet[8] = 1;
    packet[10..12].fill(0);
    let sum = selvedge_lab::packet::checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// "No such port" from `source`, quoting `quoted`.
pub(crate) fn unreachable(source: IpAddr, destination: IpAddr, quoted: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, 1, &icmp(3, 3, [0; 4], quoted))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = icmpv6(source, destination, 1, 64, &[&[0; 4][..], quoted].concat());
            packet[41] = 4;
            let message = &mut packet[40..];
            message[2..4].fill(0);
            let sum =
                selvedge_lab::packet::transport_checksum(source.into(), destination.into(), 58, message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            packet
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// A TCP segment without payload.
pub(crate) fn tcp(source: IpAddr, destination: IpAddr, flags: u8) -> Vec<u8> {
    let mut segment =
        [&PORT.to_be_bytes()[..], &PORT.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags]].concat();
    segment.extend([0x10, 0, 0, 0, 0, 0]);
    let sum = selvedge_lab::packet::transport_checksum(source, destination, 6, &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, 6, &segment)
}

/// The same packet with a transport checksum (16 bytes behind the TCP header's begin) that is wrong.
pub(crate) fn damaged(mut packet: Vec<u8>) -> Vec<u8> {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    packet[header + 16] ^= 0x55;
    packet
}

/// An ICMP message of this family's type, with 4 bytes and then `body` behind the checksum.
pub(crate) fn message(source: IpAddr, destination: IpAddr, kind: u8, body: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, 1, &icmp(kind, 0, [0; 4], body))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            icmpv6(source, destination, kind, 64, &[&[0; 4][..], body].concat())
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(source, destination, protocol, 64, payload),
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// Packets that begin nothing and belong to no connection, by what they are: connection tracking finds the TCP ones and
/// the ICMP errors invalid, and does not track neighbour discovery.
pub(crate) fn strays(source: IpAddr, destination: IpAddr) -> Vec<(&'static str, Vec<u8>)> {
    const SYN: u8 = 2;
    let of_tcp = [
        ("SYN-ACK", 0x12),
        ("RST", 0x04),
        ("RST-ACK", 0x14),
        ("FIN", 0x01),
        ("null", 0),
        ("xmas", 0x29),
        ("SYN-FIN", 0x03),
        ("all flags", 0x3f),
    ];
    let mut all: Vec<_> = of_tcp.map(|(name, flags)| (name, tcp(source, destination, flags))).into();
    all.push(("bad TCP checksum", damaged(tcp(source, destination, SYN))));
    // About a packet that nobody sent.
    let quoted = datagram(destination, source, "quoted");
    let (errors, others): (&[_], &[_]) = match source {
        IpAddr::V4(_) => (
            &[("unreachable", 3), ("source quench", 4), ("time exceeded", 11), ("parameter problem", 12)],
            &[("echo reply", 0), ("timestamp reply", 14), ("redirect", 5)],
        ),
        IpAddr::V6(_) => (
            &[("unreachable", 1), ("too big", 2), ("time exceeded", 3), ("parameter problem", 4)],
            &[
                ("echo reply", 129),
                ("listener report", 131),
                ("router solicitation", 133),
                ("router advertisement", 134),
                ("neighbour solicitation", 135),
                ("neighbour advertisement", 136),
                ("redirect", 137),
            ],
        ),
    };
    all.extend(errors.iter().map(|(name, kind)| (*name, message(source, destination, *kind, &quoted))));
    all.extend(others.iter().map(|(name, kind)| (*name, message(source, destination, *kind, &[0; 32]))));
    all
}

/// Packets that begin something, of several protocols.
pub(crate) fn beginnings(source: IpAddr, destination: IpAddr) -> Vec<(&'static str, Vec<u8>)> {
    let echo_request = if source.is_ipv4() { 8 } else { 128 };
    vec![
        ("UDP", datagram(source, destination, "begins")),
        ("SYN", tcp(source, destination, 2)),
        ("ACK, taken for a connection from before", tcp(source, destination, 0x10)),
        ("echo request", message(source, destination, echo_request, &[0; 32])),
        ("ESP", ip(source, destination, 50, &[1; 32])),
    ]
}

/// A UDP packet whose route is to be recorded, and was by its sender (RFC 791, section 3.1), or that is to go by way
/// of its sender again (a routing header of type 0, RFC 2460, section 4.4).
pub(crate) fn recording(source: IpAddr, destination: IpAddr, canary: &str) -> Vec<u8> {
    let whole = datagram(source, destination, canary);
    match (source, destination) {
        (IpAddr::V4(own), _) => {
            let options = [&[7, 11, 8][..], &own.octets(), &[0; 5]].concat();
            let mut packet = [&whole[..20], &options, &whole[20..]].concat();
            packet[0] = 0x48;
            let length = u16::try_from(packet.len()).unwrap();
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[10..12].fill(0);
            let sum = selvedge_lab::packet::checksum(&[&packet[..32]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet
        }
        (IpAddr::V6(own), IpAddr::V6(destination)) => {
            let header = [&[17, 2, 0, 1, 0, 0, 0, 0][..], &own.octets(), &whole[40..]].concat();
            ipv6(own, destination, 43, 64, &header)
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// The first and second fragment of a UDP packet.
pub(crate) fn fragments(source: IpAddr, destination: IpAddr, canary: &str) -> Vec<Vec<u8>> {
    let whole = udp(source, destination, [PORT, PORT], format!("{canary:-<24}").as_bytes());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let cut = |from: usize, to: usize, bits: u16| {
                let mut part = ipv4(source, destination, 17, &whole[20 + from..20 + to]);
                part[6..8].copy_from_slice(&bits.to_be_bytes());
                part[10..12].fill(0);
                let sum = selvedge_lab::packet::checksum(&[&part[..20]]);
                part[10..12].copy_from_slice(&sum.to_be_bytes());
                part
            };
            vec![cut(0, 16, 0x2000), cut(16, 32, 2)]
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let cut = |from: usize, to: usize, bits: u16| {
                let mut header = vec![17, 0];
                header.extend(bits.to_be_bytes());
                header.extend([0, 0, 0, 7]);
                header.extend(&whole[40 + from..40 + to]);
                ipv6(source, destination, 44, 64, &header)
            };
            vec![cut(0, 16, 1), cut(16, 32, 16)]
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

/// What is looked at in a packet that came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// What follows the IP header.
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::at(packet, (12, 4), packet[9], 20),
            6 => Self::at(packet, (8, 16), packet[6], 40),
            _ => None,
        }
    }

    fn at(packet: &[u8], (offset, length): (usize, usize), protocol: u8, header: usize) -> Option<Self> {
        let source = address(packet.get(offset..offset + length)?)?;
        let destination = address(packet.get(offset + length..offset + 2 * length)?)?;
        Some(Self { source, destination, protocol, payload: packet.get(header..)?.to_vec() })
    }

    pub(crate) fn has(&self, canary: &str) -> bool {
        self.payload.windows(canary.len()).any(|window| window == canary.as_bytes())
    }

    /// UDP's source and destination port.
    pub(crate) fn ports(&self) -> [u16; 2] {
        let port = |at: usize| u16::from_be_bytes([self.payload[at], self.payload[at + 1]]);
        [port(0), port(2)]
    }

    /// The packet that an ICMP error quotes.
    pub(crate) fn quoted(&self) -> Option<Self> {
        matches!(self.protocol, 1 | 58).then(|| self.payload.get(8..)).flatten().and_then(Self::parse)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}
