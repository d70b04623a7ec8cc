//! The messages between two data planes: one byte for the kind, then its content.
//!
//! The two may be of different versions: a message of an unknown kind is ignored, and so are unknown fields of a peer.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::tunnel::device::LivePeer;
use crate::tunnel::endpoint::Endpoint;

/// A message, of either direction: both ends are the same program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// A message without packets.
    Signal(Signal),
    /// Predecessor: a packet that waits for a session.
    Packet(&'a [u8]),
    /// Successor: datagrams of one sender for sessions that are not the successor's.
    Datagrams {
        /// The sender.
        from: SocketAddr,
        /// Size of each but the last.
        segment: u16,
        /// All of them.
        bytes: &'a [u8],
    },
}

/// The steps of the hand-over, and what they need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Successor: stop reading UDP.
    TakeUdp,
    /// Successor: stop reading the TUN.
    TakeTun,
    /// Successor: end.
    Done,
    /// Predecessor: it has stopped reading UDP.
    UdpTaken,
    /// Predecessor: it has stopped reading the TUN.
    TunTaken,
    /// Predecessor: a chunk of the peers with a session and recent traffic.
    Peers(Vec<LivePeer>),
    /// Predecessor: a chunk of the receiver indices in use, their upper 24 bits.
    Indices(Vec<u32>),
}

/// A [`LivePeer`] as it is sent, in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    endpoint: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
}

/// The signals without content, by kind.
const PLAIN: [(u8, Signal); 5] = [
    (1, Signal::TakeUdp),
    (2, Signal::TakeTun),
    (3, Signal::Done),
    (4, Signal::UdpTaken),
    (5, Signal::TunTaken),
];
const PEERS: u8 = 6;
const INDICES: u8 = 7;
const PACKET: u8 = 8;
const DATAGRAMS: u8 = 9;
/// Length in bytes of what precedes the datagrams: kind, address, port and segment size.
const DATAGRAMS_HEADER: usize = 1 + 16 + 2 + 2;

impl<'a> Message<'a> {
    /// The message as its header and its packets; the packets are not copied.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, &'a [u8]) {
        match self {
            Self::Signal(signal) => (signal.encode(), &[]),
            Self::Packet(packet) => (vec![PACKET], packet),
            Self::Datagrams { from, segment, bytes } => {
                let mut header = Vec::with_capacity(DATAGRAMS_HEADER);
                header.push(DATAGRAMS);
                let ip = match from.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                header.extend(ip.octets());
                header.extend(from.port().to_le_bytes());
                header.extend(segment.to_le_bytes());
                (header, bytes)
            }
        }
    }

    /// Parses a message; `None` when its kind is unknown or it is malformed.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            PACKET => Some(Self::Packet(rest)),
            DATAGRAMS => {
                let (ip, rest) = rest.split_first_chunk::<16>()?;
                let (port, rest) = rest.split_first_chunk()?;
                let (segment, bytes) = rest.split_first_chunk()?;
                let from = SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), u16::from_le_bytes(*port));
                let segment = u16::from_le_bytes(*segment);
                (segment > 0).then_some(Self::Datagrams { from, segment, bytes })
            }
            kind => Signal::decode(kind, rest).map(Self::Signal),
        }
    }
}

impl Signal {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Peers(peers) => {
                // Cannot fail: names and addresses always have a JSON form.
                let entry = |LivePeer { name, endpoint }: &LivePeer| Entry {
                    name: name.clone(),
                    endpoint: endpoint.address,
                    source: endpoint.source,
                };
                let json =
                    serde_json::to_vec(&peers.iter().map(entry).collect::<Vec<_>>()).unwrap_or_default();
                [&[PEERS], &json[..]].concat()
            }
            Self::Indices(indices) => {
                let indices = indices.iter().flat_map(|index| index.to_le_bytes());
                std::iter::once(INDICES).chain(indices).collect()
            }
            plain => PLAIN.iter().filter(|(_, signal)| signal == plain).map(|(kind, _)| *kind).collect(),
        }
    }

    fn decode(kind: u8, rest: &[u8]) -> Option<Self> {
        match kind {
            PEERS => {
                let entries: Vec<Entry> = serde_json::from_slice(rest).ok()?;
                let peer = |Entry { name, endpoint: address, source }| LivePeer {
                    name,
                    endpoint: Endpoint { address, source },
                };
                Some(Self::Peers(entries.into_iter().map(peer).collect()))
            }
            INDICES => {
                let (indices, odd) = rest.as_chunks();
                let indices = indices.iter().map(|index| u32::from_le_bytes(*index)).collect();
                odd.is_empty().then_some(Self::Indices(indices))
            }
            kind => PLAIN.iter().find(|(known, _)| *known == kind).map(|(_, signal)| signal.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(message: &Message<'_>) {
        let (mut bytes, rest) = message.encode();
        bytes.extend(rest);
        assert_eq!(Message::decode(&bytes).as_ref(), Some(message));
    }

    #[test]
    fn messages_survive_their_encoding() {
        let address: SocketAddr = "192.0.2.1:51830".parse().unwrap();
        let endpoint = Endpoint { address, source: Some("192.0.2.2".parse().unwrap()) };
        let lists = [
            Signal::Peers(vec![LivePeer { name: "node2".into(), endpoint }]),
            Signal::Peers(vec![LivePeer { name: "node3".into(), endpoint: address.into() }]),
            Signal::Indices(vec![0, 0xff_ffff]),
        ];
        for signal in PLAIN.into_iter().map(|(_, signal)| signal).chain(lists) {
            again(&Message::Signal(signal));
        }
        again(&Message::Packet(b"ip"));
        for from in ["192.0.2.1:51830", "[2001:db8::1]:1"] {
            again(&Message::Datagrams { from: from.parse().unwrap(), segment: 1452, bytes: b"sealed" });
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let no_segment = [&[9; 19][..], &[0, 0], b"rest"].concat();
        for bytes in [&b""[..], &[99], &[7, 1, 2, 3], b"\x06{", &[9, 1, 2], &no_segment] {
            assert_eq!(Message::decode(bytes), None, "{bytes:?}");
        }
    }
}
