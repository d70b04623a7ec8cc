//! Decides whether the agent or kube-proxy serves the Services of a node, from what answers on kube-proxy's ports. Pure; time is an
//! argument.
//!
//! Both may have rules in the kernel at the same time: either set is correct, and the agent's takes precedence. A takeover in either
//! direction loses no connection if the side that stops waits until the rules of the other side are complete.

use std::time::{Duration, Instant};

/// kube-proxy counts as stopped after its ports had no listener for this long. A restart takes less.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// The same for a listener that does not answer.
const SILENCE: Duration = Duration::from_secs(60);
/// kube-proxy must have reported complete rules for this long: it writes each family separately.
const CONFIRMED: Duration = Duration::from_secs(5);
/// The same, since its first answer, if it does not report whether its rules are complete.
const UNCONFIRMED: Duration = Duration::from_secs(30);
/// How long the ports are released for kube-proxy, which retries every 5 s.
pub const RELEASE: Duration = Duration::from_secs(12);
/// Least time between two releases.
const REST: Duration = Duration::from_secs(60);
/// Interval of probes, at rest and around a takeover.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_secs(1);

/// What answers on kube-proxy's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nobody listens.
    Nobody,
    /// A listener that does not answer.
    Silent,
    /// `selvedge ports` of this node.
    Holder,
    /// Another proxy.
    Other(Other),
}

/// Another service proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its kube-proxy mode, such as `nftables`; empty if it does not report one.
    pub mode: String,
    /// Whether all its rules are in the kernel; none if it does not report that.
    pub is_complete: Option<bool>,
}

/// The decision, and the observations that it follows from.
#[derive(Debug)]
pub struct Coexistence {
    state: State,
    mode: String,
}

#[derive(Debug)]
enum State {
    Unknown,
    /// When the other proxy last answered, and when it last listened.
    Other {
        heard: Instant,
        listened: Instant,
    },
    This {
        /// Since when the other proxy reports complete rules.
        complete: Option<Instant>,
        /// Since when another proxy answers.
        other: Option<Instant>,
        /// When the ports were last released.
        released: Option<Instant>,
        /// Last sign of another proxy.
        alone: Instant,
    },
}

impl Coexistence {
    /// `serves`: an earlier agent of this node has served Services.
    #[must_use]
    pub fn new(serves: bool, now: Instant) -> Self {
        let state = if serves { this(now) } else { State::Unknown };
        Self { state, mode: String::new() }
    }

    /// Takes the result of a probe. `has_rules`: rules of another proxy are in the kernel.
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
                let is_confirmed = complete.is_some_and(|since| now.duration_since(since) >= CONFIRMED);
                let is_old = found.is_complete.is_none() && now.duration_since(answers) >= UNCONFIRMED;
                if is_confirmed || is_old {
                    self.state = other(now);
                }
            }
            (State::This { complete, other, .. }, _) => (*complete, *other) = (None, None),
        }
    }

    /// Another proxy has added rules to the kernel, and may be unable to bind its ports.
    pub fn rules_changed(&mut self, now: Instant) {
        if let State::This { released, alone, .. } = &mut self.state
            && released.is_none_or(|since| now.duration_since(since) >= REST)
        {
            *released = Some(now);
            *alone = now;
        }
    }

    /// Whether this agent serves; none before the first probe.
    #[must_use]
    pub fn serves(&self) -> Option<bool> {
        match self.state {
            State::Unknown => None,
            State::Other { .. } => Some(false),
            State::This { .. } => Some(true),
        }
    }

    /// Whether `selvedge ports` is to hold the ports.
    #[must_use]
    pub fn holds_ports(&self, now: Instant) -> bool {
        match self.state {
            State::Unknown | State::Other { .. } => false,
            State::This { other, released, .. } => {
                other.is_none() && released.is_none_or(|since| now.duration_since(since) >= RELEASE)
            }
        }
    }

    /// No other proxy runs: its rules in the kernel are stale.
    #[must_use]
    pub fn is_alone(&self, now: Instant) -> bool {
        match self.state {
            State::Unknown | State::Other { .. } => false,
            State::This { alone, .. } => now.duration_since(alone) >= PATIENCE,
        }
    }

    /// The mode of the last other proxy; empty if unknown.
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.mode
    }

    /// Time until the next probe.
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

        /// Takes this probe every second; returns after how many seconds the decision changes, within 100 s.
        fn until_change(&mut self, seen: &Seen) -> Option<u64> {
            let before = self.it.serves();
            (0..=100).find(|_| {
                self.it.see(seen, true, self.now());
                let changed = self.it.serves() != before;
                self.seconds += u64::from(!changed);
                changed
            })
        }
    }

    #[test]
    fn the_agent_serves_at_once_without_another_proxy_and_not_beside_one() {
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
    fn the_agent_takes_over_once_the_other_proxy_has_stopped() {
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
        assert_eq!(trial.until_change(&Seen::Nobody), Some(15));
        assert_eq!(trial.it.mode(), "nftables");
        // One that hangs has a minute.
        let mut trial = Trial::new(false);
        trial.it.see(&found(None), true, trial.now());
        assert_eq!(trial.until_change(&Seen::Silent), Some(60));
    }

    #[test]
    fn the_agent_stops_once_the_rules_of_the_other_proxy_are_complete() {
        let mut trial = Trial::new(true);
        assert_eq!(trial.until_change(&found(Some(false))), None);
        assert!(!trial.it.holds_ports(trial.now()));
        assert_eq!(trial.until_change(&found(Some(true))), Some(5));
        let mut trial = Trial::new(true);
        assert_eq!(trial.until_change(&found(None)), Some(30));
        // It ended before it was complete.
        let mut trial = Trial::new(true);
        trial.it.see(&found(Some(true)), true, trial.now());
        trial.seconds += 4;
        trial.it.see(&Seen::Nobody, true, trial.now());
        trial.seconds += 4;
        assert!(trial.it.holds_ports(trial.now()));
        assert_eq!(trial.until_change(&found(Some(true))), Some(5));
    }

    #[test]
    fn ports_are_released_for_a_proxy_that_adds_rules() {
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
        /// Somebody serves at any time, and the agent stops only for a proxy that answers with complete rules.
        #[test]
        fn somebody_serves_at_any_time(
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
