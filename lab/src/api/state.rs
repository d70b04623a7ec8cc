//! What all requests of a server share, and how the server is set up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::access::{User, Users};
use super::audit::Log;
use super::counters::Counters;
use super::failure::Failure;
use super::fault::Faults;
use super::resource::Resource;
use super::store::Store;

/// Decides on a write, and may change the object: to schedule a pod, say, or to refuse a change of annotations.
///
/// Called for every create, update and patch that comes over HTTP, with the object about to be stored. It runs while
/// the store is locked and must not call it.
pub type Admission = Arc<dyn Fn(&Review<'_>, &mut Value) -> Result<(), Failure> + Send + Sync>;

/// What an [`Admission`] decides on.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// Who writes.
    pub user: &'a User,
    /// The resource.
    pub resource: &'static Resource,
    /// `status`, `binding` or empty.
    pub subresource: &'a str,
    /// The object so far; none when it is created.
    pub before: Option<&'a Value>,
}

/// Settings of a server.
#[derive(Clone)]
pub struct Options {
    /// DNS names and IP addresses for the certificate, beside those of loopback.
    pub names: Vec<String>,
    /// How many changes watches can go back.
    pub history: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmarks: Duration,
    /// Whether a pod bound to a node stays, as terminating, until its node deletes it with no grace period.
    pub graceful_pods: bool,
    /// Decides on writes.
    pub admission: Option<Admission>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            history: 10_000,
            bookmarks: Duration::from_secs(10),
            graceful_pods: false,
            admission: None,
        }
    }
}

/// Whether the server serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As usual.
    Serving,
    /// Connections are reset, present ones and new ones: the server is down.
    Refusing,
    /// Connections stay and new ones are accepted, but no request is answered and no watch tells anything.
    Hanging,
    /// Its clock is an hour ahead of its clients': present connections are reset, and the certificate that new ones are
    /// shown is not valid yet.
    Ahead,
}

/// What the requests share.
pub(super) struct State {
    pub(super) store: Arc<Store>,
    pub(super) users: Users,
    pub(super) log: Log,
    pub(super) counters: Counters,
    pub(super) faults: Faults,
    pub(super) options: Options,
    mode: watch::Sender<Mode>,
    connections: Mutex<CancellationToken>,
    watches: Mutex<CancellationToken>,
}

impl State {
    /// An empty store, and nothing that goes wrong.
    pub(super) fn new(options: Options) -> Self {
        Self {
            store: Store::new(options.history),
            users: Users::default(),
            log: Log::default(),
            counters: Counters::default(),
            faults: Faults::default(),
            options,
            mode: watch::Sender::new(Mode::Serving),
            connections: Mutex::default(),
            watches: Mutex::default(),
        }
    }

    pub(super) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
        if matches!(mode, Mode::Refusing | Mode::Ahead) {
            renew(&self.connections);
        }
    }

    /// Waits while the server hangs.
    pub(super) async fn responsive(&self) {
        // The sender is part of this very value, so it cannot be gone.
        drop(self.mode.subscribe().wait_for(|mode| *mode != Mode::Hanging).await);
    }

    /// Cancelled when the connections that are open now are to be reset.
    pub(super) fn connections(&self) -> CancellationToken {
        current(&self.connections)
    }

    /// Cancelled when the watches that run now are to break off.
    pub(super) fn watches(&self) -> CancellationToken {
        current(&self.watches)
    }

    pub(super) fn cut_watches(&self) {
        renew(&self.watches);
    }
}

fn current(token: &Mutex<CancellationToken>) -> CancellationToken {
    token.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn renew(token: &Mutex<CancellationToken>) {
    std::mem::take(&mut *token.lock().unwrap_or_else(PoisonError::into_inner)).cancel();
}
