//! The commands to a worker.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::report::WorkerReport;
use crate::tunnel::device::config::{Config, ConfigError, PeerChanges};
use crate::tunnel::handover::Outcome;

/// A command to the worker. Sent over a channel beside an eventfd that wakes the worker.
#[derive(Debug)]
pub enum Command {
    /// Make this the whole configuration; sessions of unchanged keys stay.
    Apply {
        /// The wanted state.
        config: Config,
        /// What changed, or why all of it was refused.
        reply: oneshot::Sender<Result<PeerChanges, ConfigError>>,
    },
    /// Report the state.
    Report {
        /// The report.
        reply: oneshot::Sender<WorkerReport>,
    },
    /// The TUN device has this MTU now, in bytes.
    Mtu(u16),
    /// Hand over to the worker at the other end of a link: see [`crate::tunnel::handover`].
    Leave {
        /// The predecessor's end.
        link: OwnedFd,
        /// How it ended. Dropped at once by a worker that is handing over already.
        outcome: oneshot::Sender<Outcome>,
    },
    /// Stop the thread; descriptors stay with whoever else holds them.
    Stop,
}
