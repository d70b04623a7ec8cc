//! When the key of this node is due, and when its age is a problem. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::config::{KeyPolicy, Rotate};

/// A key is rotated between these parts of the cryptoperiod before its expiry. The least leaves time for retries; up to the most,
/// nodes whose keys were made at the same time are spread.
const EARLIEST: u32 = 10;
const LATEST: u32 = 50;
/// How far clocks may differ.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// The key in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgingKey<'a> {
    /// Name of the node.
    pub(super) node: &'a str,
    pub(super) epoch: u64,
    pub(super) created: Timestamp,
}

/// What happens to a key, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// The agent rotates it, if that is its task.
    pub(super) due: Timestamp,
    /// Warnings begin.
    pub(super) warns: Timestamp,
    /// Its cryptoperiod ends.
    pub(super) expires: Timestamp,
}

impl Schedule {
    /// Of a key. It depends on nothing else, so that a restart of the agent changes nothing.
    pub(super) fn new(policy: &KeyPolicy, key: AgingKey<'_>) -> Self {
        let expires = after(key.created, policy.cryptoperiod);
        let due = before(expires, lead(policy.cryptoperiod, key));
        Self {
            due: due.max(after(key.created, policy.minimum_interval)),
            warns: before(expires, policy.warn_before),
            expires,
        }
    }
}

/// How long before its expiry a key is due: fixed by node and epoch, and as if by chance.
fn lead(cryptoperiod: Duration, key: AgingKey<'_>) -> Duration {
    let mut hash = Sha256::new();
    hash.update(key.epoch.to_be_bytes());
    hash.update(key.node.as_bytes());
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    let share = f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX);
    let (least, most) = (cryptoperiod / LATEST, cryptoperiod / EARLIEST);
    least + (most - least).mul_f64(share)
}

/// How old a key is, compared with the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    Good,
    /// It was made at a time that this node's clock has yet to reach: its age is not known, and counts as 0.
    Unknown,
    /// It expires within the time to warn.
    Expiring,
    Expired,
}

impl Age {
    pub(super) fn of(schedule: &Schedule, created: Timestamp, now: Timestamp) -> Self {
        if created.duration_since(now) > CLOCKS {
            Self::Unknown
        } else if now >= schedule.expires {
            Self::Expired
        } else if now >= schedule.warns {
            Self::Expiring
        } else {
            Self::Good
        }
    }
}

/// Whether the agent rotates the key now. `attempted` is how long ago, by a clock that nobody sets, it began a rotation of this
/// same key that did not bring a new one: somebody aborted it.
///
/// The age is by the wall clock, which may be wrong. A clock that is set back makes a key younger, never due: at worst its
/// creation is in the future. One that is set forward makes it due once, because the new key is made at the new time.
pub(super) fn is_due(
    policy: &KeyPolicy,
    schedule: &Schedule,
    now: Timestamp,
    attempted: Option<Duration>,
) -> bool {
    let is_soon = attempted.is_some_and(|attempted| attempted < policy.minimum_interval);
    policy.rotate == Rotate::Auto && now >= schedule.due && !is_soon
}

/// What is wrong with the age of the key, for people; none if nothing is.
pub(super) fn problem(
    policy: &KeyPolicy,
    schedule: &Schedule,
    key: AgingKey<'_>,
    now: Timestamp,
) -> Option<String> {
    let AgingKey { epoch, created, .. } = key;
    let expires = schedule.expires;
    let mut text = match Age::of(schedule, created, now) {
        Age::Good => return None,
        Age::Unknown => {
            return Some(format!(
                "the key of epoch {epoch} was made at {created:.0}, which is in the future: check the clock of this \
                 node, then rotate the key (selvedge keys rotate)"
            ));
        }
        Age::Expiring => {
            format!(
                "the key of epoch {epoch} expires in {}, at {expires:.0}",
                rounded(expires.duration_since(now))
            )
        }
        Age::Expired => {
            format!(
                "the key of epoch {epoch} expired {} ago, at {expires:.0}",
                rounded(now.duration_since(expires))
            )
        }
    };
    text += match policy.rotate {
        Rotate::Manual => "; rotate it (selvedge keys rotate)",
        Rotate::Auto => "; the agent has not rotated it, see selvedge keys status",
    };
    if !policy.custodian.is_empty() {
        text += &format!("; custodian: {}", policy.custodian);
    }
    Some(text)
}

/// To the day, or below two days to the hour: the text stays the same for as long.
fn rounded(time: SignedDuration) -> String {
    match time.as_hours() {
        0 => "less than an hour".into(),
        hours @ 1..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

fn before(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_sub(duration).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    /// The defaults.
    fn policy(rotate: Rotate) -> KeyPolicy {
        let default = KeyPolicy::default();
        let warn_before = match rotate {
            Rotate::Manual => default.warn_before,
            Rotate::Auto => default.cryptoperiod / 100,
        };
        KeyPolicy { rotate, warn_before, ..default }
    }

    fn key(node: &str, epoch: u64) -> AgingKey<'_> {
        AgingKey { node, epoch, created: Timestamp::UNIX_EPOCH }
    }

    /// After so many days of the key.
    fn day(day: u32) -> Timestamp {
        Timestamp::UNIX_EPOCH + DAY * day
    }

    #[test]
    fn a_key_is_due_within_the_last_tenth_and_early_enough_for_retries() {
        let policy = policy(Rotate::Auto);
        let mut leads = Vec::new();
        for number in 0..1000_u32 {
            let name = format!("node-{number}");
            let Schedule { due, expires, warns } = Schedule::new(&policy, key(&name, 1));
            assert_eq!(expires, day(90));
            assert!(due >= day(81) && due <= expires - policy.cryptoperiod / 50, "{due}");
            assert!(warns > due, "warnings mean that the rotation has not succeeded");
            leads.push(expires.duration_since(due).as_secs());
        }
        // Nodes that were made together rotate all over the time there is: about 100 in each tenth of it.
        let (least, most) = (90 * 864 * 2, 90 * 8640);
        for tenth in 0..10 {
            let range = least + (most - least) * tenth / 10..least + (most - least) * (tenth + 1) / 10;
            let count = leads.iter().filter(|lead| range.contains(*lead)).count();
            assert!((60..150).contains(&count), "{count} in {range:?}");
        }
    }

    #[test]
    fn the_time_is_fixed_by_node_and_epoch() {
        let policy = policy(Rotate::Auto);
        let due = |node: &str, epoch| Schedule::new(&policy, key(node, epoch)).due;
        assert_eq!(due("a", 1), due("a", 1));
        assert_ne!(due("a", 1), due("b", 1));
        assert_ne!(due("a", 1), due("a", 2));
        // It must not change between versions either: a new one would rotate at another time.
        assert_eq!(due("a", 1).as_second(), 7_476_868);
    }

    #[test]
    fn only_the_agents_task_is_due() {
        let schedule = Schedule::new(&policy(Rotate::Auto), key("a", 1));
        for (rotate, now, expected) in [
            (Rotate::Auto, schedule.due, true),
            (Rotate::Auto, schedule.due - Duration::from_secs(1), false),
            (Rotate::Auto, day(4000), true),
            (Rotate::Manual, day(4000), false),
        ] {
            assert_eq!(is_due(&policy(rotate), &schedule, now, None), expected, "{rotate:?} {now}");
        }
    }

    #[test]
    fn no_key_is_rotated_before_the_minimum_interval() {
        let whole = KeyPolicy { minimum_interval: DAY * 90, ..policy(Rotate::Auto) };
        assert_eq!(Schedule::new(&whole, key("a", 1)).due, day(90));
        let schedule = Schedule::new(&whole, key("a", 1));
        assert!(!is_due(&whole, &schedule, day(90) - Duration::from_secs(1), None));
    }

    #[test]
    fn an_aborted_rotation_is_repeated_only_after_the_minimum_interval() {
        let policy = policy(Rotate::Auto);
        let schedule = Schedule::new(&policy, key("a", 1));
        let due = |attempted| is_due(&policy, &schedule, day(90), Some(attempted));
        assert!(!due(Duration::ZERO) && !due(DAY - Duration::from_secs(1)) && due(DAY));
    }

    /// What the keys of a node are like when its clock shows these times one after another.
    fn rotations(clock: &[Timestamp]) -> usize {
        let policy = policy(Rotate::Auto);
        let mut key = key("a", 1);
        for now in clock {
            if is_due(&policy, &Schedule::new(&policy, key), *now, None) {
                key = AgingKey { epoch: key.epoch + 1, created: *now, ..key };
            }
        }
        usize::try_from(key.epoch - 1).unwrap()
    }

    #[test]
    fn a_clock_that_jumps_does_not_rotate_in_a_loop() {
        assert_eq!(rotations(&[day(0), day(90), day(91)]), 1, "the clock is right");
        // Back by years, as after the battery of a clock failed, and right again.
        let back = day(0) - DAY * 3650;
        assert_eq!(rotations(&[day(1), back, back + DAY * 80, day(2), back, day(3)]), 0);
        // Forward by a year and back, again and again.
        assert_eq!(rotations(&[day(1), day(366), day(2), day(366), day(3), day(367), day(80)]), 1);
    }

    #[test]
    fn a_creation_in_the_future_is_a_problem_and_counts_as_now() {
        let policy = policy(Rotate::Auto);
        let made = AgingKey { created: day(4000), ..key("a", 1) };
        let schedule = Schedule::new(&policy, made);
        assert_eq!(Age::of(&schedule, made.created, day(1)), Age::Unknown);
        assert!(!is_due(&policy, &schedule, day(1), None));
        let text = problem(&policy, &schedule, made, day(1)).unwrap();
        assert!(text.contains("in the future") && text.contains("check the clock"), "{text}");
        // As far as clocks differ it is not.
        let now = day(4000) - Duration::from_secs(300);
        assert_eq!(problem(&policy, &schedule, made, now), None);
    }

    #[test]
    fn the_age_is_a_problem_from_the_warning_on() {
        let manual = KeyPolicy { custodian: "Ops".into(), ..policy(Rotate::Manual) };
        let schedule = Schedule::new(&manual, key("a", 3));
        let text = |now| problem(&manual, &schedule, key("a", 3), now);
        assert_eq!(text(day(76) - Duration::from_secs(1)), None);
        let expiring = text(day(76)).unwrap();
        assert_eq!(
            expiring,
            "the key of epoch 3 expires in 14 days, at 1970-04-01T00:00:00Z; rotate it (selvedge keys rotate); \
             custodian: Ops"
        );
        assert!(text(day(89)).unwrap().contains("expires in 24 h"), "{:?}", text(day(89)));
        assert!(text(day(90)).unwrap().contains("expired less than an hour ago"), "{:?}", text(day(90)));
        assert!(text(day(100)).unwrap().contains("expired 10 days ago"), "{:?}", text(day(100)));
        let auto = policy(Rotate::Auto);
        let schedule = Schedule::new(&auto, key("a", 3));
        assert_eq!(problem(&auto, &schedule, key("a", 3), day(89)), None, "the agent has time");
        let late = problem(&auto, &schedule, key("a", 3), day(90)).unwrap();
        assert!(late.contains("the agent has not rotated it"), "{late}");
    }

    #[test]
    fn times_at_the_end_of_time_do_not_overflow() {
        let policy = policy(Rotate::Auto);
        for created in [Timestamp::MIN, Timestamp::MAX] {
            let made = AgingKey { created, ..key("a", 1) };
            let schedule = Schedule::new(&policy, made);
            assert!(schedule.due <= schedule.expires);
            let _ = problem(&policy, &schedule, made, day(0));
        }
    }
}
