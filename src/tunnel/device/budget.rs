//! How many handshakes the device answers: each costs some ten Diffie-Hellman operations on the thread that
//! carries the data. Within the budget all are answered; beyond it only senders who prove by a cookie that
//! they own their address, and of those each address only so many (as the Linux kernel does under load).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshakes a second for all, and how many may come at once.
const ALL: Rate = Rate { interval: Duration::from_millis(4), burst: 250 };
/// Handshakes a second for one address under load, and how many may come at once.
const EACH: Rate = Rate { interval: Duration::from_millis(50), burst: 5 };
/// Addresses remembered at most.
const MAX_SOURCES: usize = 4096;

#[derive(Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// A token bucket, kept as the time at which it is full again.
struct Bucket(Instant);

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full = self.0.max(now) + rate.interval;
        if full > now + rate.interval * rate.burst {
            return false;
        }
        self.0 = full;
        true
    }
}

/// The device's budget of handshakes to answer.
pub(super) struct Budget {
    all: Bucket,
    sources: HashMap<IpAddr, Bucket>,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { all: Bucket(now), sources: HashMap::new() }
    }

    /// Takes one handshake out of the budget; false under load.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.all.take(ALL, now)
    }

    /// Takes one handshake out of what `source`, proven, may have under load.
    pub(super) fn take_from(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = site(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            return false;
        }
        self.sources.entry(source).or_insert(Bucket(now)).take(EACH, now)
    }

    /// Forgets addresses that have their full share again.
    pub(super) fn tidy(&mut self, now: Instant) {
        if !self.sources.is_empty() {
            self.sources.retain(|_, bucket| bucket.0 > now);
        }
    }
}

/// What one customer has: an IPv4 address, an IPv6 /64.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert_eq!((0..1000).filter(|_| budget.take(start)).count(), 250);
        let later = start + Duration::from_millis(400);
        assert_eq!((0..1000).filter(|_| budget.take(later)).count(), 100);
    }

    #[test]
    fn a_source_under_load_has_its_own_share() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!((0..100).filter(|_| budget.take_from(source, now)).count(), 5);
        assert!(!budget.take_from("2001:db8::2".parse().unwrap(), now), "the same /64");
        assert!(budget.take_from("192.0.2.1".parse().unwrap(), now));
        budget.tidy(now + Duration::from_secs(1));
        assert!(budget.sources.is_empty());
    }
}
