//! The keys of this node, by the local socket of its agent.

use std::time::Duration;

use jiff::Timestamp;
use selvedge_keys::rotation::Outcome;
use serde::Serialize;

use super::super::progress::Progress;
use super::super::{Exit, Failure, Output};
use super::{AbortArgs, RotateArgs, StatusArgs, by, show};
use crate::agent::status::{AbortRequest, KeysStatus, RotateRequest};
use crate::local::{Client, ClientError, StatusCode};
use crate::paths::Paths;

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    print(&fetch()?, args.output)?;
    Ok(Exit::Ok)
}

pub(super) fn abort(args: &AbortArgs) -> Result<Exit, Failure> {
    let asked = AbortRequest { id: args.id.clone(), by: by(), reason: args.reason.clone() };
    print(&post("/v1/keys/abort", &asked)?, args.output)?;
    Ok(Exit::Ok)
}

pub(super) fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let before = fetch()?;
    if !args.yes {
        if let Output::Json = args.output {
            print(&before, args.output)?;
        } else {
            super::super::print(&show::plan(&before, args.deadline))?;
        }
        return Ok(Exit::Ok);
    }
    let asked =
        RotateRequest { by: by(), reason: args.reason.clone(), deadline_seconds: args.deadline.as_secs() };
    let begun = post("/v1/keys/rotate", &asked)?;
    let running = begun.rotation.as_ref().filter(|_| args.wait);
    let Some((id, to)) = running.map(|rotation| (rotation.id.clone(), rotation.to)) else {
        print(&begun, args.output)?;
        return Ok(Exit::Ok);
    };
    let ended = wait(&id, begun)?;
    print(&ended, args.output)?;
    Ok(if is_rotated(&ended, &id, to) { Exit::Ok } else { Exit::Failed })
}

/// Whether the rotation `id` to the epoch `to`, which is over, brought the new key. An agent that was started again meanwhile has
/// no record of how it ended, only the key.
fn is_rotated(ended: &KeysStatus, id: &str, to: u64) -> bool {
    match ended.last.as_ref().filter(|last| last.id == id) {
        Some(last) => last.outcome == Outcome::Rotated,
        None => ended.key_epoch >= to,
    }
}

/// Waits until the rotation is over. The agent may be restarted meanwhile.
fn wait(id: &str, begun: KeysStatus) -> Result<KeysStatus, Failure> {
    let mut progress = Progress::new();
    let mut status = begun;
    let mut silent = 0;
    loop {
        match status.rotation.as_ref().filter(|rotation| rotation.id == id) {
            Some(rotation) => progress.now(&show::step(rotation)),
            None => return Ok(status),
        }
        std::thread::sleep(LOOK);
        match fetch() {
            Ok(now) => (status, silent) = (now, 0),
            Err(failure) if failure.exit == Exit::Unreachable && silent < 120 => {
                silent += 1;
                progress.now("the agent does not answer, retrying every 500 ms; it resumes the rotation when it is back");
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn fetch() -> Result<KeysStatus, Failure> {
    super::super::block_on(client().get("/v1/keys")).map_err(failure)
}

fn post(path: &str, body: &impl Serialize) -> Result<KeysStatus, Failure> {
    super::super::block_on(client().post(path, body)).map_err(failure)
}

fn client() -> Client {
    Client::new(&Paths::from_env().agent_socket())
}

fn failure(error: ClientError) -> Failure {
    let exit = match &error {
        ClientError::Refused { status: StatusCode::BAD_REQUEST, .. } => Exit::Usage,
        ClientError::Refused { .. } | ClientError::Malformed { .. } => Exit::Failed,
        _ => Exit::Unreachable,
    };
    Failure::new(exit, anyhow::Error::new(error).context("cannot ask the agent about this node's keys"))
}

fn print(status: &KeysStatus, output: Output) -> Result<(), Failure> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(status).map_err(anyhow::Error::new)? + "\n",
        Output::Table => show::status(status, Timestamp::now()),
    };
    super::super::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::LastRotation;

    #[test]
    fn the_exit_code_is_right_although_the_agent_was_restarted() {
        let last = |id: &str, outcome| LastRotation {
            id: id.into(),
            outcome,
            from: 1,
            to: 2,
            begun: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
        };
        let ended = |key_epoch, last| KeysStatus {
            node: "n".into(),
            public_key: selvedge_keys::PublicKey::from_bytes([7; 32]),
            key_epoch,
            key_created: Timestamp::UNIX_EPOCH,
            audit_problem: None,
            rotation: None,
            last,
        };
        assert!(is_rotated(&ended(2, Some(last("r1", Outcome::Rotated))), "r1", 2));
        assert!(!is_rotated(&ended(1, Some(last("r1", Outcome::Aborted))), "r1", 2));
        assert!(!is_rotated(&ended(3, Some(last("r1", Outcome::Superseded))), "r1", 2));
        assert!(is_rotated(&ended(2, None), "r1", 2), "another agent answers");
        assert!(!is_rotated(&ended(1, None), "r1", 2));
    }
}
