//! Keys and their rotation for people.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use selvedge_keys::rotation::{Outcome, Phase};

use crate::agent::status::{KeysStatus, LastRotation, RotationStatus};

/// The key in use, and the rotation.
pub(super) fn status(status: &KeysStatus, now: Timestamp) -> String {
    let mut text = format!("node      {}\n", status.node);
    text += &format!("key       {}\n", status.public_key);
    text +=
        &format!("epoch     {}, made {}\n", status.key_epoch, age(now.duration_since(status.key_created)));
    match (&status.rotation, &status.last) {
        (Some(rotation), _) => text += &running(rotation),
        (None, Some(last)) => text += &ended(last),
        (None, None) => text += "rotation  none\n",
    }
    if let Some(problem) = &status.audit_problem {
        text += &format!("problem   the audit log cannot be written: {problem}\n");
    }
    text
}

fn running(rotation: &RotationStatus) -> String {
    let RotationStatus { id, from, to, by, reason, waiting_for, deadline, .. } = rotation;
    let mut text = format!("rotation  {id}: epoch {from} to {to}\n");
    text += &format!("phase     {}\n", phase(rotation.phase));
    text += &format!("peers     {} of {} confirmed\n", rotation.confirmed, rotation.live);
    if !waiting_for.is_empty() {
        let more = rotation.live.saturating_sub(rotation.confirmed + waiting_for.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text += &format!("waiting   {}{more}\n", waiting_for.join(", "));
    }
    text += &format!("deadline  {deadline:.0}\n");
    text += &format!(
        "asked     by {by}{}\n",
        if reason.is_empty() { String::new() } else { format!(": {reason}") }
    );
    if let Some(why) = &rotation.aborted {
        text += &format!("aborted   {}\n", if why.is_empty() { "on request" } else { why });
    }
    text
}

fn ended(last: &LastRotation) -> String {
    let LastRotation { id, from, to, begun, ended, .. } = last;
    let how = match last.outcome {
        Outcome::Rotated => format!("epoch {from} to {to}"),
        Outcome::Aborted => format!("aborted, epoch {from} stays"),
        Outcome::Superseded => "ended because the key store has other keys".to_owned(),
    };
    let took = ended.duration_since(*begun).as_secs();
    format!("rotation  none; last {id}: {how}, in {took} s\n")
}

/// One line for the progress of a rotation.
pub(super) fn step(rotation: &RotationStatus) -> String {
    let RotationStatus { id, confirmed, live, .. } = rotation;
    format!("{id}: {}, {confirmed} of {live} peers confirmed", phase(rotation.phase))
}

/// What a rotation would do.
pub(super) fn plan(status: &KeysStatus, deadline: Duration) -> String {
    let KeysStatus { node, key_epoch, .. } = status;
    let next = key_epoch + 1;
    let seconds = deadline.as_secs();
    format!(
        "Rotating the keys of node {node} would:\n\
         \x20 1. make a key of epoch {next} and load it into the tunnel\n\
         \x20 2. publish it on the Node object beside that of epoch {key_epoch} (one API write)\n\
         \x20 3. wait until every peer with a session has one on the new key, at most {seconds} s\n\
         \x20 4. promote it (one API write), and wipe the old key once no session needs it\n\
         Without unreachable peers this takes about 25 s. Run it with --yes.\n"
    )
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "making the new key",
        Phase::Load => "loading the new key into the tunnel",
        Phase::Publish => "publishing the new key",
        Phase::Confirm => "waiting for peers to confirm the new key",
        Phase::Promote => "promoting the new key",
        Phase::Announce => "announcing the new key",
        Phase::Retire => "waiting for the last session on the old key",
        Phase::Forget => "wiping the old key",
        Phase::Withdraw => "aborting: returning to the old key",
        Phase::Unpublish => "aborting: no longer publishing the new key",
        Phase::Drain => "aborting: waiting for the last session on the new key",
        Phase::Discard => "aborting: wiping the new key",
    }
}

pub(super) fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use selvedge_keys::PublicKey;

    use super::*;

    fn rotating() -> KeysStatus {
        let rotation = RotationStatus {
            id: "r-1a2b3c4d".into(),
            by: "alice".into(),
            reason: "planned".into(),
            phase: Phase::Confirm,
            from: 3,
            to: 4,
            begun: Timestamp::UNIX_EPOCH,
            deadline: Timestamp::UNIX_EPOCH,
            live: 12,
            confirmed: 2,
            waiting_for: (0..8).map(|number| format!("n{number}")).collect(),
            aborted: None,
        };
        KeysStatus {
            node: "worker-1".into(),
            public_key: PublicKey::from_bytes([7; 32]),
            key_epoch: 3,
            key_created: Timestamp::UNIX_EPOCH,
            audit_problem: None,
            rotation: Some(rotation),
            last: None,
        }
    }

    #[test]
    fn the_table_says_what_is_waited_for_and_fits_80_columns() {
        let text = status(&rotating(), Timestamp::UNIX_EPOCH + SignedDuration::from_hours(90 * 24));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "epoch     3, made 90 days ago",
            "r-1a2b3c4d: epoch 3 to 4",
            "2 of 12 confirmed",
            "n7 and 2 more",
            "by alice: planned",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut done = rotating();
        (done.rotation, done.last) = (
            None,
            Some(LastRotation {
                id: "r-1a2b3c4d".into(),
                outcome: Outcome::Aborted,
                from: 3,
                to: 4,
                begun: Timestamp::UNIX_EPOCH,
                ended: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(25),
            }),
        );
        let text = status(&done, Timestamp::UNIX_EPOCH);
        assert!(text.contains("last r-1a2b3c4d: aborted, epoch 3 stays, in 25 s"), "{text}");
    }

    #[test]
    fn the_plan_names_epochs_and_writes() {
        let text = plan(&rotating(), Duration::from_secs(300));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(
            text.contains("epoch 4") && text.contains("at most 300 s") && text.contains("--yes"),
            "{text}"
        );
    }
}
