//! The four messages of WireGuard by their first bytes (paper, section 5.4): type, length and indices.

/// Length of a handshake initiation.
pub(super) const INITIATION_LEN: usize = 148;
/// Length of a handshake response.
pub(super) const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply.
pub(super) const COOKIE_LEN: usize = 64;

/// A message as far as it can be told without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// Somebody wants a session.
    Initiation,
    /// The answer to our initiation of index `receiver`.
    Response { receiver: u32 },
    /// The answer, under load, to our handshake message of index `receiver`.
    Cookie { receiver: u32 },
    /// Transport data.
    Data { receiver: u32, counter: u64 },
}

impl Message {
    /// What `datagram` says it is; none when it is none of WireGuard's.
    #[inline]
    pub(super) fn of(datagram: &[u8]) -> Option<Self> {
        match (word(datagram, 0)?, datagram.len()) {
            (4, super::OVERHEAD..) => {
                Some(Self::Data { receiver: word(datagram, 4)?, counter: long(datagram, 8)? })
            }
            (1, INITIATION_LEN) => Some(Self::Initiation),
            (2, RESPONSE_LEN) => Some(Self::Response { receiver: word(datagram, 8)? }),
            (3, COOKIE_LEN) => Some(Self::Cookie { receiver: word(datagram, 4)? }),
            _ => None,
        }
    }
}

/// The sender's index in a handshake message of ours.
pub(super) fn sender(handshake: &[u8]) -> u32 {
    word(handshake, 4).unwrap_or_default()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
