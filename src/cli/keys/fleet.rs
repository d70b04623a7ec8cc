//! The keys of many nodes, through the Kubernetes API.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::Client;
use serde::Serialize;

use super::super::progress::Progress;
use super::super::{Exit, Failure, Output};
use super::{AbortArgs, ResumeArgs, RotateArgs, StatusArgs, by, show_fleet as show};
use crate::cluster::keys::fleet::Fleet;
use crate::cluster::keys::operation::{self, Objects, OperationOutcome, Pace};
use crate::cluster::keys::plan::{OperationPlan, Skipped};
use crate::cluster::keys::turns::{self, Place};
use crate::cluster::{Access, Error, connect};
use crate::resource::KeyRotation;
use crate::resource::key_rotation::{Abort, DEADLINE, KeyRotationSpec, TEXT};

pub(super) async fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    let fleet = look(&args.access).await?.1;
    let rows = show::rows(&fleet, &args.node);
    if let Some(missing) = args.node.iter().find(|name| rows.iter().all(|row| row.node != **name)) {
        return Err(anyhow::anyhow!("Node {missing} does not exist, or Selvedge does not run on it").into());
    }
    let text = match args.output {
        Output::Json => json(&rows)?,
        Output::Table => show::fleet(&rows, Timestamp::now()),
    };
    super::super::print(&text)?;
    Ok(Exit::Ok)
}

pub(super) async fn rotate(args: &RotateArgs) -> Result<Exit, Failure> {
    let deadline = args.deadline.as_secs();
    if !DEADLINE.contains(&deadline) {
        let (first, last) = (DEADLINE.start(), DEADLINE.end());
        return Err(Failure::new(
            Exit::Usage,
            anyhow::anyhow!("--deadline is from {first} to {last} seconds"),
        ));
    }
    short(&args.reason)?;
    let (client, fleet) = look(&args.access).await?;
    let names = (!args.all).then_some(&args.node[..]);
    let plan = OperationPlan::of(&fleet, names, args.max_parallel);
    if !args.yes {
        let text = match args.output {
            Output::Json => json(&plan)?,
            Output::Table => show::fleet_plan(&plan, fleet.agents, args.deadline),
        };
        super::super::print(&text)?;
        return Ok(if plan.nodes.is_empty() { Exit::Failed } else { Exit::Ok });
    }
    let operation = operation::name()?;
    let spec = KeyRotationSpec {
        operation: operation.clone(),
        requested_by: user(&client).await?,
        reason: args.reason.clone(),
        deadline_seconds: deadline,
        hold: true,
        abort: None,
    };
    let late = operation::ask(&client, &fleet, &plan, &spec).await?;
    let skipped: Vec<Skipped> = plan.skipped.iter().cloned().chain(late).collect();
    carry_on(&client, &operation, &plan, args.wait, skipped, args.output).await
}

pub(super) async fn resume(args: &ResumeArgs) -> Result<Exit, Failure> {
    let (client, fleet) = look(&args.access).await?;
    let of_it = |object: &&KeyRotation| object.spec.operation == args.id;
    let objects: Vec<_> = fleet.rotations.values().filter(of_it).collect();
    if objects.is_empty() {
        return Err(unknown(&args.id));
    }
    let open = fleet.rotations.iter().filter(|(_, object)| of_it(object) && !object.is_over());
    let plan =
        OperationPlan::paced(open.map(|(node, _)| node.clone()).collect(), fleet.agents, args.max_parallel);
    carry_on(&client, &args.id, &plan, args.wait, Vec::new(), args.output).await
}

pub(super) async fn abort(args: &AbortArgs) -> Result<Exit, Failure> {
    short(&args.reason)?;
    let (client, fleet) = look(&args.access).await?;
    let wanted = Abort { requested_by: user(&client).await?, reason: args.reason.clone() };
    let Some(count) = operation::abort(&client, &fleet, &args.id, &wanted).await? else {
        return Err(unknown(&args.id));
    };
    let text = match args.output {
        Output::Json => json(&serde_json::json!({"operation": args.id, "aborting": count}))?,
        Output::Table if count == 0 => {
            format!("operation {} has ended on all nodes, or is being aborted already\n", args.id)
        }
        Output::Table => format!(
            "operation {} goes back on {count} nodes, except where the new key is in use already:\n\
             see `selvedge keys status --all`\n",
            args.id
        ),
    };
    super::super::print(&text)?;
    Ok(if count > 0 { Exit::Ok } else { Exit::Failed })
}

/// Releases the nodes of an operation one after another, and reports.
async fn carry_on(
    client: &Client,
    operation: &str,
    plan: &OperationPlan,
    wait: bool,
    skipped: Vec<Skipped>,
    output: Output,
) -> Result<Exit, Failure> {
    let mut progress = Progress::new();
    let mut seen = Objects::new();
    let pace = Pace { max_parallel: plan.max_parallel, interval: plan.interval(), until_done: wait };
    let following = operation::follow(client, operation, pace, |objects, trouble| {
        let of_it = objects.iter().filter(|(_, object)| object.spec.operation == operation);
        seen = of_it.map(|(node, object)| (node.clone(), object.clone())).collect();
        match trouble {
            Some(trouble) => progress.now(&format!("the API server does not answer, retrying: {trouble}")),
            None => progress.now(&show::operation_step(operation, &seen)),
        }
    });
    let silent = tokio::select! {
        silent = following => Some(silent?),
        _ = tokio::signal::ctrl_c() => None,
    };
    drop(progress);
    let is_interrupted = silent.is_none();
    let outcome = OperationOutcome {
        silent: silent.unwrap_or_default(),
        ..OperationOutcome::of(operation, &seen, skipped)
    };
    let text = match output {
        Output::Json => json(&outcome)?,
        Output::Table => show::outcome(&outcome),
    };
    super::super::print(&text)?;
    Ok(if !is_interrupted && is_well(&outcome, &seen, wait) { Exit::Ok } else { Exit::Failed })
}

/// Whether all that was asked for has been done, or with `wait` unset, has begun.
fn is_well(outcome: &OperationOutcome, objects: &Objects, wait: bool) -> bool {
    let places: BTreeMap<&str, Place> =
        objects.iter().map(|(node, object)| (node.as_str(), turns::place(object, None))).collect();
    let is_well = |place: &Place| match place {
        Place::Done => true,
        Place::Active => !wait,
        Place::Held | Place::Silent | Place::Failed => false,
    };
    outcome.skipped.is_empty()
        && outcome.silent.is_empty()
        && !places.is_empty()
        && places.values().all(is_well)
}

async fn look(access: &Access) -> Result<(Client, Fleet), Failure> {
    let (client, _) = connect(access).await?;
    let fleet = Fleet::look(&client).await?;
    Ok((client, fleet))
}

/// As the API server knows this user; by the operating system where it does not tell.
pub(super) async fn user(client: &Client) -> Result<String, Error> {
    Ok(operation::user(client).await?.unwrap_or_else(by))
}

fn unknown(operation: &str) -> Failure {
    anyhow::anyhow!("operation {operation} does not exist; `selvedge keys status --all` lists the operations")
        .into()
}

pub(super) fn short(reason: &str) -> Result<(), Failure> {
    if reason.len() > TEXT {
        let error = anyhow::anyhow!("the reason has {} bytes, more than {TEXT}", reason.len());
        return Err(Failure::new(Exit::Usage, error));
    }
    Ok(())
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).map_err(anyhow::Error::new)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::key_rotation::KeyRotationState;
    use crate::resource::key_rotation::tests::rotation;

    #[test]
    fn all_is_well_only_if_every_node_has_the_new_key() {
        let object = |hold, state| rotation("r", hold, state);
        let well = |objects: &[KeyRotation], wait| {
            let objects: Objects =
                objects.iter().enumerate().map(|(at, object)| (format!("n{at}"), object.clone())).collect();
            is_well(&OperationOutcome::of("r", &objects, Vec::new()), &objects, wait)
        };
        let done = object(false, Some(KeyRotationState::Rotated));
        assert!(well(std::slice::from_ref(&done), true));
        let active = object(false, Some(KeyRotationState::Confirming));
        assert!(well(&[done.clone(), active.clone()], false) && !well(&[done.clone(), active], true));
        for other in [
            object(true, None),
            object(false, Some(KeyRotationState::Aborted)),
            object(false, Some(KeyRotationState::Refused)),
        ] {
            assert!(!well(&[done.clone(), other], false));
        }
        assert!(!well(&[], true));
        let skipped = vec![Skipped { node: "x".into(), reason: "it is down".into() }];
        let objects: Objects = [("n".to_owned(), done)].into();
        assert!(!is_well(&OperationOutcome::of("r", &objects, skipped), &objects, true));
    }
}
