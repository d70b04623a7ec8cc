//! What went wrong with a lab: one kind of error for all steps of building and driving one.

/// What went wrong with a lab.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    /// What was being done.
    pub what: String,
    /// Why it failed, with the last lines of logs where they may tell more.
    pub why: String,
}

impl Error {
    pub(crate) fn new(what: impl Into<String>, why: String) -> Self {
        Self { what: what.into(), why }
    }
}

/// Says what was being done when it failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: ToString> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| Error::new(what, error.to_string()))
    }
}
