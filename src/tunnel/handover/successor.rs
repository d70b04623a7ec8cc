//! The worker that takes a device over.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{DRAIN, Link, Message, PATIENCE, QUIET, Reads, SESSIONS_WAIT, Signal};
use crate::tunnel::device::{Device, LivePeer};

/// How often a successor checks whether it has all sessions.
const LOOK: Duration = Duration::from_millis(5);

/// What a worker needs to succeed another one.
#[derive(Debug)]
pub struct Inheritance {
    /// The successor's end of the link.
    pub link: OwnedFd,
    /// Notified when the device is the successor's alone.
    pub taken: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Asked for UDP.
    Asking { since: Instant },
    /// Reads UDP and establishes sessions.
    Connecting { since: Instant, introduced: bool },
    /// Asked for the TUN.
    Waiting { since: Instant },
    /// Reads both; sends datagrams for old sessions back.
    Draining { since: Instant },
    /// Released the predecessor.
    Released,
}

impl Stage {
    fn reads(self) -> Reads {
        Reads {
            tun: matches!(self, Self::Draining { .. } | Self::Released),
            udp: !matches!(self, Self::Asking { .. }),
        }
    }
}

/// State of the worker that takes the device over.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(super) link: Link,
    stage: Stage,
    live: Vec<LivePeer>,
    indices: Vec<u32>,
    /// The configuration has been applied.
    pub(crate) is_configured: bool,
    /// When a datagram was last sent back.
    handed_back: Instant,
    look_at: Instant,
    taken: Option<oneshot::Sender<()>>,
}

impl Successor {
    pub(crate) fn new(inheritance: Inheritance, now: Instant) -> Self {
        let Inheritance { link, taken } = inheritance;
        let link = Link::new(link);
        // If this fails, the next receive reports that the link is closed.
        let _ = link.send(&Message::Signal(Signal::TakeUdp));
        Self {
            link,
            stage: Stage::Asking { since: now },
            live: Vec::new(),
            indices: Vec::new(),
            is_configured: false,
            handed_back: now,
            look_at: now,
            taken: Some(taken),
        }
    }

    pub(super) fn reads(&self) -> Reads {
        self.stage.reads()
    }

    /// Whether handshakes have to wait: the predecessor still reads UDP and would get the responses, or the device does not
    /// know yet where its predecessor reaches peers, and from which address.
    pub(super) fn must_wait(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. } | Stage::Connecting { introduced: false, .. })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asking { since } | Stage::Waiting { since } => Some(since + PATIENCE),
            Stage::Connecting { .. } => Some(self.look_at),
            Stage::Draining { since } => {
                Some((self.handed_back + QUIET).min(since + DRAIN).max(self.look_at))
            }
            Stage::Released => None,
        }
    }

    /// Sends datagrams back to the predecessor.
    pub(crate) fn hand_back(&mut self, from: SocketAddr, segment: usize, bytes: &[u8], now: Instant) {
        if matches!(self.stage, Stage::Released) {
            return;
        }
        self.handed_back = now;
        if let Ok(segment) = u16::try_from(segment) {
            // Dropped when the link has no room, as at a full socket.
            let _ = self.link.send(&Message::Datagrams { from, segment, bytes });
        }
    }

    /// Handles a signal of the predecessor.
    pub(super) fn take(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Peers(peers) => self.live.extend(peers),
            Signal::Indices(indices) => self.indices.extend(indices),
            Signal::UdpTaken if matches!(self.stage, Stage::Asking { .. }) => {
                tracing::info!(live_peers = self.live.len(), "reading UDP in place of the tunnel before");
                self.stage = Stage::Connecting { since: now, introduced: false };
                self.look_at = now;
            }
            Signal::TunTaken if matches!(self.stage, Stage::Waiting { .. }) => {
                tracing::info!("reading the TUN in place of the tunnel before");
                self.stage = Stage::Draining { since: now };
                self.handed_back = now;
            }
            _ => {}
        }
    }

    /// Starts the next step when it is due.
    pub(super) fn advance(&mut self, device: &mut Device, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK;
        match self.stage {
            Stage::Asking { since } | Stage::Waiting { since } if now >= since + PATIENCE => {
                tracing::warn!("the tunnel before does not answer; going on without it");
                self.release(device);
            }
            Stage::Connecting { introduced: false, .. } if self.is_configured => {
                device.succeed(&self.live, &self.indices, now);
                self.stage = Stage::Connecting { since: now, introduced: true };
            }
            Stage::Connecting { since, introduced } => {
                let missing = self.live.iter().filter(|peer| !device.reaches(&peer.name, now)).count();
                let late = now >= since + SESSIONS_WAIT;
                if late || introduced && missing == 0 {
                    tracing::info!(missing, after_ms = (now - since).as_millis(), "asking for the TUN");
                    if self.link.send(&Message::Signal(Signal::TakeTun)).is_ok() {
                        self.stage = Stage::Waiting { since: now };
                    }
                }
            }
            Stage::Draining { since } if now >= (self.handed_back + QUIET).min(since + DRAIN) => {
                self.release(device);
            }
            Stage::Asking { .. } | Stage::Waiting { .. } | Stage::Draining { .. } | Stage::Released => {}
        }
    }

    /// Tells the predecessor to end.
    fn release(&mut self, device: &mut Device) {
        if self.link.send(&Message::Signal(Signal::Done)).is_ok() {
            self.finish(device);
        }
    }

    /// The device is ours alone.
    pub(super) fn finish(&mut self, device: &mut Device) {
        self.stage = Stage::Released;
        device.forget_predecessor();
        if let Some(taken) = self.taken.take() {
            // Fails only while the process ends.
            let _ = taken.send(());
        }
    }
}
