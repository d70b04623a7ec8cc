//! Whose turn it is: which node of an operation may begin next, and when the operation is over.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::resource::KeyRotation;
use crate::resource::key_rotation::KeyRotationState;

/// An agent that has said nothing for so long does not keep others waiting: its node may be down.
pub const SILENT: Duration = Duration::from_secs(60);

/// Where one node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It waits for its turn.
    Held,
    /// Its turn has come, and it is not through.
    Active,
    /// Its turn has come, and its agent has said nothing for [`SILENT`].
    Silent,
    /// It has the new key.
    Done,
    /// It ended without.
    Failed,
}

/// Where a node stands, with the time since its turn came, as far as that is known.
#[must_use]
pub fn place(object: &KeyRotation, since: Option<Duration>) -> Place {
    match object.answer().map(|status| status.state) {
        Some(KeyRotationState::Rotated) => Place::Done,
        Some(state) if state.is_final() => Place::Failed,
        Some(_) => Place::Active,
        None if object.spec.hold && object.spec.abort.is_none() => Place::Held,
        None if since.is_some_and(|since| since >= SILENT) => Place::Silent,
        None => Place::Active,
    }
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// This node may begin.
    Release(String),
    /// Nothing, for now.
    Wait,
    /// Nothing more: nobody is waiting for a turn, or one has failed and the others are not to follow it.
    Over,
}

/// The next turn. `until_done`: it is over only when nobody is active.
#[must_use]
pub fn next(
    places: &BTreeMap<String, Place>,
    max_parallel: usize,
    may_begin: bool,
    until_done: bool,
) -> Turn {
    let count = |place: Place| places.values().filter(|other| **other == place).count();
    let active = count(Place::Active);
    let held = places.iter().find(|(_, place)| **place == Place::Held).filter(|_| count(Place::Failed) == 0);
    match held {
        Some((node, _)) if active < max_parallel && may_begin => Turn::Release(node.clone()),
        Some(_) => Turn::Wait,
        None if until_done && active > 0 => Turn::Wait,
        None => Turn::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::key_rotation::Abort;
    use crate::resource::key_rotation::tests::rotation;

    fn object(hold: bool, abort: bool, state: Option<KeyRotationState>) -> KeyRotation {
        let mut object = rotation("r", hold, state);
        object.spec.abort = abort.then(Abort::default);
        object
    }

    #[test]
    fn a_node_stands_where_its_object_says() {
        let at = |object: &KeyRotation| place(object, Some(Duration::ZERO));
        assert_eq!(at(&object(true, false, None)), Place::Held);
        assert_eq!(at(&object(true, true, None)), Place::Active, "the agent says that it is aborted");
        assert_eq!(at(&object(false, false, None)), Place::Active);
        assert_eq!(at(&object(false, false, Some(KeyRotationState::Waiting))), Place::Active);
        assert_eq!(at(&object(false, false, Some(KeyRotationState::Rotated))), Place::Done);
        for state in [KeyRotationState::Aborted, KeyRotationState::Refused, KeyRotationState::Superseded] {
            assert_eq!(at(&object(false, false, Some(state))), Place::Failed);
        }
        assert_eq!(place(&object(false, false, None), Some(SILENT)), Place::Silent);
        assert_eq!(
            place(&object(false, false, Some(KeyRotationState::Waiting)), Some(SILENT)),
            Place::Active
        );
    }

    #[test]
    fn so_many_at_once_and_none_after_a_failure() {
        let places = |text: &str| -> BTreeMap<String, Place> {
            let place = |letter| match letter {
                'h' => Place::Held,
                'a' => Place::Active,
                's' => Place::Silent,
                'd' => Place::Done,
                _ => Place::Failed,
            };
            text.chars().enumerate().map(|(at, letter)| (format!("n{at}"), place(letter))).collect()
        };
        let next = |text: &str, may_begin, until_done| next(&places(text), 2, may_begin, until_done);
        assert_eq!(next("dahh", true, true), Turn::Release("n2".into()));
        assert_eq!(next("dahh", false, true), Turn::Wait, "too soon after the last one");
        assert_eq!(next("aahh", true, true), Turn::Wait);
        assert_eq!(next("sahh", true, true), Turn::Release("n2".into()), "a silent one holds nobody up");
        assert_eq!(next("fahh", true, true), Turn::Wait, "the one that is active is waited for");
        assert_eq!(next("fdhh", true, true), Turn::Over);
        assert_eq!(next("ddaa", true, true), Turn::Wait);
        assert_eq!(next("ddaa", true, false), Turn::Over, "all have begun");
        assert_eq!(next("ddss", true, true), Turn::Over);
    }
}
