//! What many measurements of one time come to.

use std::fmt;
use std::time::Duration;

/// Percentiles of times.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// The 10th, 50th, 90th and 99th percentile.
    pub percentiles: [Duration; 4],
}

const PERCENT: [usize; 4] = [10, 50, 90, 99];

impl Figures {
    /// Of so many times; zeros of none.
    #[must_use]
    pub fn of(times: &[Duration]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        let at = |percent: usize| times.get(last * percent / 100).copied().unwrap_or_default();
        Self { percentiles: PERCENT.map(at) }
    }

    /// The 50th percentile.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.percentiles[1]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p10, p50, p90, p99] = self.percentiles.map(|time| time.as_secs_f64() * 1e3);
        write!(f, "{p50:.2} | {p10:.2} to {p90:.2} | {p99:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times: Vec<Duration> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(Figures::of(&times).percentiles.map(|time| time.as_millis()), [11, 51, 91, 100]);
        assert_eq!(Figures::of(&[]).median(), Duration::ZERO);
    }
}
