//! boringtun's `noise`, held to what it does well: one handshake, and the one session that comes of it.
//!
//! Its `Tunn` could do more (timers, a ring of sessions, a queue), and each of those has a fault: timers that
//! read a clock of their own and are rounded to the last call, an `Expired` state that sticks, a ring in which
//! replays evict the established session, a cookie counted as life. So a `Tunn` here lives for one handshake
//! and one session, `update_timers` is never called, and what it would have done is the device's, on the time
//! that the device is given (see `docs/decisions/0005-one-tunn-per-handshake.md`).

use std::net::IpAddr;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use selvedge_keys::{PresharedKey, PublicKey};

use super::identity::Identity;
use super::message;

/// Handshake messages are padded to nothing; the longest is the initiation.
const ROOM: usize = message::INITIATION_LEN;

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Seen before, or too old to tell.
    Replayed,
    /// Not made by who holds the keys.
    Forged,
    /// Nothing here waits for it.
    Unexpected,
}

impl From<WireGuardError> for Refused {
    fn from(error: WireGuardError) -> Self {
        use WireGuardError as E;
        match error {
            E::WrongTai64nTimestamp | E::InvalidCounter | E::DuplicateCounter => Self::Replayed,
            E::WrongIndex | E::UnexpectedPacket | E::NoCurrentSession | E::WrongPacketType => {
                Self::Unexpected
            }
            _ => Self::Forged,
        }
    }
}

/// What an authenticated data message held.
pub(super) enum Content<'a> {
    /// Nothing: a keepalive.
    Keepalive,
    /// An IP packet, cut to the length that its header says, and the source in it.
    Packet(&'a [u8], IpAddr),
    /// Bytes that are no IP packet.
    Garbage,
}

/// One handshake and its session. On the heap, because the `Tunn` holds our private key, which it wipes where it is dropped:
/// moving it would leave a copy behind.
pub(super) struct Noise(Box<Tunn>);

impl Noise {
    /// `index` is the upper 24 bits of the indices on the wire; boringtun counts in the lower 8.
    pub(super) fn new(own: &Identity, peer: &PublicKey, psk: Option<&PresharedKey>, index: u32) -> Self {
        let psk = psk.map(|key| *key.as_bytes());
        Self(Box::new(Tunn::new(own.secret(), peer.to_dalek(), psk, None, index, Some(own.unlimited()))))
    }

    /// A new initiation; one made before is void.
    pub(super) fn initiate(&mut self) -> Option<Vec<u8>> {
        let mut out = [0; ROOM];
        match self.0.format_handshake_initiation(&mut out, true) {
            TunnResult::WriteToNetwork(bytes) => Some(bytes.to_vec()),
            _ => None,
        }
    }

    /// The response to an initiation. Its session opens messages at once, but seals only after the first.
    pub(super) fn respond(&mut self, initiation: &[u8]) -> Result<Vec<u8>, Refused> {
        self.exchange(initiation)
    }

    /// Takes the response to our initiation; the session is ready. Gives its first message, a keepalive.
    pub(super) fn complete(&mut self, response: &[u8]) -> Result<Vec<u8>, Refused> {
        self.exchange(response)
    }

    fn exchange(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut out = [0; ROOM];
        match self.0.decapsulate(None, datagram, &mut out) {
            TunnResult::WriteToNetwork(bytes) => Ok(bytes.to_vec()),
            TunnResult::Err(error) => Err(error.into()),
            _ => Err(Refused::Unexpected),
        }
    }

    /// Takes a cookie reply; the next message of this handshake carries the cookie.
    pub(super) fn cookie(&mut self, reply: &[u8]) -> Result<(), Refused> {
        match self.0.decapsulate(None, reply, &mut [0; ROOM]) {
            TunnResult::Done => Ok(()),
            TunnResult::Err(error) => Err(error.into()),
            _ => Err(Refused::Unexpected),
        }
    }

    /// Seals `plain` into `out`; the number of bytes written, none when there is no session to send on yet or
    /// no room.
    #[inline]
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        if out.len() < plain.len() + super::OVERHEAD {
            return None;
        }
        match self.0.encapsulate(plain, out) {
            TunnResult::WriteToNetwork(bytes) => Some(bytes.len()),
            _ => None,
        }
    }

    /// Opens a data message into the start of `out`, which is at least as long.
    #[inline]
    pub(super) fn open<'a>(&mut self, datagram: &[u8], out: &'a mut [u8]) -> Result<Content<'a>, Refused> {
        match self.0.decapsulate(None, datagram, out) {
            TunnResult::Done => Ok(Content::Keepalive),
            TunnResult::WriteToTunnelV4(packet, source) => Ok(Content::Packet(packet, source.into())),
            TunnResult::WriteToTunnelV6(packet, source) => Ok(Content::Packet(packet, source.into())),
            TunnResult::Err(WireGuardError::InvalidPacket) => Ok(Content::Garbage),
            TunnResult::Err(error) => Err(error.into()),
            TunnResult::WriteToNetwork(_) => Err(Refused::Unexpected),
        }
    }
}

/// Refuses replayed initiations of one (own key, peer key) for as long as the pair is configured: boringtun
/// keeps the newest timestamp inside a `Tunn` and shows it to nobody, so this one is kept for that alone.
pub(super) struct Gate(Noise);

impl Gate {
    pub(super) fn new(own: &Identity, peer: &PublicKey) -> Self {
        Self(Noise::new(own, peer, None, 0))
    }

    /// Lets an initiation pass that is newer than all before. The preshared key has no part in it.
    pub(super) fn pass(&mut self, initiation: &[u8]) -> Result<(), Refused> {
        self.0.respond(initiation).map(drop)
    }
}

/// Pads packets with zeros to a multiple of 16, but not beyond the MTU (WireGuard paper, section 5.4.6), so
/// that a length tells less. boringtun does not.
pub(super) struct Padding {
    mtu: usize,
    scratch: Vec<u8>,
}

impl Padding {
    pub(super) fn new(mtu: u16) -> Self {
        let mut padding = Self { mtu: 0, scratch: Vec::new() };
        padding.set_mtu(mtu);
        padding
    }

    /// From now on packets are padded up to `mtu` bytes.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        self.scratch.resize(self.mtu.next_multiple_of(16), 0);
    }

    /// `packet` with its padding; copied only when there is any.
    #[inline]
    pub(super) fn pad<'a>(&'a mut self, packet: &'a [u8]) -> &'a [u8] {
        let length = packet.len();
        let padded = length.next_multiple_of(16).min(self.mtu.max(length));
        if padded == length {
            return packet;
        }
        let scratch = &mut self.scratch[..padded]; // padded <= mtu here, as it is more than length
        scratch[..length].copy_from_slice(packet);
        scratch[length..].fill(0);
        scratch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_to_16_but_not_beyond_the_mtu() {
        let mut padding = Padding::new(1420);
        for (length, padded) in
            [(0, 0), (1, 16), (16, 16), (52, 64), (1409, 1420), (1420, 1420), (1421, 1421)]
        {
            assert_eq!(padding.pad(&vec![7; length]).len(), padded, "{length}");
        }
    }

    #[test]
    fn padding_follows_the_mtu() {
        let mut padding = Padding::new(1420);
        for (mtu, length, padded) in
            [(1380, 1380, 1380), (1380, 1377, 1380), (1380, 1370, 1376), (9000, 8990, 8992), (600, 601, 601)]
        {
            padding.set_mtu(mtu);
            assert_eq!(padding.pad(&vec![7; length]).len(), padded, "{length} of {mtu}");
        }
    }

    #[test]
    fn padding_is_zero_whatever_was_there_before() {
        let mut padding = Padding::new(1420);
        padding.pad(&[9; 63]);
        assert_eq!(padding.pad(&[9; 17])[17..], [0; 15]);
    }

    #[test]
    fn a_session_holds_one_handshake_and_its_size_is_known() {
        // Memory for each session and each gate; what docs/decisions/0005 reckons with.
        assert!(size_of::<Noise>() < 16 * 1024, "{}", size_of::<Noise>());
    }
}
