//! What many measurements of one quantity come to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewer values have no percentiles worth the name.
const MANY: usize = 20;

/// Median and spread of a quantity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How many values.
    pub count: usize,
    /// The 10th percentile; of few values the least.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The 90th percentile; of few values the greatest.
    pub high: f64,
    /// The 99th percentile; of few values the greatest.
    pub p99: f64,
}

impl Sample {
    /// Of these values; zeros of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let mut values = values.to_vec();
        values.sort_unstable_by(f64::total_cmp);
        // The least value that so many of a hundred do not exceed.
        let rank = |percent: usize| (values.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent: usize| values.get(rank(percent)).copied().unwrap_or_default();
        let (low, high) = if values.len() < MANY { (0, 100) } else { (10, 90) };
        Self { count: values.len(), low: at(low), median: at(50), high: at(high), p99: at(99) }
    }

    /// Of times, in milliseconds.
    #[must_use]
    pub fn millis(times: &[Duration]) -> Self {
        Self::of(&times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>())
    }

    /// Of the first as a multiple of the second, pair by pair.
    #[must_use]
    pub fn ratios(pairs: &[[Duration; 2]]) -> Self {
        Self::of(
            &pairs.iter().map(|[one, other]| one.as_secs_f64() / other.as_secs_f64()).collect::<Vec<_>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_values_have_percentiles_and_few_have_ends() {
        let many: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let expected = Sample { count: 101, low: 10.0, median: 50.0, high: 90.0, p99: 99.0 };
        assert_eq!(Sample::of(&many), expected);
        let expected = Sample { count: 3, low: 1.0, median: 2.0, high: 4.0, p99: 4.0 };
        assert_eq!(Sample::of(&[4.0, 1.0, 2.0]), expected);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(Sample::of(&hundred).p99, 99.0);
        assert_eq!(Sample::of(&[]), Sample::default());
    }

    #[test]
    fn units_and_ratios() {
        let [two, one] = [2, 1].map(Duration::from_millis);
        assert_eq!(Sample::millis(&[two]).median, 2.0);
        assert_eq!(Sample::ratios(&[[two, one]]).median, 2.0);
    }
}
