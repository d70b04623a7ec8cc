//! Who serves the Services of a node where kube-proxy may do so, too. Pure: what is found at kube-proxy's ports comes in, who
//! serves comes out.
//!
//! Both may have rules in the kernel for a while: each of them alone is right, and the agent's come first. So a turn from one to
//! the other loses nothing, as long as whoever stops does so after the other one has all its rules.

use std::time::{Duration, Instant};

/// kube-proxy is gone when nobody has listened at its ports for so long. It may have been started again until then.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// The same where somebody listens and does not answer.
const SILENCE: Duration = Duration::from_secs(60);
/// How long kube-proxy has said that its rules are complete when they are believed to be: each family's come for themselves.
const SETTLED: Duration = Duration::from_secs(5);
/// The same where it does not say so.
const UNTOLD: Duration = Duration::from_secs(30);
/// For how long the ports are left to kube-proxy, which tries to have them every 5 s.
pub const RELEASE: Duration = Duration::from_secs(12);
/// From one such time to the next.
const REST: Duration = Duration::from_secs(60);
/// How often the ports are looked at, at rest and while something is about to change.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_secs(1);

/// What was found at kube-proxy's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nobody listens.
    Nobody,
    /// Somebody listens and does not answer.
    Silent,
    /// The holder of this agent's ports.
    Holder,
    /// Another proxy.
    Other(Other),
}

/// Another proxy that serves Services, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// kube-proxy's name for how it does so, such as `nftables`; empty where it does not say.
    pub mode: String,
    /// Its rules are all in the kernel; none where it does not say.
    pub is_complete: Option<bool>,
}

/// Who serves, as of what was seen until now.
#[derive(Debug)]
pub struct Coexistence {
    state: State,
    mode: String,
}

#[derive(Debug)]
enum State {
    Unknown,
    /// The other one was last heard, and last seen to listen, at these times.
    Other {
        heard: Instant,
        listened: Instant,
    },
    This {
        /// Since when the other one has had all its rules.
        complete: Option<Instant>,
        /// Since when the other one has answered.
        other: Option<Instant>,
        /// The ports are left to the other one since then, or were.
        released: Option<Instant>,
        /// Since when no other one is known of.
        alone: Instant,
    },
}

impl Coexistence {
    /// `serves`: an earlier agent of this node has served.
    #[must_use]
    pub fn new(serves: bool, now: Instant) -> Self {
        let state = if serves { this(now) } else { State::Unknown };
        Self { state, mode: String::new() }
    }

    /// Takes what was found at the ports. `has_rules`: another proxy's rules are in the kernel.
    pub fn see(&mut self, seen: &Seen, has_rules: bool, now: Instant) {
        if let Seen::Other(other) = seen {
            self.mode.clone_from(&other.mode);
        }
        match (&mut self.state, seen) {
            (State::Unknown, Seen::Other(_) | Seen::Silent) => self.state = other(now),
            (State::Unknown, Seen::Nobody) if has_rules => self.state = other(now),
            (State::Unknown, Seen::Nobody | Seen::Holder) => self.state = this(now),
            (State::Other { heard, listened }, Seen::Other(_)) => (*heard, *listened) = (now, now),
            (State::Other { heard, listened }, seen) => {
                if *seen == Seen::Silent {
                    *listened = now;
                }
                if now.duration_since(*listened) >= PATIENCE || now.duration_since(*heard) >= SILENCE {
                    self.state = this(now);
                }
            }
            (State::This { complete, other: answers, alone, .. }, Seen::Other(found)) => {
                *alone = now;
                let answers = *answers.get_or_insert(now);
                if found.is_complete == Some(true) {
                    complete.get_or_insert(now);
                } else {
                    *complete = None;
                }
                let is_settled = complete.is_some_and(|since| now.duration_since(since) >= SETTLED);
                let is_untold = found.is_complete.is_none() && now.duration_since(answers) >= UNTOLD;
                if is_settled || is_untold {
                    self.state = other(now);
                }
            }
            (State::This { complete, other, .. }, _) => (*complete, *other) = (None, None),
        }
    }

    /// Another proxy has changed rules in the kernel: there is one, and it may not have the ports yet.
    pub fn rules_changed(&mut self, now: Instant) {
        if let State::This { released, alone, .. } = &mut self.state
            && released.is_none_or(|since| now.duration_since(since) >= REST)
        {
            *released = Some(now);
            *alone = now;
        }
    }

    /// Whether this agent serves; none while that is not known.
    #[must_use]
    pub fn serves(&self) -> Option<bool> {
        match self.state {
            State::Unknown => None,
            State::Other { .. } => Some(false),
            State::This { .. } => Some(true),
        }
    }

    /// Whether the ports are this agent's to hold.
    #[must_use]
    pub fn holds_ports(&self, now: Instant) -> bool {
        match self.state {
            State::Unknown | State::Other { .. } => false,
            State::This { other, released, .. } => {
                other.is_none() && released.is_none_or(|since| now.duration_since(since) >= RELEASE)
            }
        }
    }

    /// Nothing is known of another proxy that lives: what is left of one in the kernel is nobody's.
    #[must_use]
    pub fn is_alone(&self, now: Instant) -> bool {
        match self.state {
            State::Unknown | State::Other { .. } => false,
            State::This { alone, .. } => now.duration_since(alone) >= PATIENCE,
        }
    }

    /// The mode of the other proxy that was seen last; empty where it did not say, or none was seen.
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// How soon to look again.
    #[must_use]
    pub fn interval(&self, now: Instant) -> Duration {
        match self.state {
            State::Other { listened, .. } if listened == now => SELDOM,
            State::This { .. } if self.holds_ports(now) => SELDOM,
            _ => OFTEN,
        }
    }
}

fn other(now: Instant) -> State {
    State::Other { heard: now, listened: now }
}

fn this(now: Instant) -> State {
    State::This { complete: None, other: None, released: None, alone: now }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(is_complete: Option<bool>) -> Seen {
        Seen::Other(Other { mode: "nftables".into(), is_complete })
    }

    struct Trial {
        it: Coexistence,
        start: Instant,
        seconds: u64,
    }

    impl Trial {
        fn new(serves: bool) -> Self {
            let start = Instant::now();
            Self { it: Coexistence::new(serves, start), start, seconds: 0 }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.seconds)
        }

        /// Sees this every second, and returns after how many somebody else serves than before, at most 100.
        fn until_turn(&mut self, seen: &Seen) -> Option<u64> {
            let before = self.it.serves();
            (0..=100).find(|_| {
                self.it.see(seen, true, self.now());
                let turned = self.it.serves() != before;
                self.seconds += u64::from(!turned);
                turned
            })
        }
    }

    #[test]
    fn a_node_without_another_proxy_serves_at_once_and_one_with_leaves_it_to_that() {
        let first = |seen: &Seen, has_rules| {
            let mut trial = Trial::new(false);
            assert_eq!(trial.it.serves(), None);
            trial.it.see(seen, has_rules, trial.now());
            trial.it.serves()
        };
        assert_eq!(first(&Seen::Nobody, false), Some(true));
        assert_eq!(first(&Seen::Holder, true), Some(true));
        // It may be between two of its processes.
        assert_eq!(first(&Seen::Nobody, true), Some(false));
        assert_eq!(first(&Seen::Silent, false), Some(false));
        assert_eq!(first(&found(Some(false)), false), Some(false));
    }

    #[test]
    fn it_serves_when_the_other_one_is_gone_and_no_sooner() {
        let mut trial = Trial::new(false);
        trial.it.see(&found(None), true, trial.now());
        trial.seconds += 1000;
        // Its process is replaced.
        trial.it.see(&found(None), true, trial.now());
        for _ in 0..14 {
            trial.seconds += 1;
            trial.it.see(&Seen::Nobody, true, trial.now());
        }
        trial.it.see(&found(None), true, trial.now());
        assert_eq!(trial.until_turn(&Seen::Nobody), Some(15));
        assert_eq!(trial.it.mode(), "nftables");
        // One that hangs has a minute.
        let mut trial = Trial::new(false);
        trial.it.see(&found(None), true, trial.now());
        assert_eq!(trial.until_turn(&Seen::Silent), Some(60));
    }

    #[test]
    fn it_stops_only_when_the_other_one_has_all_its_rules() {
        let mut trial = Trial::new(true);
        assert_eq!(trial.until_turn(&found(Some(false))), None);
        assert!(!trial.it.holds_ports(trial.now()));
        assert_eq!(trial.until_turn(&found(Some(true))), Some(5));
        let mut trial = Trial::new(true);
        assert_eq!(trial.until_turn(&found(None)), Some(30));
        // It ended before it was complete.
        let mut trial = Trial::new(true);
        trial.it.see(&found(Some(true)), true, trial.now());
        trial.seconds += 4;
        trial.it.see(&Seen::Nobody, true, trial.now());
        trial.seconds += 4;
        assert!(trial.it.holds_ports(trial.now()));
        assert_eq!(trial.until_turn(&found(Some(true))), Some(5));
    }

    #[test]
    fn the_ports_are_left_to_one_that_changes_rules_for_a_while() {
        let mut trial = Trial::new(true);
        trial.seconds = 100;
        assert!(trial.it.is_alone(trial.now()));
        trial.it.rules_changed(trial.now());
        assert!(!trial.it.is_alone(trial.now()));
        for second in 0..300 {
            // A program that is no proxy goes on changing such rules.
            trial.it.rules_changed(trial.now());
            trial.it.see(&Seen::Nobody, true, trial.now());
            assert_eq!(trial.it.holds_ports(trial.now()), second % 60 >= 12, "{second}");
            assert_eq!(trial.it.serves(), Some(true));
            trial.seconds += 1;
        }
    }

    proptest! {
        /// Whatever is seen: it is somebody's turn always, and in a turn to the other one that was there, complete.
        #[test]
        fn somebody_serves_always(
            serves in any::<bool>(),
            steps in proptest::collection::vec((0_u8..6, any::<bool>(), 1_u64..20), 1..60),
        ) {
            let mut trial = Trial::new(serves);
            for (step, has_rules, seconds) in steps {
                trial.seconds += seconds;
                let (before, now) = (trial.it.serves(), trial.now());
                let seen = match step {
                    0 => Seen::Nobody,
                    1 => Seen::Silent,
                    2 => Seen::Holder,
                    3 => found(Some(false)),
                    4 => found(Some(true)),
                    _ => found(None),
                };
                trial.it.see(&seen, has_rules, now);
                if step == 0 {
                    trial.it.rules_changed(now);
                }
                prop_assert!(trial.it.serves().is_some());
                if (before, trial.it.serves()) == (Some(true), Some(false)) {
                    prop_assert!(matches!(step, 4 | 5));
                }
                if (before, trial.it.serves()) == (Some(false), Some(true)) {
                    prop_assert!(matches!(step, 0..=2));
                }
                if trial.it.is_alone(now) {
                    prop_assert!(trial.it.serves() == Some(true) && !matches!(step, 3..=5));
                }
                // Who holds the ports serves.
                prop_assert!(!trial.it.holds_ports(now) || trial.it.serves() == Some(true));
            }
        }
    }
}
