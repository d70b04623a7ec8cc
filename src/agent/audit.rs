//! The agent's audit log. What cannot be recorded is reported, and blocks nothing: peers must not wait for a full disk.

use std::path::PathBuf;

use jiff::Timestamp;
use selvedge_keys::audit::{AuditError, AuditLog, Event, Limits};

/// The log, opened again at the next event where that failed.
#[derive(Debug)]
pub(super) struct Audit {
    folder: PathBuf,
    log: Option<AuditLog>,
    /// Why the last attempt to record something, or to delete old files, failed.
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
        let recorded = self.try_record(events, now);
        let pruning = self.log.as_ref().and_then(AuditLog::prune_error).map(ToString::to_string);
        if let Err(error) = &recorded {
            let events = serde_json::to_string(events).unwrap_or_default();
            tracing::error!(%error, events, "cannot write to the audit log");
        } else if let Some(error) = &pruning {
            tracing::error!(error, "cannot delete old files of the audit log");
        }
        self.problem = recorded.err().map(|error| error.to_string()).or(pruning);
    }

    /// Why the last attempt to record something, or to delete old files, failed.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn try_record(&mut self, events: &[Event], now: Timestamp) -> Result<(), AuditError> {
        if self.log.is_none() {
            let log = AuditLog::open(&self.folder, Limits::default(), now)?;
            if let Some(damage) = log.damage() {
                tracing::error!(%damage, "the audit log is damaged, continuing in a new file that records the damage");
            }
            self.log = Some(log);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        log.append_all(events, now).map(drop)
    }
}
