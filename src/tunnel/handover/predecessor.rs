//! The worker that hands a device over.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use tokio::sync::oneshot;

use super::part::Reads;
use super::{Letter, Link, Outcome, Word};
use crate::tunnel::device::{Device, LivePeer};

/// Peers in one letter; each has some 80 bytes.
const PEERS_A_LETTER: usize = 500;
/// Indices in one letter.
const INDICES_A_LETTER: usize = 10_000;

/// A worker that is succeeded by another.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) link: Link,
    udp_taken: bool,
    tun_wanted: bool,
    tun_taken: bool,
    outcome: oneshot::Sender<Outcome>,
}

impl Predecessor {
    pub(crate) fn new(link: OwnedFd, outcome: oneshot::Sender<Outcome>) -> Self {
        Self { link: Link::new(link), udp_taken: false, tun_wanted: false, tun_taken: false, outcome }
    }

    pub(super) fn reads(&self) -> Reads {
        Reads { tun: !self.tun_taken, udp: !self.udp_taken }
    }

    /// Takes what the heir says.
    pub(super) fn take(&mut self, word: &Word, device: &mut Device, now: Instant) {
        match word {
            Word::TakeUdp => {
                self.udp_taken = true;
                if let Err(error) = self.introduce(&device.retire(now), &device.indices()) {
                    // The heir asks the rest of the world by itself.
                    tracing::warn!(%error, "cannot tell the next tunnel which peers there are");
                }
            }
            Word::TakeTun => self.tun_wanted = true,
            _ => {}
        }
    }

    fn introduce(&self, live: &[LivePeer], indices: &[u32]) -> io::Result<()> {
        for peers in live.chunks(PEERS_A_LETTER) {
            self.link.send(&Letter::Word(Word::Peers(peers.to_vec())))?;
        }
        for indices in indices.chunks(INDICES_A_LETTER) {
            self.link.send(&Letter::Word(Word::Indices(indices.to_vec())))?;
        }
        self.link.send(&Letter::Word(Word::UdpTaken))
    }

    /// Gives the TUN if it is asked for and all that was read from it is sent (`is_free`).
    pub(super) fn advance(&mut self, device: &mut Device, is_free: bool) {
        if !self.tun_wanted || self.tun_taken || !is_free {
            return;
        }
        self.tun_taken = true;
        for packet in device.take_waiting() {
            let _ = self.link.send(&Letter::Packet(&packet));
        }
        let _ = self.link.send(&Letter::Word(Word::TunTaken));
    }

    /// The heir is gone: the device is this worker's alone again.
    pub(super) fn stay(self, device: &mut Device, now: Instant) {
        if self.udp_taken {
            device.revive(now);
        }
        self.end(Outcome::Stayed);
    }

    pub(crate) fn end(self, outcome: Outcome) {
        let _ = self.outcome.send(outcome);
    }
}
