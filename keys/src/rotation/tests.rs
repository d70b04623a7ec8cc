//! The machine by itself, and fleets of nodes with random schedules of rotations, aborts, crashes and absences.

mod fleet;

use super::*;

const START: Timestamp = Timestamp::UNIX_EPOCH;

fn rotation() -> Rotation {
    Rotation {
        id: "r1".into(),
        by: "operator".into(),
        reason: "planned".into(),
        from: 1,
        to: 2,
        phase: Phase::Prepare,
        begun: START,
        deadline: START + Duration::from_secs(120),
        replaced: None,
        is_complete: false,
        aborted: None,
    }
}

/// A node with one tunnel, in which everything asked for happens at once.
struct Node {
    machine: Machine,
    current: u64,
    epochs: Vec<u64>,
    peers: Vec<PeerSessions>,
    life: u64,
    uptime: Duration,
    is_tunnel_up: bool,
    is_shown: bool,
    phases: Vec<Phase>,
}

const OLD: PeerSessions = PeerSessions { old: true, new: false, sending: 1 };
const BOTH: PeerSessions = PeerSessions { old: true, new: true, sending: 2 };
const BACK: PeerSessions = PeerSessions { old: true, new: true, sending: 1 };
const NEW: PeerSessions = PeerSessions { old: false, new: true, sending: 2 };

impl Node {
    fn new(peers: &[PeerSessions]) -> Self {
        Self {
            machine: Machine::new(rotation()),
            current: 1,
            epochs: vec![1],
            peers: peers.to_vec(),
            life: 1,
            uptime: Duration::ZERO,
            is_tunnel_up: true,
            is_shown: true,
            phases: vec![Phase::Prepare],
        }
    }

    fn step(&mut self) -> Step {
        let wanted = self.machine.rotation().wanted();
        let identities: Vec<u64> = wanted.identities.iter().map(|own| own.epoch).collect();
        let seen = Seen {
            now: START + self.uptime,
            uptime: self.uptime,
            current: self.current,
            epochs: &self.epochs,
            shown: self
                .is_shown
                .then_some(Shown { epoch: wanted.published, has_next: wanted.next.is_some() }),
            tunnel: self.is_tunnel_up.then_some(Tunnel {
                life: self.life,
                identities: &identities,
                peers: &self.peers,
            }),
        };
        let step = self.machine.step(&seen);
        match step {
            Step::Create(epoch) => self.epochs.push(epoch),
            Step::Promote(epoch) => self.current = epoch,
            Step::Wipe(epoch) => self.epochs.retain(|held| *held != epoch),
            Step::Enter(phase) => self.phases.push(phase),
            Step::Wait | Step::End(_) => {}
        }
        step
    }

    /// Steps until it waits or ends.
    fn run(&mut self) -> Step {
        loop {
            let step = self.step();
            if matches!(step, Step::Wait | Step::End(_)) {
                return step;
            }
        }
    }

    /// Lets so much time pass, and runs once a second.
    fn pass(&mut self, time: Duration) -> Step {
        let end = self.uptime + time;
        loop {
            let step = self.run();
            if self.uptime >= end || step != Step::Wait {
                return step;
            }
            self.uptime += Duration::from_secs(1);
        }
    }

    fn phase(&self) -> Phase {
        self.machine.rotation().phase
    }

    /// The agent is started again: what was not on disk is gone.
    fn crash(&mut self) {
        self.machine = Machine::new(self.machine.rotation().clone());
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_rotation_waits_for_every_live_peer_and_wipes_the_old_key_last() {
    let mut node = Node::new(&[OLD, OLD]);
    assert_eq!(node.pass(30 * SECOND), Step::Wait);
    assert_eq!(node.phase(), Phase::Confirm);
    node.peers = vec![BOTH, OLD];
    node.pass(30 * SECOND);
    assert_eq!(node.phase(), Phase::Confirm, "one has not confirmed it");
    node.peers = vec![BOTH, BOTH];
    node.pass(SECOND);
    assert_eq!((node.phase(), node.current), (Phase::Confirm, 1), "packets may be under way");
    node.pass(3 * SECOND);
    assert_eq!((node.phase(), node.current), (Phase::Retire, 2));
    assert_eq!(node.epochs, [1, 2]);
    assert_eq!(node.pass(QUIET + 3 * SECOND), Step::End(Outcome::Rotated));
    assert_eq!((node.current, &node.epochs[..]), (2, &[2][..]));
    let order = [
        Phase::Prepare,
        Phase::Load,
        Phase::Publish,
        Phase::Confirm,
        Phase::Promote,
        Phase::Announce,
        Phase::Retire,
        Phase::Forget,
    ];
    assert_eq!(node.phases, order);
}

#[test]
fn at_the_deadline_the_old_key_stays_for_those_that_use_it_and_for_a_day_at_most() {
    let mut node = Node::new(&[BOTH, OLD]);
    node.pass(119 * SECOND);
    assert_eq!(node.phase(), Phase::Confirm);
    node.pass(2 * SECOND);
    assert_eq!((node.phase(), node.current), (Phase::Retire, 2));
    node.pass(10 * UNSEEN);
    assert_eq!(node.phase(), Phase::Retire, "a peer uses it");
    let mut kept = Node { machine: node.machine.clone(), epochs: node.epochs.clone(), ..node };
    kept.peers[1] = NEW;
    kept.pass(QUIET + SECOND);
    assert_eq!(kept.phase(), Phase::Retire, "not all had confirmed: there may be sessions that nobody saw");
    assert_eq!(kept.pass(UNSEEN), Step::End(Outcome::Rotated));
    let mut node = Node::new(&[OLD]);
    node.pass(HARD_MAXIMUM);
    assert_eq!(node.phase(), Phase::Retire);
    assert_eq!(node.pass(130 * SECOND), Step::End(Outcome::Rotated), "the hard maximum");
}

#[test]
fn an_abort_goes_back_to_sessions_on_the_old_key_first() {
    let mut node = Node::new(&[NEW, BACK]);
    node.pass(SECOND);
    node.machine.abort("tried").unwrap();
    node.pass(10 * SECOND);
    assert_eq!(node.phase(), Phase::Withdraw, "one peer has no session on the old key");
    let wanted = node.machine.rotation().wanted();
    assert_eq!((wanted.published, wanted.next), (1, Some(2)), "peers still know the new key");
    assert_eq!(wanted.identities[1], OwnEpoch { epoch: 2, is_withdrawn: true });
    node.peers[0] = BACK;
    node.pass(5 * SECOND);
    assert_eq!(node.phase(), Phase::Drain);
    node.pass(100 * SECOND);
    assert_eq!(node.phase(), Phase::Drain, "its sessions live on");
    node.peers = vec![OLD, OLD];
    assert_eq!(node.pass(QUIET + SECOND), Step::End(Outcome::Aborted));
    assert_eq!((node.current, &node.epochs[..]), (1, &[1][..]));
    assert_eq!(node.machine.rotation().aborted.as_deref(), Some("tried"));
}

#[test]
fn an_abort_ends_although_a_peer_has_no_session_on_the_old_key() {
    let mut node = Node::new(&[NEW]);
    node.pass(SECOND);
    node.machine.abort("tried").unwrap();
    node.pass(DRAIN + SECOND);
    assert_eq!(node.phase(), Phase::Drain);
    assert_eq!(node.pass(HARD_MAXIMUM + SECOND), Step::End(Outcome::Aborted));
}

#[test]
fn a_key_in_use_is_not_taken_back() {
    let mut node = Node::new(&[]);
    node.pass(5 * SECOND);
    assert_eq!(node.phase(), Phase::Retire);
    assert_eq!(node.machine.abort("late"), Err(TooLate(2)));
    assert_eq!(node.pass(UNSEEN), Step::End(Outcome::Rotated));
    let mut early = Node::new(&[]);
    early.machine.abort("early").unwrap();
    assert_eq!((early.run(), &early.epochs[..]), (Step::End(Outcome::Aborted), &[1][..]));
    assert_eq!(early.machine.abort("again"), Ok(()));
}

#[test]
fn nothing_is_published_that_the_tunnel_lacks_and_nothing_wiped_that_it_has() {
    let mut node = Node::new(&[]);
    node.is_tunnel_up = false;
    node.pass(300 * SECOND);
    assert_eq!(node.phase(), Phase::Load);
    node.is_tunnel_up = true;
    node.is_shown = false;
    node.pass(300 * SECOND);
    assert_eq!(node.phase(), Phase::Publish, "the API server does not show it");
    node.is_shown = true;
    node.pass(20 * SECOND);
    node.is_tunnel_up = false;
    node.pass(HARD_MAXIMUM + UNSEEN);
    assert_eq!((node.phase(), &node.epochs[..]), (Phase::Forget, &[1, 2][..]));
    node.is_tunnel_up = true;
    assert_eq!(node.run(), Step::End(Outcome::Rotated));
}

#[test]
fn after_a_crash_or_with_another_tunnel_it_looks_longer() {
    for restart in [|node: &mut Node| node.crash(), |node: &mut Node| node.life += 1] {
        let mut node = Node::new(&[BOTH]);
        node.pass(5 * SECOND);
        assert_eq!(node.phase(), Phase::Retire);
        restart(&mut node);
        node.peers.clear();
        node.pass(QUIET * 2);
        assert_eq!(node.phase(), Phase::Retire, "who uses the old key may have no session just now");
        assert_eq!(node.pass(UNSEEN), Step::End(Outcome::Rotated));
    }
}

#[test]
fn a_crash_at_any_step_changes_nothing_but_the_time() {
    for crash_at in 0..30 {
        for abort in [false, true] {
            let mut node = Node::new(&[BOTH]);
            let (mut steps, mut outcome) = (0, None);
            while outcome.is_none() {
                if abort && steps == 4 {
                    node.machine.abort("tried").unwrap();
                }
                match node.step() {
                    Step::End(end) => outcome = Some(end),
                    Step::Wait => {
                        node.uptime += SECOND;
                        let is_drained = abort && node.phase() == Phase::Drain;
                        node.peers = vec![match node.phase() {
                            Phase::Drain if is_drained => OLD,
                            Phase::Withdraw => BACK,
                            _ => BOTH,
                        }];
                    }
                    _ => {}
                }
                if steps == crash_at {
                    node.crash();
                }
                steps += 1;
                assert!(steps < 2000, "{:?}", node.phase());
            }
            let (end, epoch) = if abort { (Outcome::Aborted, 1) } else { (Outcome::Rotated, 2) };
            assert_eq!(
                (outcome, node.current, &node.epochs[..]),
                (Some(end), epoch, &[epoch][..]),
                "{crash_at}"
            );
        }
    }
}

#[test]
fn another_store_ends_it() {
    for (steps, current, epochs) in [(1, 3, vec![3]), (2, 1, vec![1]), (6, 5, vec![5]), (40, 1, vec![1])] {
        let mut node = Node::new(&[BOTH]);
        for _ in 0..steps {
            if node.step() == Step::Wait {
                node.uptime += SECOND;
            }
        }
        (node.current, node.epochs) = (current, epochs);
        assert_eq!(node.step(), Step::End(Outcome::Superseded), "after {steps} steps, {:?}", node.phase());
    }
}

#[test]
fn what_a_rotation_has_left_is_found() {
    assert_eq!(leftover(2, &[1, 2], &[2]), Some(1));
    assert_eq!(leftover(2, &[1, 2], &[1, 2]), None, "the tunnel uses it");
    assert_eq!(leftover(2, &[2, 3], &[2]), Some(3));
    assert_eq!(leftover(2, &[2], &[2]), None);
}

#[test]
fn it_is_kept_in_a_form_that_other_versions_read() {
    let text = serde_json::to_string(&rotation()).unwrap();
    assert_eq!(
        text,
        r#"{"id":"r1","by":"operator","reason":"planned","from":1,"to":2,"phase":"prepare","begun":"1970-01-01T00:00:00Z","deadline":"1970-01-01T00:02:00Z","isComplete":false}"#
    );
    assert_eq!(serde_json::from_str::<Rotation>(&text).unwrap(), rotation());
}
