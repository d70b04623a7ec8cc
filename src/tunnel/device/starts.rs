//! When handshakes begin: so many a second, and first with peers that traffic waits for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::PeerIndex;
use super::budget::{Bucket, Rate};

/// Initiations: 2,000 a second, so that 5,000 peers are begun with in 2.5 s. At most 32 at once, after which the caller
/// serves traffic. `docs/decisions/0020-handshakes-within-a-budget.md` has what that costs.
const RATE: Rate = Rate { interval: Duration::from_micros(500), burst: 32 };
/// Initiations that peers in a queue wait for, so that the thread does not wake for each.
const BATCH: u32 = 16;

/// The budget of initiations, and who waits for it.
pub(super) struct Starts {
    bucket: Bucket,
    /// Peers that traffic waits for.
    busy: VecDeque<PeerIndex>,
    /// All others.
    idle: VecDeque<PeerIndex>,
}

/// In which queues a peer is: at most once in each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Queued {
    busy: bool,
    idle: bool,
}

impl Starts {
    pub(super) fn new(now: Instant) -> Self {
        Self { bucket: Bucket::new(now), busy: VecDeque::new(), idle: VecDeque::new() }
    }

    /// Takes one initiation out of the budget.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.bucket.take(RATE, 0, now)
    }

    /// Has a peer wait for its turn, with those that are busy or behind them.
    pub(super) fn queue(&mut self, peer: PeerIndex, queued: &mut Queued, is_busy: bool) {
        let (queue, is_in) =
            if is_busy { (&mut self.busy, &mut queued.busy) } else { (&mut self.idle, &mut queued.idle) };
        if !std::mem::replace(is_in, true) {
            queue.push_back(peer);
        }
    }

    /// The next peer, if the budget has room now. It is in the queue until [`Queued::taken`].
    pub(super) fn next(&mut self, now: Instant) -> Option<(PeerIndex, Turn)> {
        if self.is_empty() || !self.bucket.has(RATE, 0, now) {
            return None;
        }
        let busy = self.busy.pop_front().map(|peer| (peer, Turn::Busy));
        busy.or_else(|| self.idle.pop_front().map(|peer| (peer, Turn::Idle)))
    }

    /// When the next peers that wait have their turn.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| self.bucket.has_at(RATE, BATCH))
    }

    fn is_empty(&self) -> bool {
        self.busy.is_empty() && self.idle.is_empty()
    }

    /// Nobody waits any more but those for whom `is_there` holds.
    pub(super) fn retain(&mut self, is_there: impl Fn(PeerIndex) -> bool) {
        self.busy.retain(|peer| is_there(*peer));
        self.idle.retain(|peer| is_there(*peer));
    }
}

/// The queue that a peer was taken out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Busy,
    Idle,
}

impl Queued {
    /// Whether it waits for its turn.
    pub(super) fn is_any(self) -> bool {
        self.busy || self.idle
    }

    /// The peer was taken out of a queue.
    pub(super) fn taken(&mut self, turn: Turn) {
        match turn {
            Turn::Busy => self.busy = false,
            Turn::Idle => self.idle = false,
        }
    }
}
