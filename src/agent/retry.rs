//! How long to wait before the next attempt: doubling from 0.2 s to 2 s, with jitter so that a thousand agents do not
//! come back to an API server in one beat.

use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(2);

/// The waits, one after another. Never ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retry {
    next: Duration,
    last: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { next: FIRST, last: LAST }
    }
}

impl Retry {
    /// Waits that double from `first` to `last`.
    #[must_use]
    pub(super) fn between(first: Duration, last: Duration) -> Self {
        Self { next: first, last }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    /// Between half and all of the current step.
    fn next(&mut self) -> Option<Duration> {
        let step = self.next;
        self.next = (step * 2).min(self.last);
        Some(jittered(step))
    }
}

/// Between half of `step` and all of it.
#[must_use]
pub(super) fn jittered(step: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without randomness the wait is the whole step: still a wait.
    let share = getrandom::fill(&mut bytes).map_or(1.0, |()| f64::from(u16::from_ne_bytes(bytes)) / 65535.0);
    step.mul_f64(0.5 + share / 2.0)
}

impl Backoff for Retry {
    fn reset(&mut self) {
        *self = Self { next: FIRST, last: self.last };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let mut retry = Retry::default();
        let waits: Vec<_> = retry.by_ref().take(8).collect();
        assert!(waits[0] >= FIRST / 2 && waits[0] <= FIRST, "{waits:?}");
        assert!(waits[7] >= LAST / 2 && waits[7] <= LAST, "{waits:?}");
        retry.reset();
        assert!(retry.next().unwrap() <= FIRST);
    }
}
