//! What two data planes say to each other: one byte for the kind, then what that kind has.
//!
//! The two may be of different versions: a kind that one does not know it passes over, and a list may say more of
//! each peer than is known.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::tunnel::device::LivePeer;

/// One message. Those of either direction are in one type, because both ends are one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letter<'a> {
    /// Something said.
    Word(Word),
    /// Predecessor: a packet that waits for a session.
    Packet(&'a [u8]),
    /// Heir: datagrams of one sender for sessions that are not the heir's.
    Datagrams {
        /// The sender.
        from: SocketAddr,
        /// Size of each but the last.
        segment: u16,
        /// All of them.
        bytes: &'a [u8],
    },
}

/// A message without packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Heir: stop reading UDP.
    TakeUdp,
    /// Heir: stop reading the TUN.
    TakeTun,
    /// Heir: end.
    Done,
    /// Predecessor: it reads UDP no more.
    UdpTaken,
    /// Predecessor: it reads the TUN no more.
    TunTaken,
    /// Predecessor: some of the peers that it has a session with and has heard lately.
    Peers(Vec<LivePeer>),
    /// Predecessor: receiver indices in use, their upper 24 bits.
    Indices(Vec<u32>),
}

/// A [`LivePeer`] as it is sent, in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    endpoint: SocketAddr,
}

/// The words without anything in them.
const PLAIN: [(u8, Word); 5] =
    [(1, Word::TakeUdp), (2, Word::TakeTun), (3, Word::Done), (4, Word::UdpTaken), (5, Word::TunTaken)];
const PEERS: u8 = 6;
const INDICES: u8 = 7;
const PACKET: u8 = 8;
const DATAGRAMS: u8 = 9;
/// Kind, address, port and segment size in front of datagrams.
const DATAGRAMS_HEADER: usize = 1 + 16 + 2 + 2;

impl<'a> Letter<'a> {
    /// Its bytes but for packets, and those, which are not copied.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, &'a [u8]) {
        match self {
            Self::Word(word) => (word.encode(), &[]),
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

    /// Reads a letter; none when it is of a kind that this version does not know, or is malformed.
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
            kind => Word::decode(kind, rest).map(Self::Word),
        }
    }
}

impl Word {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Peers(peers) => {
                // Names and addresses: there is nothing in them that JSON cannot say.
                let entry = |peer: &LivePeer| Entry { name: peer.name.clone(), endpoint: peer.endpoint };
                let json =
                    serde_json::to_vec(&peers.iter().map(entry).collect::<Vec<_>>()).unwrap_or_default();
                [&[PEERS], &json[..]].concat()
            }
            Self::Indices(indices) => {
                let indices = indices.iter().flat_map(|index| index.to_le_bytes());
                std::iter::once(INDICES).chain(indices).collect()
            }
            plain => PLAIN.iter().filter(|(_, word)| word == plain).map(|(kind, _)| *kind).collect(),
        }
    }

    fn decode(kind: u8, rest: &[u8]) -> Option<Self> {
        match kind {
            PEERS => {
                let entries: Vec<Entry> = serde_json::from_slice(rest).ok()?;
                let peer = |Entry { name, endpoint }| LivePeer { name, endpoint };
                Some(Self::Peers(entries.into_iter().map(peer).collect()))
            }
            INDICES => {
                let (words, odd) = rest.as_chunks();
                let indices = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
                odd.is_empty().then_some(Self::Indices(indices))
            }
            kind => PLAIN.iter().find(|(known, _)| *known == kind).map(|(_, word)| word.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(letter: &Letter<'_>) {
        let (mut bytes, rest) = letter.encode();
        bytes.extend(rest);
        assert_eq!(Letter::decode(&bytes).as_ref(), Some(letter));
    }

    #[test]
    fn letters_arrive_as_they_were_sent() {
        let endpoint = "192.0.2.1:51830".parse().unwrap();
        let lists = [
            Word::Peers(vec![LivePeer { name: "node2".into(), endpoint }]),
            Word::Indices(vec![0, 0xff_ffff]),
        ];
        for word in PLAIN.into_iter().map(|(_, word)| word).chain(lists) {
            again(&Letter::Word(word));
        }
        again(&Letter::Packet(b"ip"));
        for from in ["192.0.2.1:51830", "[2001:db8::1]:1"] {
            again(&Letter::Datagrams { from: from.parse().unwrap(), segment: 1452, bytes: b"sealed" });
        }
    }

    #[test]
    fn what_is_no_letter_is_refused() {
        let no_segment = [&[9; 19][..], &[0, 0], b"rest"].concat();
        for bytes in [&b""[..], &[99], &[7, 1, 2, 3], b"\x06{", &[9, 1, 2], &no_segment] {
            assert_eq!(Letter::decode(bytes), None, "{bytes:?}");
        }
    }
}
