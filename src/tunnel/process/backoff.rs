//! How long to wait before a dead worker is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// A worker that lived this long did not die in a loop.
const CALM: Duration = Duration::from_secs(10);

/// Counts deaths that follow each other quickly.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The wait after a worker that has lived for `lived`: none after the first death, then 50 ms, doubling.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= CALM {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        match self.deaths {
            1 => Duration::ZERO,
            deaths => (FIRST * (1 << (deaths - 2).min(16))).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_death_costs_nothing_and_a_loop_is_slowed_down() {
        let mut backoff = Backoff::default();
        let moment = Duration::from_millis(1);
        let waits: Vec<_> = (0..10).map(|_| backoff.after(moment).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(CALM), Duration::ZERO);
    }
}
