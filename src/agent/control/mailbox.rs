//! Triggers on their way from sources to controllers. Events coalesce: a controller that is busy finds one set of all
//! that happened meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::trigger::{Trigger, Triggers};

/// What waits for one controller.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    slot: Mutex<Slot>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    triggers: Triggers,
    since: Option<Instant>,
    wanted: u64,
}

/// What a controller is to deal with in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// What happened.
    pub(crate) triggers: Triggers,
    /// When the first of it happened; none when nothing did.
    pub(crate) since: Option<Instant>,
    /// Number of the desired state: one more with each change.
    pub(crate) generation: u64,
}

impl Mailbox {
    fn post(&self, trigger: Trigger) {
        {
            let mut slot = self.slot();
            slot.triggers.insert(trigger);
            slot.since.get_or_insert_with(Instant::now);
            if trigger.is_change() {
                slot.wanted += 1;
            }
        }
        self.posted.notify_one();
    }

    /// Takes what is pending now, which may be nothing.
    pub(crate) fn take(&self) -> Pending {
        let mut slot = self.slot();
        let triggers = std::mem::take(&mut slot.triggers);
        Pending { triggers, since: slot.since.take(), generation: slot.wanted }
    }

    /// Waits until something is pending. Nothing is lost when the future is dropped.
    pub(crate) async fn wait(&self) {
        while self.slot().since.is_none() {
            self.posted.notified().await;
        }
    }

    /// Number of the desired state as of now.
    pub(crate) fn wanted(&self) -> u64 {
        self.slot().wanted
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads each trigger to the mailboxes of those that asked for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bus(Arc<[(Triggers, Arc<Mailbox>)]>);

impl Bus {
    /// A bus to these mailboxes, each with what it is to hear of.
    #[must_use]
    pub(crate) fn new(mailboxes: impl IntoIterator<Item = (Triggers, Arc<Mailbox>)>) -> Self {
        Self(mailboxes.into_iter().collect())
    }

    /// Tells of a change. Never blocks.
    pub(crate) fn post(&self, trigger: Trigger) {
        for (_, mailbox) in self.0.iter().filter(|(triggers, _)| triggers.has(trigger)) {
            mailbox.post(trigger);
        }
    }
}
