//! How long to wait before trying again: doubling from 0.2 s to 2 s, with jitter so that a thousand agents do not
//! come back to an API server in one beat.

use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(2);

/// The waits, one after another. Never ends.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    next: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Iterator for Retry {
    type Item = Duration;

    /// Between half and all of the current step.
    fn next(&mut self) -> Option<Duration> {
        let step = self.next;
        self.next = (step * 2).min(LAST);
        let mut byte = [0];
        // Without randomness the wait is the whole step: still a wait.
        let share = getrandom::fill(&mut byte).map_or(255, |()| u32::from(byte[0]));
        Some(step / 2 + step / 2 * share / 255)
    }
}

impl Backoff for Retry {
    fn reset(&mut self) {
        *self = Self::default();
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
