//! Selvedge on a whole cluster, seen from outside of it by an operator: what is there, putting it there, waiting until
//! it works, and taking it off again. What decides is pure; what asks the API server is thin.

pub mod apply;
mod connect;
pub mod discover;
pub mod finding;
pub mod firewall;
pub mod installed;
pub mod keys;
mod ours;
pub mod prune;
pub mod removal;
pub mod rollout;
pub mod there;

use std::time::Duration;

use crate::cause;

pub use connect::{Access, connect};

/// The field manager that owns what is applied here.
pub const MANAGER: &str = "selvedge-install";
/// Pause between looks at what has to change by itself.
const LOOK: Duration = Duration::from_millis(500);

/// Why a call could not be made, or what the API server said to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered.
    #[error(
        "cannot {doing}: the API server does not answer: {}; is it up, and is this the right kubeconfig and context?",
        cause::told(source)
    )]
    Unreachable {
        /// The call.
        doing: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It was refused, or went wrong.
    #[error("cannot {doing}: {}", said(source))]
    Call {
        /// The call.
        doing: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// There is no client to call with.
    #[error("{0}")]
    Config(String),
    /// Fields belong to somebody else.
    #[error("{0}")]
    Conflict(String),
    /// What was waited for has not come.
    #[error("{0}")]
    Late(String),
}

impl Error {
    /// What `doing` failed with.
    pub(crate) fn call(doing: impl Into<String>, source: kube::Error) -> Self {
        let (doing, source) = (doing.into(), Box::new(source));
        match *source {
            kube::Error::Api(_) | kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => {
                Self::Call { doing, source }
            }
            _ => Self::Unreachable { doing, source },
        }
    }

    /// Whether it may be tried again.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } | Self::Call { source, .. } => is_transient(source),
            _ => false,
        }
    }
}

/// An error of the API is a sentence already, and the rest of it is of no use to a person.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => cause::told(other),
    }
}

/// What was found, where an object that is not there is none.
pub(crate) fn absent<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The HTTP status that the API server answered with.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether a call may be made again: nobody answered, or the API server has trouble of its own.
pub(crate) fn is_transient(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => false,
        _ => true,
    }
}
