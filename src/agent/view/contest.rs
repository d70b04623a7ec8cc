//! The Nodes that have what others claim, from the mesh controller to the source that asks for whole Nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Names of Nodes whose claims another Node contests now.
#[derive(Debug, Default)]
pub(in crate::agent) struct Contested {
    names: Mutex<Arc<BTreeSet<String>>>,
    changed: Notify,
}

impl Contested {
    /// Replaces the names.
    pub(in crate::agent) fn set(&self, names: BTreeSet<String>) {
        let mut held = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if **held != names {
            *held = Arc::new(names);
            self.changed.notify_one();
        }
    }

    /// The names.
    pub(in crate::agent) fn get(&self) -> Arc<BTreeSet<String>> {
        Arc::clone(&self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the names are others than at the last call. For one waiter; nothing is lost when the future is dropped.
    pub(in crate::agent) async fn changed(&self) {
        self.changed.notified().await;
    }
}
