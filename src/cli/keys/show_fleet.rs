//! The keys of many nodes for people.

use std::time::Duration;

use jiff::Timestamp;
use selvedge_keys::rotation::HARD_MAXIMUM;
use serde::Serialize;

use super::super::table;
use super::show::age;
use crate::cluster::keys::fleet::Fleet;
use crate::cluster::keys::operation::{NodeOutcome, Objects, OperationOutcome};
use crate::cluster::keys::plan::OperationPlan;
use crate::cluster::keys::turns::{self, Place};
use crate::resource::key_rotation::KeyRotationState;

/// Columns that names in a list may take.
const WIDTH: usize = 60;
/// Nodes that a table of an outcome lists one by one.
const LISTED: usize = 20;

/// Shorter intervals are not worth a word.
const SHOWN: Duration = Duration::from_millis(100);

/// A node with its key, and the rotation that was asked for last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    /// Name of the Node.
    pub(super) node: String,
    /// Epoch of the key in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<u64>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<Timestamp>,
    /// Why the key cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
    /// The rotation that was asked for last through the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rotation: Option<RotationRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RotationRow {
    operation: String,
    requested_by: String,
    reason: String,
    /// None while the agent has not answered.
    state: Option<KeyRotationState>,
    /// It waits for its turn.
    held: bool,
    message: String,
    peers: Option<u64>,
    confirmed: Option<u64>,
    waiting_for: Vec<String>,
    begun: Option<Timestamp>,
    ended: Option<Timestamp>,
}

/// Of the nodes of these names; of all, if there are none.
pub(super) fn rows(fleet: &Fleet, names: &[String]) -> Vec<Row> {
    let wanted = fleet.nodes.iter().filter(|node| names.is_empty() || names.contains(&node.node));
    let row = |node: &crate::cluster::keys::fleet::NodeKey| {
        let rotation = fleet.rotations.get(&node.node).map(|object| {
            let (spec, status) = (&object.spec, object.answer().cloned());
            let held = status.is_none() && spec.hold && spec.abort.is_none();
            let state = status.as_ref().map(|status| status.state);
            let status = status.unwrap_or_default();
            RotationRow {
                operation: spec.operation.clone(),
                requested_by: spec.requested_by.clone(),
                reason: spec.reason.clone(),
                state,
                held,
                message: status.message,
                peers: status.peers,
                confirmed: status.confirmed,
                waiting_for: status.waiting_for,
                begun: status.begun,
                ended: status.ended,
            }
        });
        let (key, problem) = match &node.key {
            Ok(key) => (Some(*key), None),
            Err(problem) => (None, Some(problem.clone())),
        };
        Row {
            node: node.node.clone(),
            epoch: key.map(|(epoch, _)| epoch),
            created: key.and_then(|(_, created)| created),
            problem,
            rotation,
        }
    };
    wanted.map(row).collect()
}

/// A line for each node, and what those wait for that do not go on.
pub(super) fn fleet(rows: &[Row], now: Timestamp) -> String {
    let line = |row: &Row| {
        let rotation = row.rotation.as_ref();
        let peers = rotation.and_then(|it| Some(format!("{}/{}", it.confirmed?, it.peers?)));
        vec![
            row.node.clone(),
            row.epoch.map_or_else(|| "-".into(), |epoch| epoch.to_string()),
            row.created.map_or_else(|| "-".into(), |created| age(now.duration_since(created))),
            rotation.map_or("-", |it| state(it.state, it.held)).to_owned(),
            peers.unwrap_or_else(|| "-".into()),
            rotation.map_or_else(|| "-".into(), |it| it.operation.clone()),
        ]
    };
    let header = ["NODE", "EPOCH", "KEY MADE", "ROTATION", "CONFIRMED", "OPERATION"];
    let mut text = table::render(&header, &rows.iter().map(line).collect::<Vec<_>>(), &[1]);
    for row in rows {
        if let Some(problem) = &row.problem {
            text += &paragraph(&format!("{}: its annotations cannot be read: {problem}", row.node));
        }
        let Some(rotation) = &row.rotation else { continue };
        if rotation.state.is_none_or(|state| state != KeyRotationState::Rotated)
            && !rotation.message.is_empty()
        {
            text += &paragraph(&format!("{}: {}", row.node, rotation.message));
        }
        if rotation.state.is_some_and(|state| !state.is_final()) && !rotation.waiting_for.is_empty() {
            text += &paragraph(&format!("{} waits for {}", row.node, rotation.waiting_for.join(", ")));
        }
    }
    table::visible(&text)
}

fn paragraph(text: &str) -> String {
    let mut lines = table::wrap(&table::visible(text), 78).into_iter();
    let first = lines.next().unwrap_or_default();
    lines.fold(format!("{first}\n"), |text, line| text + "  " + &line + "\n")
}

fn state(state: Option<KeyRotationState>, held: bool) -> &'static str {
    match state {
        None if held => "held",
        None => "requested",
        Some(KeyRotationState::Waiting) => "waiting",
        Some(KeyRotationState::Preparing) => "preparing",
        Some(KeyRotationState::Confirming) => "confirming",
        Some(KeyRotationState::Retiring) => "retiring",
        Some(KeyRotationState::Aborting) => "aborting",
        Some(KeyRotationState::Rotated) => "rotated",
        Some(KeyRotationState::Aborted) => "aborted",
        Some(KeyRotationState::Superseded) => "superseded",
        Some(KeyRotationState::Refused) => "refused",
    }
}

/// What a rotation of many nodes would do.
pub(super) fn fleet_plan(plan: &OperationPlan, agents: usize, deadline: Duration) -> String {
    let OperationPlan { nodes, max_parallel, node_writes, node_events, rotation_writes, .. } = plan;
    let mut text = String::new();
    if nodes.is_empty() {
        text += "No keys can be rotated now.\n";
    } else {
        let (deadline, hours) = (deadline.as_secs(), HARD_MAXIMUM.as_secs() / 3600);
        let at_once = max_parallel.min(&nodes.len()).to_string()
            + &match plan.interval() {
                interval if interval < SHOWN => String::new(),
                interval => format!(", {:.1} s from one beginning to the next", interval.as_secs_f64()),
            };
        text += &format!("Rotating the keys of {} nodes would:\n", nodes.len());
        for (name, value) in [
            ("nodes", in_order(nodes)),
            ("at once", at_once),
            ("writes", format!("{node_writes} to Nodes ({node_events} events, for {agents} agents)")),
            ("", format!("about {rotation_writes} to KeyRotations (events for one agent each)")),
            ("time", format!("about {}, if all peers answer", time(plan.seconds))),
            ("deadline", format!("{deadline} s for each; then an old key stays for peers that use it,")),
            ("", format!("for {hours} hours at most")),
        ] {
            text += &format!("  {name:8}  {value}\n");
        }
    }
    for skipped in &plan.skipped {
        text += &paragraph(&format!("not {}: {}", skipped.node, skipped.reason));
    }
    if !nodes.is_empty() {
        text += "Run it with --yes.\n";
    }
    table::visible(&text)
}

/// The first and the last, if there are too many.
fn in_order(nodes: &[String]) -> String {
    let all = nodes.join(", ");
    match nodes {
        [first, .., last] if all.chars().count() > WIDTH => {
            let short = format!("{first} ... {last}");
            if short.chars().count() > WIDTH { "in the order of their names".into() } else { short }
        }
        _ => all,
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{:.1} h", Duration::from_secs(seconds).as_secs_f64() / 3600.0),
    }
}

/// One line for the progress of an operation.
pub(super) fn operation_step(operation: &str, objects: &Objects) -> String {
    let count =
        |wanted: Place| objects.values().filter(|object| turns::place(object, None) == wanted).count();
    let (done, active, held, failed) =
        (count(Place::Done), count(Place::Active), count(Place::Held), count(Place::Failed));
    let mut text = format!("{operation}: {done} of {} rotated, {active} active, {held} held", objects.len());
    if failed > 0 {
        text += &format!(", {failed} failed");
    }
    text
}

/// How an operation ended.
pub(super) fn outcome(outcome: &OperationOutcome) -> String {
    let OperationOutcome { operation, nodes, silent, skipped } = outcome;
    let rotated = outcome.count(KeyRotationState::Rotated);
    let held = nodes.iter().filter(|node| node.held).count();
    let longest = nodes.iter().filter_map(|node| node.seconds).max();
    let mut text = format!("operation {operation}: {rotated} of {} nodes rotated", nodes.len());
    text += &longest.map_or_else(String::new, |seconds| format!(", each in at most {seconds} s"));
    text.push('\n');
    let open: Vec<&NodeOutcome> =
        nodes.iter().filter(|node| node.state != Some(KeyRotationState::Rotated)).collect();
    for node in open.iter().filter(|node| !node.held).take(LISTED) {
        if silent.contains(&node.node) {
            let what = "its agent has not answered; the node rotates when it is back";
            text += &paragraph(&format!("{}: {what}", node.node));
            continue;
        }
        let message = if node.message.is_empty() { String::new() } else { format!(": {}", node.message) };
        text += &paragraph(&format!("{} {}{message}", node.node, state(node.state, node.held)));
    }
    for skipped in skipped.iter().take(LISTED) {
        text += &paragraph(&format!("not {}: {}", skipped.node, skipped.reason));
    }
    let more = (open.len() - held).saturating_sub(LISTED) + skipped.len().saturating_sub(LISTED);
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    if held > 0 {
        text += &format!("{held} nodes are held: selvedge keys resume {operation}\n");
    } else if !open.is_empty() {
        text += "see how they go on with: selvedge keys status --all\n";
    }
    table::visible(&text)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::cluster::keys::fleet::NodeKey;
    use crate::cluster::keys::plan::Skipped;
    use crate::resource::KeyRotation;
    use crate::resource::key_rotation::tests::rotation;
    use crate::resource::key_rotation::{KeyRotationSpec, KeyRotationStatus};

    fn narrow(text: &str) {
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    fn shown() -> Fleet {
        let name = "ip-10-0-131-7.eu-central-1.compute.internal";
        let mut object = KeyRotation::new(
            name,
            KeyRotationSpec { operation: "r-1a2b3c4d".into(), ..KeyRotationSpec::default() },
        );
        object.status = Some(KeyRotationStatus {
            operation: "r-1a2b3c4d".into(),
            state: KeyRotationState::Confirming,
            peers: Some(4999),
            confirmed: Some(4990),
            waiting_for: vec!["worker-7".into(), "evil\u{1b}[2J".into()],
            ..KeyRotationStatus::default()
        });
        Fleet {
            agents: 2,
            nodes: vec![
                NodeKey { node: name.into(), key: Ok((12, Some(Timestamp::UNIX_EPOCH))) },
                NodeKey { node: "b".into(), key: Err("public-key: too short".into()) },
            ],
            rotations: [(name.to_owned(), object)].into(),
        }
    }

    #[test]
    fn a_table_of_nodes_fits_and_says_what_is_waited_for() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 90);
        let text = fleet(&rows(&shown(), &[]), now);
        narrow(&text);
        for part in ["90 days ago", "confirming", "4990/4999", "waits for worker-7", "b: its annotations"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(rows(&shown(), &["b".into()]).len(), 1);
    }

    #[test]
    fn a_plan_says_what_it_costs() {
        let nodes = (0..5000).map(|number| format!("worker-{number:04}")).collect();
        let text = fleet_plan(&OperationPlan::paced(nodes, 5000, None), 5000, Duration::from_secs(300));
        narrow(&text);
        for part in ["worker-0000 ... worker-4999", "13, 2.0 s from", "50000000 events", "2.8 h"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut plan = OperationPlan::paced(Vec::new(), 3, None);
        plan.skipped.push(Skipped { node: "a".into(), reason: "operation r-1 is running there".into() });
        let text = fleet_plan(&plan, 3, Duration::from_secs(300));
        assert!(text.contains("No keys") && text.contains("not a: ") && !text.contains("--yes"), "{text}");
    }

    #[test]
    fn an_outcome_says_how_to_go_on() {
        let objects: Objects = [
            ("a".to_owned(), rotation("r", false, Some(KeyRotationState::Rotated))),
            ("b".to_owned(), rotation("r", false, Some(KeyRotationState::Refused))),
            ("c".to_owned(), rotation("r", true, None)),
        ]
        .into();
        let text = outcome(&OperationOutcome::of("r", &objects, Vec::new()));
        narrow(&text);
        for part in ["1 of 3 nodes", "b refused: too old", "1 nodes are held", "keys resume r"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(operation_step("r", &objects), "r: 1 of 3 rotated, 0 active, 1 held, 1 failed");
    }
}
