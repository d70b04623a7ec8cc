//! When a controller runs: at once after an event, again after a failure, and now and then without either.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::board::Board;
use super::mailbox::{Mailbox, Pending};
use super::name::Name;
use super::trigger::{Trigger, Triggers};
use super::{Controller, Outcome};
use crate::agent::retry::{Retry, jittered};
use crate::observe::metrics::{Controller as Label, Metrics};

/// Under a storm of events a controller runs at most this often.
const SHORTEST_GAP: Duration = Duration::from_millis(10);
/// ... and a slow one leaves this much time between two runs.
const LONGEST_GAP: Duration = Duration::from_millis(500);

/// What one controller runs by.
pub(crate) struct Runner {
    /// Its line in the table.
    pub(crate) name: Name,
    /// How often it compares with the kernel although nothing happened.
    pub(crate) resync: Duration,
    /// Where its triggers arrive.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Where its outcome goes.
    pub(crate) board: Arc<Board>,
    /// Where its runs are counted.
    pub(crate) metrics: Metrics,
}

/// Starts a controller on a thread of its own, which lasts as long as the process. `make` is called on that thread, inside
/// its runtime. When the controller ends, by a panic or because it could not be made, `ended` is told why.
///
/// # Errors
/// The system's, when it has no more threads.
pub(crate) fn spawn<C: Controller>(
    runner: Runner,
    ended: UnboundedSender<String>,
    make: impl FnOnce() -> anyhow::Result<C> + Send + 'static,
) -> io::Result<()> {
    let name = runner.name.label();
    let thread = std::thread::Builder::new().name(format!("ctl-{name}"));
    let work = move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            runner.run(make()?).await;
            Ok(())
        })
    };
    thread.spawn(move || {
        let guarded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let why = match guarded {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "it panicked".to_owned(),
        };
        // The receiver is gone only when the agent is ending.
        let _ = ended.send(format!("controller {name}: {why}"));
    })?;
    Ok(())
}

impl Runner {
    async fn run<C: Controller>(self, mut controller: C) {
        let mut retry = Retry::default();
        let mut pending = Pending { triggers: Triggers::ALL, ..self.mailbox.take() };
        loop {
            let begun = Instant::now();
            self.board.begin(self.name);
            let outcome = controller.reconcile(pending.triggers).await;
            self.observe(begun, &pending, &outcome);
            let pause = if self.board.finish(self.name, &pending, &outcome) {
                retry = Retry::default();
                jittered(self.resync)
            } else {
                retry.next().unwrap_or(self.resync)
            };
            pending = self.next(begun, pause).await;
        }
    }

    /// Waits for an event, or for the end of `pause`.
    async fn next(&self, begun: Instant, pause: Duration) -> Pending {
        let gap = (begun.elapsed() * 3).clamp(SHORTEST_GAP, LONGEST_GAP);
        let event = async {
            self.mailbox.wait().await;
            // A lone event is dealt with at once; of a storm, each run takes what came since the last.
            tokio::time::sleep_until((begun + gap).into()).await;
        };
        let timed_out = tokio::time::timeout(pause, event).await.is_err();
        let mut pending = self.mailbox.take();
        if timed_out {
            pending.triggers.insert(Trigger::Resync);
        }
        pending
    }

    fn observe(&self, begun: Instant, pending: &Pending, outcome: &Outcome) {
        let label = Label { controller: self.name.label().to_owned() };
        let metrics = &self.metrics;
        metrics.reconciles.get_or_create(&label).inc();
        metrics.reconcile_seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        if let (Some(since), Ok(_)) = (pending.since, outcome) {
            metrics.event_seconds.get_or_create(&label).observe(since.elapsed().as_secs_f64());
        }
    }
}
