//! How each controller is doing: for readiness, status, metrics and the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::mailbox::{Bus, Mailbox, Pending};
use super::name::Name;
use super::trigger::Trigger;
use super::{Outcome, Unmet};
use crate::agent::status::ControllerStatus;
use crate::observe::metrics::{Controller as Label, Metrics};

/// Changes of one run that a log line names; the first run makes dozens.
const SHOWN: usize = 4;
/// A run that takes longer than this is a problem to report.
const SLOW: Duration = Duration::from_secs(10);

/// The state of all controllers.
#[derive(Debug)]
pub(crate) struct Board {
    states: Mutex<BTreeMap<Name, State>>,
    /// What pods need before they may start.
    needed: Vec<Name>,
    bus: Bus,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    mailbox: Option<Arc<Mailbox>>,
    /// Generation of the last successful run; none before the first.
    applied: Option<u64>,
    problem: Option<String>,
    running: Option<Instant>,
    runs: u64,
    /// Somebody waits for it to catch up.
    awaited: bool,
}

impl State {
    /// The last run succeeded, and nothing has happened since that it has yet to apply.
    fn is_current(&self) -> bool {
        let wanted = self.mailbox.as_ref().map_or(0, |mailbox| mailbox.wanted());
        self.problem.is_none() && self.applied.is_some_and(|applied| applied >= wanted)
    }

    fn problem(&self) -> Option<String> {
        let slow = self.running.filter(|since| since.elapsed() > SLOW);
        let slow = slow.map(|since| format!("a run has not ended for {} s", since.elapsed().as_secs()));
        slow.or_else(|| self.problem.clone())
    }
}

impl Board {
    /// A board of controllers with these mailboxes, none of which has run yet.
    #[must_use]
    pub(crate) fn new(
        mailboxes: &[(Name, Arc<Mailbox>)],
        needed: Vec<Name>,
        bus: Bus,
        metrics: Metrics,
    ) -> Self {
        let state = |mailbox: &Arc<Mailbox>| State {
            mailbox: Some(Arc::clone(mailbox)),
            problem: Some("has not run yet".into()),
            ..State::default()
        };
        let states = mailboxes.iter().map(|(name, mailbox)| (*name, state(mailbox))).collect();
        Self { states: Mutex::new(states), needed, bus, metrics }
    }

    /// A run begins.
    pub(crate) fn begin(&self, name: Name) {
        let mut states = self.states();
        let state = states.entry(name).or_default();
        state.running = Some(Instant::now());
        state.runs += 1;
    }

    /// A run has ended. Logs only what is news; returns whether it succeeded.
    pub(crate) fn finish(&self, name: Name, pending: &Pending, outcome: &Outcome) -> bool {
        let label = Label { controller: name.label().to_owned() };
        let (changed, succeeded) = {
            let mut states = self.states();
            let state = states.entry(name).or_default();
            let before = state.applied.is_some() && state.problem.is_none();
            let old = state.problem.take();
            state.running = None;
            match outcome {
                Ok(changes) => {
                    state.applied = Some(pending.generation);
                    log_changes(name, changes, old.is_some() && state.runs > 1);
                }
                Err(unmet) => {
                    if old.as_deref() != Some(unmet.text()) {
                        log_unmet(name, unmet);
                    }
                    state.problem = Some(unmet.text().to_owned());
                }
            }
            let caught_up = state.is_current() && std::mem::take(&mut state.awaited);
            (before != outcome.is_ok() || caught_up, outcome.is_ok())
        };
        match outcome {
            Ok(changes) if !changes.is_empty() => {
                self.metrics.changes.get_or_create(&label).inc();
            }
            Err(Unmet::Failed(_)) => {
                self.metrics.reconcile_errors.get_or_create(&label).inc();
            }
            _ => {}
        }
        if changed {
            self.announce();
        }
        succeeded
    }

    /// Sets or clears the problem of a line of the table that has no controller.
    pub(crate) fn note(&self, name: Name, problem: Option<&str>) {
        let changed = {
            let mut states = self.states();
            let state = states.entry(name).or_default();
            state.applied = Some(0);
            let before = std::mem::replace(&mut state.problem, problem.map(str::to_owned));
            before.as_deref() != problem
        };
        if changed {
            self.announce();
        }
    }

    fn announce(&self) {
        self.metrics.ready.set(i64::from(self.unready().is_empty()));
        self.bus.post(Trigger::Status);
    }

    /// What pods need, `but` one, and has not applied the newest desired state. When one of those has caught up, there is a
    /// [`Trigger::Status`].
    #[must_use]
    pub(crate) fn behind(&self, but: Option<Name>) -> Vec<Name> {
        let mut states = self.states();
        let mut behind = |name: &Name| {
            let state = states.entry(*name).or_default();
            state.awaited = !state.is_current();
            state.awaited
        };
        self.needed.iter().copied().filter(|name| Some(*name) != but).filter(|name| behind(name)).collect()
    }

    /// Whether a controller has applied the newest desired state.
    #[must_use]
    pub(crate) fn is_settled(&self, name: Name) -> bool {
        self.states().get(&name).is_some_and(State::is_current)
    }

    /// For people: a line for each controller that has not reached its desired state.
    #[must_use]
    pub(crate) fn problems(&self) -> Vec<String> {
        self.lines(|_| true)
    }

    /// Why a controller has not reached its desired state; none when it has.
    #[must_use]
    pub(crate) fn problem(&self, name: Name) -> Option<String> {
        self.states().get(&name).and_then(State::problem)
    }

    /// What keeps pods from starting; none when the node is ready.
    #[must_use]
    pub(crate) fn unready(&self) -> Vec<String> {
        self.lines(|name| self.needed.contains(&name))
    }

    fn lines(&self, which: impl Fn(Name) -> bool) -> Vec<String> {
        let states = self.states();
        let problems = states.iter().filter(|(name, _)| which(**name));
        problems.filter_map(|(name, state)| Some(format!("{}: {}", name.label(), state.problem()?))).collect()
    }

    /// The controllers whose present run has lasted longer than `limit`.
    #[must_use]
    pub(crate) fn hanging(&self, limit: Duration) -> Vec<(Name, Duration)> {
        let states = self.states();
        let running = states.iter().filter_map(|(name, state)| Some((*name, state.running?.elapsed())));
        running.filter(|(_, since)| *since > limit).collect()
    }

    /// All controllers, for the status.
    #[must_use]
    pub(crate) fn controllers(&self) -> Vec<ControllerStatus> {
        let states = self.states();
        let status = |(name, state): (&Name, &State)| ControllerStatus {
            name: name.label().to_owned(),
            wanted: state.mailbox.as_ref().map_or(0, |mailbox| mailbox.wanted()),
            applied: state.applied,
            runs: state.runs,
            problem: state.problem(),
        };
        states.iter().map(status).collect()
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Name, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_changes(name: Name, changes: &[String], recovered: bool) {
    let controller = name.label();
    if !changes.is_empty() {
        let (count, first) = (changes.len(), &changes[..changes.len().min(SHOWN)]);
        tracing::info!(controller, count, ?first, "applied changes");
        tracing::debug!(controller, ?changes, "all changes");
    }
    if recovered {
        tracing::info!(controller, "reached its desired state");
    }
}

fn log_unmet(name: Name, unmet: &Unmet) {
    let controller = name.label();
    match unmet {
        Unmet::Waiting(reason) => tracing::info!(controller, reason, "waiting"),
        Unmet::Failed(error) => tracing::warn!(controller, error, "reconcile failed, retrying with backoff"),
    }
}
