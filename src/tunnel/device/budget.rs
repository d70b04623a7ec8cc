//! How many handshakes the device answers: each costs some thirteen Diffie-Hellman operations on the thread that carries
//! the data, so what is opened is bounded in all, whoever sends it.
//!
//! Addresses where a peer is configured or was heard may have 2,000 initiations a second opened, all others 1,000; neither
//! can take the other's part. `docs/decisions/0020-handshakes-within-a-budget.md` has what that costs.
//!
//! Within each part the last of the burst is kept for senders that prove by a cookie that they own their address:
//! once senders that prove nothing have used up the rest, they are asked for a cookie, and those that have one come
//! first. A proven address has a limit of its own, and one that was opened in vain, because its key is unknown or its
//! message replayed, is not opened again for [`PENALTY`] if no peer is known there.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::identity::Proof;
use super::sources::{Source, Sources};

/// Initiations from addresses of peers.
const KNOWN: Limits = Limits {
    opened: Rate { interval: Duration::from_micros(500), burst: 2500 },
    reserve: 500,
    cookies: Rate { interval: Duration::from_micros(100), burst: 1000 },
};
/// Initiations from all other addresses.
const STRANGERS: Limits = Limits {
    opened: Rate { interval: Duration::from_millis(1), burst: 500 },
    reserve: 250,
    cookies: Rate { interval: Duration::from_micros(200), burst: 1000 },
};
/// Initiations of one address: 20 a second for each peer there, five at once.
const EACH: Rate = Rate { interval: Duration::from_millis(50), burst: 5 };
/// Shortest interval for one address, however many peers are there: half of what [`KNOWN`] has.
const LEAST_INTERVAL: Duration = Duration::from_millis(1);
/// For how long an address where no peer is known is not opened again after it was in vain. 100,000 such addresses
/// get 833 initiations opened a second, less than [`STRANGERS`] has.
pub(super) const PENALTY: Duration = Duration::from_secs(120);

/// The limits of one part of the budget.
struct Limits {
    opened: Rate,
    /// What of the burst is for proven senders alone.
    reserve: u32,
    cookies: Rate,
}

/// One every `interval`, and up to `burst` at once.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    pub(super) interval: Duration,
    pub(super) burst: u32,
}

/// A token bucket, kept as the time at which it is full again.
#[derive(Clone, Copy)]
pub(super) struct Bucket(Instant);

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Takes one token if more than `reserve` are left.
    pub(super) fn take(&mut self, rate: Rate, reserve: u32, now: Instant) -> bool {
        let full = self.0.max(now) + rate.interval;
        let fits = full <= now + rate.interval * rate.burst.saturating_sub(reserve);
        if fits {
            self.0 = full;
        }
        fits
    }

    /// Whether [`Bucket::take`] would take one.
    pub(super) fn has(mut self, rate: Rate, reserve: u32, now: Instant) -> bool {
        self.take(rate, reserve, now)
    }

    /// When `count` tokens are there, at most the burst.
    pub(super) fn has_at(self, rate: Rate, count: u32) -> Instant {
        self.0.checked_sub(rate.interval * rate.burst.saturating_sub(count)).unwrap_or(self.0)
    }
}

/// What to do with an initiation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Open it. If that is in vain and there is a source, [`Budget::punish`] it.
    Open(Option<Source>),
    /// Send this cookie reply.
    Ask(Vec<u8>),
    /// Nothing.
    Refuse,
}

/// The device's budget of handshakes to answer.
pub(super) struct Budget {
    known: Part,
    strangers: Part,
    sources: Sources,
}

struct Part {
    opened: Bucket,
    cookies: Bucket,
}

impl Part {
    fn new(now: Instant) -> Self {
        Self { opened: Bucket::new(now), cookies: Bucket::new(now) }
    }
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { known: Part::new(now), strangers: Part::new(now), sources: Sources::new(now) }
    }

    /// What to do with an initiation from `from`, an address of so many `peers`. `prove` says whether its sender
    /// proves that he owns the address, and makes a cookie reply only if its argument is true.
    pub(super) fn admit(
        &mut self,
        from: IpAddr,
        peers: u32,
        prove: impl FnOnce(bool) -> Option<Proof>,
        now: Instant,
    ) -> Verdict {
        let (part, limits) =
            if peers > 0 { (&mut self.known, &KNOWN) } else { (&mut self.strangers, &STRANGERS) };
        let rate = Rate { interval: (EACH.interval / peers.max(1)).max(LEAST_INTERVAL), ..EACH };
        let window = EACH.interval * EACH.burst;
        // An address that nobody has proven may be forged by as many as like, so it has no limit of its own, except
        // that a peer's does not use up what all peers' may do without a cookie.
        let unproven = self.sources.of(from, false);
        let is_spent = peers > 0 && !self.sources.allows(unproven, rate.interval, window, now);
        if !is_spent && part.opened.take(limits.opened, limits.reserve, now) {
            if peers > 0 {
                self.sources.charge(unproven, rate.interval, now);
            }
            return Verdict::Open(None);
        }
        match prove(part.cookies.has(limits.cookies, 0, now)) {
            Some(Proof::Given) => {
                let source = self.sources.of(from, true);
                let admitted = self.sources.allows(source, rate.interval, window, now)
                    && part.opened.take(limits.opened, 0, now);
                if !admitted {
                    return Verdict::Refuse;
                }
                self.sources.charge(source, rate.interval, now);
                Verdict::Open((peers == 0).then_some(source))
            }
            Some(Proof::Asked(cookie)) => {
                part.cookies.take(limits.cookies, 0, now);
                Verdict::Ask(cookie)
            }
            None => Verdict::Refuse,
        }
    }

    /// An initiation from `source` was opened in vain.
    pub(super) fn punish(&mut self, source: Source, now: Instant) {
        self.sources.charge(source, PENALTY, now);
    }

    /// Frees memory that is no longer needed.
    pub(super) fn tidy(&mut self, now: Instant) {
        self.sources.tidy(PENALTY, now);
    }
}

#[cfg(test)]
mod tests;
