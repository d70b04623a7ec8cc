//! What one writes and many read.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value with one writer and many readers.
#[derive(Debug, Default)]
pub(super) struct Cell<T>(Mutex<T>);

impl<T> Cell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Cell<T> {
    pub(super) fn get(&self) -> T {
        self.lock().clone()
    }
}

impl<T: PartialEq> Cell<T> {
    /// True when that is another value than before.
    pub(super) fn set(&self, value: T) -> bool {
        let mut held = self.lock();
        let changed = *held != value;
        *held = value;
        changed
    }
}
