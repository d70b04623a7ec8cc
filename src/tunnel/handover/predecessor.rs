//! The worker that hands a device over.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Link, Message, Outcome, Reads, Signal};
use crate::tunnel::device::{Device, LivePeer};

/// Peers in one message; each has some 80 bytes.
const PEERS_PER_MESSAGE: usize = 500;
/// Indices in one message.
const INDICES_PER_MESSAGE: usize = 10_000;

/// State of the worker that hands the device over.
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

    /// Handles a signal of the successor.
    pub(super) fn take(&mut self, signal: &Signal, device: &mut Device, now: Instant) {
        match signal {
            Signal::TakeUdp => {
                self.udp_taken = true;
                if let Err(error) = self.introduce(&device.retire(now), &device.indices()) {
                    // The successor starts handshakes with all peers anyway.
                    tracing::warn!(%error, "cannot tell the next tunnel which peers there are");
                }
            }
            Signal::TakeTun => self.tun_wanted = true,
            _ => {}
        }
    }

    fn introduce(&self, live: &[LivePeer], indices: &[u32]) -> io::Result<()> {
        for peers in live.chunks(PEERS_PER_MESSAGE) {
            self.link.send(&Message::Signal(Signal::Peers(peers.to_vec())))?;
        }
        for indices in indices.chunks(INDICES_PER_MESSAGE) {
            self.link.send(&Message::Signal(Signal::Indices(indices.to_vec())))?;
        }
        self.link.send(&Message::Signal(Signal::UdpTaken))
    }

    /// Stops reading the TUN if the successor asked for it and everything read from it is sent (`is_free`).
    pub(super) fn advance(&mut self, device: &mut Device, is_free: bool) {
        if !self.tun_wanted || self.tun_taken || !is_free {
            return;
        }
        self.tun_taken = true;
        for packet in device.take_waiting() {
            let _ = self.link.send(&Message::Packet(&packet));
        }
        let _ = self.link.send(&Message::Signal(Signal::TunTaken));
    }

    /// The successor is gone: the device is this worker's alone again.
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
