//! The role of a worker in a hand-over.

use std::time::Instant;

use super::predecessor::Predecessor;
use super::successor::Successor;
use super::{Link, Reads, Signal};
use crate::tunnel::device::Device;

/// The role of a worker.
#[derive(Debug)]
pub(crate) enum Role {
    /// The only one on its device.
    Alone,
    /// Takes the device over.
    Successor(Successor),
    /// Hands the device over.
    Predecessor(Predecessor),
}

impl Role {
    pub(crate) fn reads(&self) -> Reads {
        match self {
            Self::Alone => Reads { tun: true, udp: true },
            Self::Successor(successor) => successor.reads(),
            Self::Predecessor(predecessor) => predecessor.reads(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        if let Self::Successor(successor) = self { successor.deadline() } else { None }
    }

    /// Whether handshakes have to wait for the predecessor: see [`Successor::must_wait`].
    pub(crate) fn must_wait(&self) -> bool {
        matches!(self, Self::Successor(successor) if successor.must_wait())
    }

    /// The link to the other worker.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match self {
            Self::Alone => None,
            Self::Successor(successor) => Some(&mut successor.link),
            Self::Predecessor(predecessor) => Some(&mut predecessor.link),
        }
    }

    /// Handles a signal of the other worker.
    pub(crate) fn take(mut self, signal: Signal, device: &mut Device, now: Instant) -> Self {
        match &mut self {
            Self::Alone => {}
            Self::Successor(successor) => successor.take(signal, now),
            Self::Predecessor(predecessor) => predecessor.take(&signal, device, now),
        }
        self
    }

    /// Ends the hand-over: the other worker closed the link.
    pub(crate) fn end(self, device: &mut Device, now: Instant) -> Self {
        match self {
            Self::Alone => {}
            Self::Successor(mut successor) => successor.finish(device),
            Self::Predecessor(predecessor) => predecessor.stay(device, now),
        }
        Self::Alone
    }

    /// Starts the next step when it is due. `is_free`: no batch waits for room in a socket.
    pub(crate) fn advance(&mut self, device: &mut Device, is_free: bool, now: Instant) {
        match self {
            Self::Alone => {}
            Self::Successor(successor) => successor.advance(device, now),
            Self::Predecessor(predecessor) => predecessor.advance(device, is_free),
        }
    }

    pub(crate) fn successor(&mut self) -> Option<&mut Successor> {
        if let Self::Successor(successor) = self { Some(successor) } else { None }
    }
}
