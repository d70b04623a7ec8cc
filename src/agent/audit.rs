//! The agent's audit log. What cannot be recorded is reported, and holds nothing back: peers must not wait for a full disk.

use std::path::PathBuf;

use jiff::Timestamp;
use selvedge_keys::audit::{AuditError, AuditLog, Event, Limits};

/// The log, opened again at the next event where that failed.
#[derive(Debug)]
pub(super) struct Audit {
    folder: PathBuf,
    log: Option<AuditLog>,
    /// Why the last attempt to record something failed.
    problem: Option<String>,
}

impl Audit {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, log: None, problem: None }
    }

    /// Records events; on return they are on the disk, or the failure is reported.
    pub(super) fn record(&mut self, events: &[Event], now: Timestamp) {
        if events.is_empty() {
            return;
        }
        self.problem = self.try_record(events, now).err().map(|error| error.to_string());
        if let Some(error) = &self.problem {
            let events = serde_json::to_string(events).unwrap_or_default();
            tracing::error!(error, events, "cannot write to the audit log");
        }
    }

    /// Why the last attempt to record something failed.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn try_record(&mut self, events: &[Event], now: Timestamp) -> Result<(), AuditError> {
        if self.log.is_none() {
            let log = AuditLog::open(&self.folder, Limits::default(), now)?;
            if let Some(damage) = log.damage() {
                tracing::error!(%damage, "the audit log is damaged: it goes on in a new file, which records that");
            }
            self.log = Some(log);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        log.append_all(events, now).map(drop)
    }
}
