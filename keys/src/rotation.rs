//! The rotation of a node's keys: a state machine without I/O, which loses no packet and can be resumed after a crash at any
//! point.
//!
//! | phase | own keys in the tunnel | published | left when |
//! |---|---|---|---|
//! | [`Prepare`](Phase::Prepare) | old | old | the new key is in the store |
//! | [`Load`](Phase::Load) | old, new | old | the tunnel has both |
//! | [`Publish`](Phase::Publish) | old, new | old, next: new | the Node object shows it |
//! | [`Confirm`](Phase::Confirm) | old, new | old, next: new | every live peer has a session on the new key, or at the deadline |
//! | [`Promote`](Phase::Promote) | old, new | old, next: new | the store names the new key as the one in use |
//! | [`Announce`](Phase::Announce) | old, new | new | the Node object shows it |
//! | [`Retire`](Phase::Retire) | old, new | new | no live session needs the old key, or after [`HARD_MAXIMUM`] |
//! | [`Forget`](Phase::Forget) | new | new | the tunnel has the new key alone, and the old one is wiped |
//!
//! An abort before `Promote` goes back:
//!
//! | phase | own keys in the tunnel | published | left when |
//! |---|---|---|---|
//! | [`Withdraw`](Phase::Withdraw) | old, new withdrawn | old, next: new | every peer with a session on the new key has one on the old key |
//! | [`Unpublish`](Phase::Unpublish) | old, new withdrawn | old | the Node object shows it |
//! | [`Drain`](Phase::Drain) | old, new withdrawn | old | no live session uses the new key, or after [`HARD_MAXIMUM`] |
//! | [`Discard`](Phase::Discard) | old | old | the tunnel has the old key alone, and the new one is wiped |
//!
//! A phase is on disk before anything is done that belongs to it, and everything in a phase may be done again.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How long sessions on the key to send by have to be there before the other is given up: what is under way arrives.
pub const LINGER: Duration = Duration::from_secs(2);
/// How long no session may need the old key before it goes, when every peer had confirmed the new one.
pub const QUIET: Duration = Duration::from_secs(15);
/// The same when some had not, or the sessions of before are not known: longer than any session lives (180 s).
pub const UNSEEN: Duration = Duration::from_secs(190);
/// How long an abort waits for sessions on the old key.
pub const DRAIN: Duration = Duration::from_secs(60);
/// A key that should go stays at most so long for peers that use no other: their agents are down.
pub const HARD_MAXIMUM: Duration = Duration::from_secs(24 * 60 * 60);

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The new key is being made.
    Prepare,
    /// The tunnel takes the new key.
    Load,
    /// The Node object gets the new key.
    Publish,
    /// Peers make sessions on the new key.
    Confirm,
    /// The new key becomes the one in use.
    Promote,
    /// The Node object gets the new key as the one in use.
    Announce,
    /// The old key waits for its last session.
    Retire,
    /// The old key leaves tunnel and store.
    Forget,
    /// Aborted: sending goes back to sessions on the old key.
    Withdraw,
    /// Aborted: the new key leaves the Node object.
    Unpublish,
    /// Aborted: the new key waits for its last session.
    Drain,
    /// Aborted: the new key leaves tunnel and store.
    Discard,
}

impl Phase {
    /// Whether it belongs to an abort.
    #[must_use]
    pub fn is_abort(self) -> bool {
        self >= Self::Withdraw
    }
}

/// A rotation, as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Names the operation that it belongs to.
    pub id: String,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Epoch of the old key.
    pub from: u64,
    /// Epoch of the new key, the one after it.
    pub to: u64,
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub begun: Timestamp,
    /// When the new key is promoted although some peers have not confirmed it.
    pub deadline: Timestamp,
    /// When the key that should go was no longer the one to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Timestamp>,
    /// Every live peer had confirmed the new key when it was promoted.
    #[serde(default)]
    pub is_complete: bool,
    /// Why it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
}

/// What the machine decides by.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The wall clock.
    pub now: Timestamp,
    /// A monotonic clock with an arbitrary origin.
    pub uptime: Duration,
    /// The epoch that the store names as the one in use.
    pub current: u64,
    /// The epochs that the store has keys of.
    pub epochs: &'a [u64],
    /// What this node's own object shows; none when that is not known.
    pub shown: Option<Shown>,
    /// The tunnel; none while it does not answer.
    pub tunnel: Option<Tunnel<'a>>,
}

/// What the Node object shows of this node's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The epoch of the key in use.
    pub epoch: u64,
    /// Whether there is a next key.
    pub has_next: bool,
}

/// What the tunnel has.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel<'a> {
    /// Number of the connection to the tunnel. It changes when the tunnel process does, whose sessions may be lost then.
    pub life: u64,
    /// Epochs of the own keys that it uses.
    pub identities: &'a [u64],
    /// The peers that it has a confirmed session with.
    pub peers: &'a [PeerSessions],
}

/// The confirmed sessions with one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerSessions {
    /// One is on the old key.
    pub old: bool,
    /// One is on the new key.
    pub new: bool,
    /// Epoch of the own key that packets are sent by.
    pub sending: u64,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes or a second has passed.
    Wait,
    /// Make the key of this epoch.
    Create(u64),
    /// Make this epoch the one in use.
    Promote(u64),
    /// Wipe the key of this epoch.
    Wipe(u64),
    /// The rotation has another phase: keep it on disk.
    Enter(Phase),
    /// The rotation ended: delete it from the disk.
    End(Outcome),
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The new key is in use, and the old one is wiped.
    Rotated,
    /// The old key is in use, and the new one is wiped.
    Aborted,
    /// The store has other keys than the rotation was about: it was lost, or restored from a copy.
    Superseded,
}

/// The desired state of agent and tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Own keys of the tunnel.
    pub identities: Vec<OwnEpoch>,
    /// The epoch to publish as the one in use.
    pub published: u64,
    /// The epoch to publish as the next one.
    pub next: Option<u64>,
}

/// An own key of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnEpoch {
    /// Its epoch.
    pub epoch: u64,
    /// An abort withdraws it: sending prefers the other one.
    pub is_withdrawn: bool,
}

impl Wanted {
    /// The desired state while no rotation runs.
    #[must_use]
    pub fn steady(epoch: u64) -> Self {
        Self { identities: vec![OwnEpoch { epoch, is_withdrawn: false }], published: epoch, next: None }
    }
}

/// The new key is in use already: an abort is too late. The remedy is another rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of epoch {0} is in use already and cannot be taken back; rotate again instead")]
pub struct TooLate(pub u64);

impl Rotation {
    /// What agent and tunnel are to have in this phase.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let own = |epoch, is_withdrawn| OwnEpoch { epoch, is_withdrawn };
        let (from, to) = (self.from, self.to);
        let identities = match self.phase {
            Phase::Prepare | Phase::Discard => vec![own(from, false)],
            Phase::Forget => vec![own(to, false)],
            Phase::Withdraw | Phase::Unpublish | Phase::Drain => vec![own(from, false), own(to, true)],
            _ => vec![own(from, false), own(to, false)],
        };
        let (published, next) = match self.phase {
            Phase::Prepare | Phase::Load | Phase::Unpublish | Phase::Drain | Phase::Discard => (from, None),
            Phase::Publish | Phase::Confirm | Phase::Promote | Phase::Withdraw => (from, Some(to)),
            Phase::Announce | Phase::Retire | Phase::Forget => (to, None),
        };
        Wanted { identities, published, next }
    }

    /// Takes it back. Sending goes back to the old key before the new one goes.
    ///
    /// # Errors
    /// [`TooLate`] when the new key is the one in use.
    pub fn abort(&self, reason: &str) -> Result<Self, TooLate> {
        let phase = match self.phase {
            Phase::Prepare | Phase::Load => Phase::Discard,
            Phase::Publish | Phase::Confirm => Phase::Withdraw,
            phase if phase.is_abort() => phase,
            _ => return Err(TooLate(self.to)),
        };
        let aborted = self.aborted.clone().or_else(|| Some(reason.to_owned()));
        Ok(Self { phase, aborted, ..self.clone() })
    }

    fn is_void(&self, seen: &Seen<'_>) -> bool {
        let has = |epoch: u64| seen.epochs.contains(&epoch);
        match self.phase {
            Phase::Prepare => seen.current != self.from,
            Phase::Load | Phase::Publish | Phase::Confirm => seen.current != self.from || !has(self.to),
            Phase::Promote => ![self.from, self.to].contains(&seen.current) || !has(self.to),
            Phase::Announce | Phase::Retire | Phase::Forget => seen.current != self.to,
            Phase::Withdraw | Phase::Unpublish | Phase::Drain | Phase::Discard => seen.current != self.from,
        }
    }
}

/// A running rotation with what it has observed so far. A crash loses the observations; the waiting times are longer then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    rotation: Rotation,
    /// Since when what the phase waits for is so, by [`Seen::uptime`].
    since: Option<Duration>,
    /// When the phase began, by [`Seen::uptime`].
    entered: Option<Duration>,
    /// The tunnel process whose sessions were seen when the new key was promoted.
    life: Option<u64>,
}

impl Machine {
    /// Begins a rotation from the epoch in use, or resumes one that is on disk.
    #[must_use]
    pub fn new(rotation: Rotation) -> Self {
        Self { rotation, since: None, entered: None, life: None }
    }

    /// The rotation, to be kept on disk.
    #[must_use]
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// Takes it back; as [`Rotation::abort`].
    ///
    /// # Errors
    /// [`TooLate`] when the new key is the one in use.
    pub fn abort(&mut self, reason: &str) -> Result<(), TooLate> {
        let aborted = self.rotation.abort(reason)?;
        if aborted.phase != self.rotation.phase {
            *self = Self { life: None, ..Self::new(aborted) };
        }
        Ok(())
    }

    /// What is to be done next. After [`Step::Enter`] the phase is entered already: it has to be on disk before the next call.
    pub fn step(&mut self, seen: &Seen<'_>) -> Step {
        if self.rotation.is_void(seen) {
            return Step::End(Outcome::Superseded);
        }
        let entered = *self.entered.get_or_insert(seen.uptime);
        let (from, to) = (self.rotation.from, self.rotation.to);
        let has = |epoch: u64| seen.epochs.contains(&epoch);
        let runs = |epoch: u64| seen.tunnel.map(|tunnel| tunnel.identities.contains(&epoch));
        match self.rotation.phase {
            Phase::Prepare if !has(to) => Step::Create(to),
            Phase::Prepare => self.enter(Phase::Load, seen),
            Phase::Load if runs(to) == Some(true) => self.enter(Phase::Publish, seen),
            Phase::Publish if seen.shown.is_some_and(|shown| shown.has_next) => {
                self.enter(Phase::Confirm, seen)
            }
            Phase::Confirm => {
                let peers = seen.tunnel.map(|tunnel| tunnel.peers);
                let all = peers.is_some_and(|peers| peers.iter().all(|peer| peer.sending == to));
                let is_complete = self.holds_for(all, LINGER, seen.uptime);
                if !is_complete && seen.now < self.rotation.deadline {
                    return Step::Wait;
                }
                self.rotation.is_complete = is_complete;
                self.life = seen.tunnel.map(|tunnel| tunnel.life);
                self.enter(Phase::Promote, seen)
            }
            Phase::Promote if seen.current != to => Step::Promote(to),
            Phase::Promote => self.replace(Phase::Announce, seen),
            Phase::Announce if seen.shown.is_some_and(|shown| shown.epoch >= to) => {
                self.enter(Phase::Retire, seen)
            }
            Phase::Retire => {
                let is_known = self.rotation.is_complete && self.life.is_some();
                let same = seen.tunnel.is_some_and(|tunnel| self.life == Some(tunnel.life));
                let window = if is_known && same { QUIET } else { UNSEEN };
                let free =
                    |tunnel: Tunnel<'_>| tunnel.peers.iter().all(|peer| peer.sending == to || !peer.old);
                self.wait_for_sessions(seen, free, window, Phase::Forget)
            }
            Phase::Forget if runs(from) == Some(false) && has(from) => Step::Wipe(from),
            Phase::Forget if !has(from) => Step::End(Outcome::Rotated),
            Phase::Withdraw => {
                let back =
                    |tunnel: Tunnel<'_>| tunnel.peers.iter().all(|peer| peer.sending == from || !peer.new);
                let is_back = self.holds_for(seen.tunnel.is_some_and(back), LINGER, seen.uptime);
                let is_late = seen.uptime.saturating_sub(entered) >= DRAIN;
                if is_back || is_late { self.enter(Phase::Unpublish, seen) } else { Step::Wait }
            }
            Phase::Unpublish if seen.shown.is_some_and(|shown| !shown.has_next) => {
                self.replace(Phase::Drain, seen)
            }
            Phase::Drain => {
                let free = |tunnel: Tunnel<'_>| !tunnel.peers.iter().any(|peer| peer.new);
                self.wait_for_sessions(seen, free, QUIET, Phase::Discard)
            }
            Phase::Discard if runs(to) == Some(false) && has(to) => Step::Wipe(to),
            Phase::Discard if !has(to) => Step::End(Outcome::Aborted),
            _ => Step::Wait,
        }
    }

    /// Waits until `free` says for a whole `window` that no session needs the key that should go, at most for [`HARD_MAXIMUM`].
    fn wait_for_sessions(
        &mut self,
        seen: &Seen<'_>,
        free: impl Fn(Tunnel<'_>) -> bool,
        window: Duration,
        next: Phase,
    ) -> Step {
        let free = self.holds_for(seen.tunnel.is_some_and(free), window, seen.uptime);
        let replaced = self.rotation.replaced.unwrap_or(seen.now);
        let is_late = seen.now.duration_since(replaced).unsigned_abs() >= HARD_MAXIMUM && seen.now > replaced;
        if free || is_late { self.enter(next, seen) } else { Step::Wait }
    }

    /// Whether `condition` has been true for `window`, looked at now.
    fn holds_for(&mut self, condition: bool, window: Duration, uptime: Duration) -> bool {
        if !condition {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(uptime);
        uptime.saturating_sub(since) >= window
    }

    fn replace(&mut self, phase: Phase, seen: &Seen<'_>) -> Step {
        self.rotation.replaced = Some(seen.now);
        self.enter(phase, seen)
    }

    fn enter(&mut self, phase: Phase, seen: &Seen<'_>) -> Step {
        self.rotation.phase = phase;
        (self.since, self.entered) = (None, Some(seen.uptime));
        Step::Enter(phase)
    }
}

/// The epoch that the store has beside the one in use although no rotation runs, if the tunnel does not use it: what an
/// interrupted rotation has left. To be wiped.
#[must_use]
pub fn leftover(current: u64, epochs: &[u64], identities: &[u64]) -> Option<u64> {
    epochs.iter().copied().find(|epoch| *epoch != current && !identities.contains(epoch))
}

#[cfg(test)]
mod tests;
