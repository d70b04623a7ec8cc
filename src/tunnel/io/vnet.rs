//! `struct virtio_net_hdr` (virtio 1.2, section 5.1.6), which stands before each packet of a TUN with
//! `IFF_VNET_HDR`, in the byte order of the machine.

/// Length of the header, in bytes.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// A plain packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

/// The header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// The transport checksum holds the sum of the pseudo-header alone: the payload's is to be added.
    pub needs_checksum: bool,
    /// What follows.
    pub gso: Gso,
    /// Length of all headers, in bytes; a hint.
    pub header_len: u16,
    /// Payload of each segment but the last, in bytes.
    pub gso_size: u16,
    /// Where the checksummed part starts: the transport header.
    pub checksum_start: u16,
    /// Where in that part the checksum is stored.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Decodes a header; none if it announces a kind of super-packet that was never asked for.
    #[must_use]
    pub fn decode(bytes: &[u8; LEN]) -> Option<Self> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        Some(Self {
            needs_checksum: bytes[0] & NEEDS_CSUM != 0,
            gso,
            header_len: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
        })
    }

    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        for (at, value) in [self.header_len, self.gso_size, self.checksum_start, self.checksum_offset]
            .into_iter()
            .enumerate()
        {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}
