//! What each address has used of the handshake budget lately, in bounded memory.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::known::site;

/// Sets of places; with [`WAYS`], 524,288 addresses in 8 MiB. With a quarter of that, 100,000 addresses that share it unevenly
/// displace each other from full sets, and these are then opened again and again.
const SETS: usize = 1 << 16;
/// Places in which one address may be remembered.
const WAYS: usize = 8;

/// An address by its hash, whose key is random: nobody can choose addresses that meet in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source(u64);

/// A token bucket for each address, as the time at which it is full again. A full table never refuses an address: the
/// bucket that is full again first makes room, among those in the same set.
pub(super) struct Sources {
    /// Empty until it is used.
    sets: Vec<[Place; WAYS]>,
    hasher: RandomState,
    start: Instant,
    charged: Instant,
}

#[derive(Clone, Copy, Default)]
struct Place {
    source: u64,
    /// Microseconds since the start.
    full: u64,
}

impl Sources {
    pub(super) fn new(now: Instant) -> Self {
        Self { sets: Vec::new(), hasher: RandomState::new(), start: now, charged: now }
    }

    /// The source that `address` belongs to: one that has proven that it owns the address, or one that has not.
    pub(super) fn of(&self, address: IpAddr, proven: bool) -> Source {
        Source(self.hasher.hash_one((site(address), proven)))
    }

    /// Whether `cost` more is within `window` of `source`'s bucket.
    pub(super) fn allows(&self, source: Source, cost: Duration, window: Duration, now: Instant) -> bool {
        let now = self.micros(now);
        let set = self.sets.get(set(source));
        let place = set.and_then(|set| set.iter().find(|place| place.source == source.0));
        place.is_none_or(|place| place.full.max(now) + micros(cost) <= now + micros(window))
    }

    /// Charges `source` with `cost`.
    pub(super) fn charge(&mut self, source: Source, cost: Duration, now: Instant) {
        self.charged = now;
        let now = self.micros(now);
        self.sets.resize(SETS, [Place::default(); WAYS]);
        let set = &mut self.sets[set(source)];
        let known = set.iter().position(|place| place.source == source.0);
        let first = || (0..WAYS).min_by_key(|at| set[*at].full).unwrap_or_default();
        let at = known.unwrap_or_else(first);
        let full = if known.is_some() { set[at].full.max(now) } else { now };
        set[at] = Place { source: source.0, full: full + micros(cost) };
    }

    /// Frees the table if no source was charged for `idle`.
    pub(super) fn tidy(&mut self, idle: Duration, now: Instant) {
        if now > self.charged + idle {
            self.sets = Vec::new();
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        micros(now.duration_since(self.start))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.sets.capacity() * size_of::<[Place; WAYS]>()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

/// The set of a source.
fn set(source: Source) -> usize {
    usize::try_from(source.0 % SETS as u64).unwrap_or_default()
}
