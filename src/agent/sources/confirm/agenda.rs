//! When to ask for which Node.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::agent::retry::Retry;

/// Pauses before a Node is asked for again.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(600);

/// When to ask for which Node.
#[derive(Debug, Default)]
pub(super) struct Agenda(BTreeMap<String, Entry>);

#[derive(Debug)]
struct Entry {
    at: Instant,
    pauses: Retry,
    /// Resource version of the Node when it was last asked for.
    asked_at: Option<String>,
}

impl Agenda {
    /// Asks at `at`, whatever was before.
    pub(super) fn ask(&mut self, name: &str, at: Instant) {
        let pauses = Retry::between(FIRST_PAUSE, LAST_PAUSE);
        self.0.insert(name.to_owned(), Entry { at, pauses, asked_at: None });
    }

    /// Asks again after the next pause.
    pub(super) fn ask_again(&mut self, name: &str, now: Instant) {
        let entry = self.0.entry(name.to_owned()).or_insert_with(|| Entry {
            at: now,
            pauses: Retry::between(FIRST_PAUSE, LAST_PAUSE),
            asked_at: None,
        });
        entry.at = now + entry.pauses.next().unwrap_or(LAST_PAUSE);
    }

    pub(super) fn answered(&mut self, name: &str, version: &str, now: Instant) {
        self.ask_again(name, now);
        if let Some(entry) = self.0.get_mut(name) {
            entry.asked_at = Some(version.to_owned());
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn asked_at(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.asked_at.as_deref()
    }

    /// Names in ascending order.
    pub(super) fn due(&self, now: Instant) -> Vec<String> {
        self.0.iter().filter(|(_, entry)| entry.at <= now).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|entry| entry.at).min()
    }
}
