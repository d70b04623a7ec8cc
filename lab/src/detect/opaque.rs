//! Where in a frame ciphertext may begin: in a WireGuard message, in a TCP stream (TLS), and in fragments that are
//! not the first, also where an ICMP error quotes them.

use super::layers::be16;

/// Quotes and headers deeper than this are not followed.
const DEEPEST: usize = 8;
/// A WireGuard message begins with its type, three zero bytes and the receiver's index (WireGuard paper, section 5.4).
const MESSAGE_HEAD: usize = 8;

/// The rest of a frame, which may be ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opaque {
    /// Its first byte in the frame.
    pub(super) start: usize,
    is_messages: bool,
}

impl Opaque {
    /// The opaque rest of an Ethernet frame, if it has one.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        while matches!(be16(frame, at)?, 0x8100 | 0x88a8) {
            at += 4;
        }
        match be16(frame, at)? {
            0x0800 | 0x86dd => Self::in_packet(frame, at + 2, DEEPEST),
            _ => None,
        }
    }

    /// Where whatever begins at `at` ends: at the end of the frame or of its WireGuard message. A frame from a device that
    /// segments (UDP GSO) holds many messages, each with the same head.
    pub(super) fn end(self, frame: &[u8], at: usize) -> usize {
        let head = frame.get(self.start..self.start + MESSAGE_HEAD).filter(|_| self.is_messages);
        let next = head.and_then(|head| memchr::memmem::find(frame.get(at..)?, head));
        next.map_or(frame.len(), |next| at + next)
    }

    fn in_packet(frame: &[u8], at: usize, depth: usize) -> Option<Self> {
        let depth = depth.checked_sub(1)?;
        match frame.get(at)? >> 4 {
            4 => {
                let payload = at + usize::from(frame[at] & 0x0f) * 4;
                let is_later = be16(frame, at + 6)? & 0x1fff != 0;
                if is_later {
                    return Some(Self::bytes(payload));
                }
                Self::in_payload(frame, *frame.get(at + 9)?, payload, depth)
            }
            6 => Self::in_payload(frame, *frame.get(at + 6)?, at + 40, depth),
            _ => None,
        }
    }

    fn in_payload(frame: &[u8], protocol: u8, at: usize, depth: usize) -> Option<Self> {
        match protocol {
            0 | 43 | 60 => {
                let length = (usize::from(*frame.get(at + 1)?) + 1) * 8;
                Self::in_payload(frame, *frame.get(at)?, at + length, depth.checked_sub(1)?)
            }
            44 if be16(frame, at + 2)? & 0xfff8 != 0 => Some(Self::bytes(at + 8)),
            44 => Self::in_payload(frame, *frame.get(at)?, at + 8, depth.checked_sub(1)?),
            1 if matches!(frame.get(at)?, 3 | 4 | 11 | 12) => Self::in_packet(frame, at + 8, depth),
            58 if matches!(frame.get(at)?, 1..=4) => Self::in_packet(frame, at + 8, depth),
            // Its header too: sequence numbers and timestamps may be anything.
            6 => Some(Self::bytes(at)),
            17 => {
                let is_message = matches!(frame.get(at + 8..at + 12)?, [1..=4, 0, 0, 0]);
                is_message.then_some(Self { start: at + 8, is_messages: true })
            }
            _ => None,
        }
    }

    fn bytes(start: usize) -> Self {
        Self { start, is_messages: false }
    }
}
