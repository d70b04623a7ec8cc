//! The frame that controllers run in: what triggers one, when it runs, and what is known of its success.
//!
//! A controller is a value that brings one concern to its desired state. Each runs on a thread of its own, so that one
//! that blocks, computes or waits for ever delays no other. In the order in which an event passes: a source posts a
//! [`Trigger`] on the [`Bus`], which marks the [`Mailbox`] of every controller that the table names for it; the
//! [`runner`] takes what is pending and calls [`Controller::reconcile`]; the [`Board`] keeps the outcome, by generation.

mod board;
mod mailbox;
mod name;
mod runner;
#[cfg(test)]
mod tests;
mod trigger;

pub(super) use board::Board;
pub(super) use mailbox::{Bus, Mailbox};
pub(super) use name::Name;
pub(super) use runner::{Runner, spawn};
pub(super) use trigger::{Trigger, Triggers};

use crate::mtu::TooSmall;

/// One concern of a node, kept at its desired state.
pub(super) trait Controller {
    /// Compares the desired with the actual state, applies the difference, and returns what was changed. It may be called
    /// at any time and any number of times; with nothing to do it changes nothing.
    async fn reconcile(&mut self, pending: Triggers) -> Outcome;
}

/// What was changed, step by step, or why the desired state is not reached.
pub(super) type Outcome = Result<Vec<String>, Unmet>;

/// Why the desired state is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unmet {
    /// Something that is not there yet, and whose arrival is a trigger. Not an error.
    Waiting(String),
    /// Something was refused or broke; retried with backoff.
    Failed(String),
}

impl Unmet {
    pub(super) fn waiting(what: impl Into<String>) -> Self {
        Self::Waiting(what.into())
    }

    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// The MTU between the nodes is too small.
    pub(super) fn too_small(error: TooSmall) -> Self {
        let TooSmall { underlay, .. } = error;
        Self::waiting(format!("MTU {underlay} between the nodes: {error}; {}", error.remedy()))
    }

    fn text(&self) -> &str {
        match self {
            Self::Waiting(text) | Self::Failed(text) => text,
        }
    }
}
