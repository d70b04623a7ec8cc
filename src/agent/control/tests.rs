//! Controllers that do not end, and one that has to run all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::mailbox::Mailbox;
use super::*;
use crate::observe::metrics::{Metrics, Snapshot};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a controller does in its run.
#[derive(Clone, Copy)]
enum Does {
    Count,
    Wait,
    Block,
    Compute,
    Fail,
    Panic,
}

struct Stub {
    does: Does,
    runs: Arc<AtomicU64>,
}

impl Controller for Stub {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        self.runs.fetch_add(1, Ordering::Relaxed);
        match self.does {
            Does::Count => {}
            Does::Wait => std::future::pending().await,
            Does::Block => std::thread::sleep(PATIENCE * 2),
            Does::Compute => {
                let end = Instant::now() + PATIENCE * 2;
                while Instant::now() < end {
                    std::hint::spin_loop();
                }
            }
            Does::Fail => return Err(Unmet::failed("no permission")),
            Does::Panic => panic!("on purpose"),
        }
        Ok(Vec::new())
    }
}

/// Controllers that are all triggered by `Trigger::Routes`.
struct Rig {
    bus: Bus,
    board: Arc<Board>,
    metrics: Metrics,
    runs: Vec<Arc<AtomicU64>>,
    ended: UnboundedReceiver<String>,
}

impl Rig {
    fn start(controllers: &[(Name, Does)]) -> Self {
        let metrics = Metrics::default();
        let mailboxes: Vec<(Name, Arc<Mailbox>)> =
            controllers.iter().map(|(name, _)| (*name, Arc::default())).collect();
        let routes = Triggers::of(&[Trigger::Routes]);
        let bus = Bus::new(mailboxes.iter().map(|(_, mailbox)| (routes, Arc::clone(mailbox))));
        let names = controllers.iter().map(|(name, _)| *name).collect();
        let board = Arc::new(Board::new(&mailboxes, names, bus.clone(), metrics.clone()));
        let (sender, ended) = unbounded_channel();
        let mut runs = Vec::new();
        for ((name, does), (_, mailbox)) in controllers.iter().zip(mailboxes) {
            let count: Arc<AtomicU64> = Arc::default();
            runs.push(Arc::clone(&count));
            let runner = Runner {
                name: *name,
                resync: PATIENCE * 10,
                mailbox,
                board: Arc::clone(&board),
                metrics: metrics.clone(),
            };
            let does = *does;
            spawn(runner, sender.clone(), move || Ok(Stub { does, runs: count })).unwrap();
        }
        Self { bus, board, metrics, runs, ended }
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}; {:?}", self.board.problems());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn runs(&self, index: usize) -> u64 {
        self.runs[index].load(Ordering::Relaxed)
    }
}

#[test]
fn one_that_hangs_delays_no_other() {
    let hanging = [(Name::Mesh, Does::Wait), (Name::Tunnel, Does::Block), (Name::Egress, Does::Compute)];
    let mut all = hanging.to_vec();
    all.push((Name::Guard, Does::Count));
    let rig = Rig::start(&all);
    rig.wait_for("all to have begun", |rig| (0..4).all(|index| rig.runs(index) == 1));
    for round in 2..100 {
        rig.bus.post(Trigger::Routes);
        rig.wait_for("the one that works to run again", |rig| rig.runs(3) == round);
    }
    assert_eq!([0, 1, 2].map(|index| rig.runs(index)), [1; 3]);
    let hanging: Vec<Name> =
        rig.board.hanging(Duration::from_millis(1)).into_iter().map(|(name, _)| name).collect();
    assert_eq!(hanging, [Name::Mesh, Name::Tunnel, Name::Egress]);
    assert_eq!(rig.board.behind(None).len(), 3, "what has not ended is not applied");
    let text = rig.metrics.encode(Snapshot::default()).unwrap();
    assert!(text.contains("selvedge_agent_reconciles_total{controller=\"guard\"} 99"), "{text}");
    assert!(
        text.contains("selvedge_agent_event_to_applied_seconds_count{controller=\"guard\"} 98"),
        "{text}"
    );
}

#[test]
fn what_others_asked_for_triggers_nothing() {
    let rig = Rig::start(&[(Name::Guard, Does::Count)]);
    rig.wait_for("the first run", |rig| rig.board.behind(None).is_empty());
    for trigger in [Trigger::Nodes, Trigger::OwnNode, Trigger::Rules] {
        rig.bus.post(trigger);
    }
    rig.bus.post(Trigger::Routes);
    rig.wait_for("the second run", |rig| rig.runs(0) == 2);
    let status = || rig.board.controllers().remove(0);
    rig.wait_for("it to be applied", |_| status().applied == Some(1));
    assert_eq!((status().wanted, status().runs), (1, 2));
}

#[test]
fn a_failure_is_retried_and_told() {
    let rig = Rig::start(&[(Name::Guard, Does::Fail)]);
    rig.wait_for("retries", |rig| rig.runs(0) >= 3);
    assert_eq!(rig.board.problems(), ["guard: no permission"]);
    assert_eq!(rig.board.unready(), rig.board.problems());
}

#[test]
fn a_panic_is_told() {
    let mut rig = Rig::start(&[(Name::Guard, Does::Panic)]);
    let why = rig.ended.blocking_recv().unwrap();
    assert_eq!(why, "controller guard: it panicked");
}

/// Else a node could be called ready for a configuration that is not applied yet.
#[test]
fn what_is_triggered_is_behind_until_it_is_applied() {
    let mailbox: Arc<Mailbox> = Arc::default();
    let routes = Triggers::of(&[Trigger::Routes]);
    let listener: Arc<Mailbox> = Arc::default();
    let status = Triggers::of(&[Trigger::Status]);
    let bus = Bus::new([(routes, Arc::clone(&mailbox)), (status, Arc::clone(&listener))]);
    let mailboxes = [(Name::Routes, Arc::clone(&mailbox))];
    let board = Board::new(&mailboxes, vec![Name::Routes], bus.clone(), Metrics::default());
    let run = |outcome: Outcome| {
        let pending = mailbox.take();
        board.begin(Name::Routes);
        board.finish(Name::Routes, &pending, &outcome);
    };
    assert_eq!(board.behind(None), [Name::Routes], "it has not run yet");
    run(Ok(Vec::new()));
    assert_eq!(board.behind(None), []);
    bus.post(Trigger::Routes);
    assert_eq!((board.behind(None), board.unready().len()), (vec![Name::Routes], 0));
    listener.take();
    let pending = mailbox.take();
    bus.post(Trigger::Routes);
    board.begin(Name::Routes);
    board.finish(Name::Routes, &pending, &Ok(Vec::new()));
    assert_eq!(board.behind(None), [Name::Routes], "something happened during the run");
    assert!(!listener.take().triggers.has(Trigger::Status));
    run(Ok(Vec::new()));
    assert!(listener.take().triggers.has(Trigger::Status), "who waits is told");
    assert_eq!(board.behind(None), []);
    bus.post(Trigger::Routes);
    run(Err(Unmet::failed("no")));
    assert_eq!((board.behind(None), board.unready()), (vec![Name::Routes], vec!["routes: no".to_owned()]));
}
