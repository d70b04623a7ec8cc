//! A worker's part in a hand-over: see [`crate::tunnel::handover`] for who says what when.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::interest::Reads;
use crate::tunnel::device::Device;
use crate::tunnel::handover::{DRAIN, Letter, Link, LivePeer, MEETING, Outcome, PATIENCE, QUIET, Word};

/// Peers in one letter; each has some 80 bytes.
const PEERS_A_LETTER: usize = 500;
/// Indices in one letter.
const INDICES_A_LETTER: usize = 10_000;
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

/// What a worker is.
#[derive(Debug)]
pub(super) enum Part {
    /// The only one on its device.
    Alone,
    /// About to have the device.
    Heir(Heir),
    /// About to go.
    Predecessor(Predecessor),
}

impl Part {
    pub(super) fn reads(&self) -> Reads {
        match self {
            Self::Alone => Reads { tun: true, udp: true },
            Self::Heir(heir) => heir.stage.reads(),
            Self::Predecessor(predecessor) => {
                Reads { tun: !predecessor.tun_taken, udp: !predecessor.udp_taken }
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Self::Heir(heir) = self { heir.deadline() } else { None }
    }

    /// Whether the time for handshakes has not come yet: their answers would go to the predecessor.
    pub(super) fn must_wait(&self) -> bool {
        matches!(self, Self::Heir(Heir { stage: Stage::Asking { .. }, .. }))
    }

    /// The way to the other worker.
    pub(super) fn link(&mut self) -> Option<&mut Link> {
        match self {
            Self::Alone => None,
            Self::Heir(heir) => Some(&mut heir.link),
            Self::Predecessor(predecessor) => Some(&mut predecessor.link),
        }
    }

    /// Takes what the other worker says.
    pub(super) fn hear(mut self, word: Word, device: &mut Device, now: Instant) -> Self {
        match &mut self {
            Self::Alone => {}
            Self::Heir(heir) => heir.take(word, now),
            Self::Predecessor(predecessor) => predecessor.take(&word, device, now),
        }
        self
    }

    /// The other worker is gone.
    pub(super) fn end(self, device: &mut Device, now: Instant) -> Self {
        match self {
            Self::Alone => {}
            Self::Heir(mut heir) => heir.finish(device),
            Self::Predecessor(predecessor) => {
                if predecessor.udp_taken {
                    device.revive(now);
                }
                predecessor.end(Outcome::Stayed);
            }
        }
        Self::Alone
    }

    /// Goes on if it is time to; `is_free` when nothing waits for room in a socket.
    pub(super) fn advance(&mut self, device: &mut Device, is_free: bool, now: Instant) {
        match self {
            Self::Alone => {}
            Self::Heir(heir) => heir.advance(device, now),
            Self::Predecessor(predecessor) => predecessor.advance(device, is_free),
        }
    }

    pub(super) fn heir(&mut self) -> Option<&mut Heir> {
        if let Self::Heir(heir) = self { Some(heir) } else { None }
    }
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
pub(super) struct Heir {
    pub(super) link: Link,
    stage: Stage,
    live: Vec<LivePeer>,
    indices: Vec<u32>,
    /// The configuration has been applied.
    pub(super) is_configured: bool,
    /// When something was last handed back.
    handed_back: Instant,
    look_at: Instant,
    taken: Option<oneshot::Sender<()>>,
}

impl Heir {
    pub(super) fn new(inheritance: Inheritance, now: Instant) -> Self {
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

    fn deadline(&self) -> Option<Instant> {
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
    pub(super) fn hand_back(&mut self, from: SocketAddr, segment: usize, bytes: &[u8], now: Instant) {
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
    fn take(&mut self, word: Word, now: Instant) {
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
    fn advance(&mut self, device: &mut Device, now: Instant) {
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
    fn finish(&mut self, device: &mut Device) {
        self.stage = Stage::Parting;
        device.settle();
        if let Some(taken) = self.taken.take() {
            // Nobody listens any more only while the process ends.
            let _ = taken.send(());
        }
    }
}

/// A worker that is succeeded by another.
#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) link: Link,
    udp_taken: bool,
    tun_wanted: bool,
    tun_taken: bool,
    outcome: oneshot::Sender<Outcome>,
}

impl Predecessor {
    pub(super) fn new(link: OwnedFd, outcome: oneshot::Sender<Outcome>) -> Self {
        Self { link: Link::new(link), udp_taken: false, tun_wanted: false, tun_taken: false, outcome }
    }

    /// Takes what the heir says.
    fn take(&mut self, word: &Word, device: &mut Device, now: Instant) {
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
    fn advance(&mut self, device: &mut Device, is_free: bool) {
        if !self.tun_wanted || self.tun_taken || !is_free {
            return;
        }
        self.tun_taken = true;
        for packet in device.take_waiting() {
            let _ = self.link.send(&Letter::Packet(&packet));
        }
        let _ = self.link.send(&Letter::Word(Word::TunTaken));
    }

    pub(super) fn end(self, outcome: Outcome) {
        let _ = self.outcome.send(outcome);
    }
}
