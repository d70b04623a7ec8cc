//! The worker that takes a device over.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::part::Reads;
use super::{DRAIN, Letter, Link, MEETING, PATIENCE, QUIET, Word};
use crate::tunnel::device::{Device, LivePeer};

/// How often an heir looks whether all sessions are there.
const LOOK: Duration = Duration::from_millis(5);

/// What a worker needs to succeed another one.
#[derive(Debug)]
pub struct Inheritance {
    /// The heir's end of the link.
    pub link: OwnedFd,
    /// Told when the device is the heir's alone.
    pub taken: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Asked for UDP.
    Asking { since: Instant },
    /// Makes sessions.
    Meeting { since: Instant, introduced: bool },
    /// Asked for the TUN.
    Waiting { since: Instant },
    /// Has both; hands back what is for old sessions.
    Draining { since: Instant },
    /// Said that it is done.
    Parting,
}

impl Stage {
    fn reads(self) -> Reads {
        Reads {
            tun: matches!(self, Self::Draining { .. } | Self::Parting),
            udp: !matches!(self, Self::Asking { .. }),
        }
    }
}

/// A worker that succeeds another.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(super) link: Link,
    stage: Stage,
    live: Vec<LivePeer>,
    indices: Vec<u32>,
    /// The configuration has been applied.
    pub(crate) is_configured: bool,
    /// When something was last handed back.
    handed_back: Instant,
    look_at: Instant,
    taken: Option<oneshot::Sender<()>>,
}

impl Heir {
    pub(crate) fn new(inheritance: Inheritance, now: Instant) -> Self {
        let Inheritance { link, taken } = inheritance;
        let link = Link::new(link);
        // If it cannot be sent, the link says at once that it is closed.
        let _ = link.send(&Letter::Word(Word::TakeUdp));
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

    /// Whether the time for handshakes has not come yet: their answers would go to the predecessor.
    pub(super) fn must_wait(&self) -> bool {
        matches!(self.stage, Stage::Asking { .. })
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asking { since } | Stage::Waiting { since } => Some(since + PATIENCE),
            Stage::Meeting { .. } => Some(self.look_at),
            Stage::Draining { since } => {
                Some((self.handed_back + QUIET).min(since + DRAIN).max(self.look_at))
            }
            Stage::Parting => None,
        }
    }

    /// Gives datagrams to the predecessor.
    pub(crate) fn hand_back(&mut self, from: SocketAddr, segment: usize, bytes: &[u8], now: Instant) {
        if matches!(self.stage, Stage::Parting) {
            return;
        }
        self.handed_back = now;
        if let Ok(segment) = u16::try_from(segment) {
            // What finds no room is lost as it would be at a full socket.
            let _ = self.link.send(&Letter::Datagrams { from, segment, bytes });
        }
    }

    /// Takes what the predecessor says.
    pub(super) fn take(&mut self, word: Word, now: Instant) {
        match word {
            Word::Peers(peers) => self.live.extend(peers),
            Word::Indices(indices) => self.indices.extend(indices),
            Word::UdpTaken if matches!(self.stage, Stage::Asking { .. }) => {
                tracing::info!(live_peers = self.live.len(), "reading UDP in place of the tunnel before");
                self.stage = Stage::Meeting { since: now, introduced: false };
                self.look_at = now;
            }
            Word::TunTaken if matches!(self.stage, Stage::Waiting { .. }) => {
                tracing::info!("reading the TUN in place of the tunnel before");
                self.stage = Stage::Draining { since: now };
                self.handed_back = now;
            }
            _ => {}
        }
    }

    /// Goes on if it is time to.
    pub(super) fn advance(&mut self, device: &mut Device, now: Instant) {
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK;
        match self.stage {
            Stage::Asking { since } | Stage::Waiting { since } if now >= since + PATIENCE => {
                tracing::warn!("the tunnel before does not answer; going on without it");
                self.part(device);
            }
            Stage::Meeting { introduced: false, .. } if self.is_configured => {
                device.succeed(&self.live, &self.indices, now);
                self.stage = Stage::Meeting { since: now, introduced: true };
            }
            Stage::Meeting { since, introduced } => {
                let missing = self.live.iter().filter(|peer| !device.reaches(&peer.name, now)).count();
                let late = now >= since + MEETING;
                if late || introduced && missing == 0 {
                    tracing::info!(missing, after_ms = (now - since).as_millis(), "asking for the TUN");
                    if self.link.send(&Letter::Word(Word::TakeTun)).is_ok() {
                        self.stage = Stage::Waiting { since: now };
                    }
                }
            }
            Stage::Draining { since } if now >= (self.handed_back + QUIET).min(since + DRAIN) => {
                self.part(device);
            }
            Stage::Asking { .. } | Stage::Waiting { .. } | Stage::Draining { .. } | Stage::Parting => {}
        }
    }

    /// Tells the predecessor to go.
    fn part(&mut self, device: &mut Device) {
        if self.link.send(&Letter::Word(Word::Done)).is_ok() {
            self.finish(device);
        }
    }

    /// The device is ours alone.
    pub(super) fn finish(&mut self, device: &mut Device) {
        self.stage = Stage::Parting;
        device.settle();
        if let Some(taken) = self.taken.take() {
            // Nobody listens any more only while the process ends.
            let _ = taken.send(());
        }
    }
}
