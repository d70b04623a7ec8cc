//! A value as written, with its place.

use super::error::Problem;

/// A value with the place it comes from.
#[derive(Debug, Clone)]
pub(super) struct Value<T> {
    pub(super) value: T,
    pub(super) line: Option<usize>,
    pub(super) key: String,
}

impl<T> Value<T> {
    pub(super) fn problem(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { line: self.line, key: self.key.clone(), problem: problem.into(), remedy: remedy.into() }
    }
}
