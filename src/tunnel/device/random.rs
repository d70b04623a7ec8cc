//! Randomness as an argument: indices and jitter. Keys are boringtun's own business.

use std::time::Duration;

use rand_core::RngCore;

/// A source of random numbers.
pub(super) struct Random(Box<dyn RngCore + Send>);

impl Random {
    pub(super) fn new(source: Box<dyn RngCore + Send>) -> Self {
        Self(source)
    }

    /// 24 random bits.
    pub(super) fn index(&mut self) -> u32 {
        self.0.next_u32() >> 8
    }

    /// A time from zero up to `limit`.
    pub(super) fn jitter(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(f64::from(self.0.next_u32()) / f64::from(u32::MAX))
    }
}
