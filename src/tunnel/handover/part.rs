//! What a worker is in a hand-over: the only one, an heir or a predecessor.

use std::time::Instant;

use super::heir::Heir;
use super::predecessor::Predecessor;
use super::{Link, Word};
use crate::tunnel::device::Device;

/// What a worker reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) tun: bool,
    pub(crate) udp: bool,
}

/// What a worker is.
#[derive(Debug)]
pub(crate) enum Part {
    /// The only one on its device.
    Alone,
    /// About to have the device.
    Heir(Heir),
    /// About to go.
    Predecessor(Predecessor),
}

impl Part {
    pub(crate) fn reads(&self) -> Reads {
        match self {
            Self::Alone => Reads { tun: true, udp: true },
            Self::Heir(heir) => heir.reads(),
            Self::Predecessor(predecessor) => predecessor.reads(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if let Self::Heir(heir) = self { heir.deadline() } else { None }
    }

    /// Whether the time for handshakes has not come yet: their answers would go to the predecessor.
    pub(crate) fn must_wait(&self) -> bool {
        matches!(self, Self::Heir(heir) if heir.must_wait())
    }

    /// The way to the other worker.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match self {
            Self::Alone => None,
            Self::Heir(heir) => Some(&mut heir.link),
            Self::Predecessor(predecessor) => Some(&mut predecessor.link),
        }
    }

    /// Takes what the other worker says.
    pub(crate) fn hear(mut self, word: Word, device: &mut Device, now: Instant) -> Self {
        match &mut self {
            Self::Alone => {}
            Self::Heir(heir) => heir.take(word, now),
            Self::Predecessor(predecessor) => predecessor.take(&word, device, now),
        }
        self
    }

    /// The other worker is gone.
    pub(crate) fn end(self, device: &mut Device, now: Instant) -> Self {
        match self {
            Self::Alone => {}
            Self::Heir(mut heir) => heir.finish(device),
            Self::Predecessor(predecessor) => predecessor.stay(device, now),
        }
        Self::Alone
    }

    /// Goes on if it is time to; `is_free` when nothing waits for room in a socket.
    pub(crate) fn advance(&mut self, device: &mut Device, is_free: bool, now: Instant) {
        match self {
            Self::Alone => {}
            Self::Heir(heir) => heir.advance(device, now),
            Self::Predecessor(predecessor) => predecessor.advance(device, is_free),
        }
    }

    pub(crate) fn heir(&mut self) -> Option<&mut Heir> {
        if let Self::Heir(heir) = self { Some(heir) } else { None }
    }
}
