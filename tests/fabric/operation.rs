//! Keys of many nodes are rotated through the API, by a command on a machine that is none of the nodes.

use std::io::Read as _;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use selvedge_keys::audit::Event;
use selvedge_lab::isolated;
use selvedge_lab::lab::Lab;
use selvedge_lab::plan::Families;
use selvedge_lab::process::wait_for;
use serde_json::Value;

use crate::cluster::{lab, nothing_leaked};
use crate::rotation::{SOON, Traffic, recorded, wait_rotated};

/// `selvedge keys` outside of all nodes, with an administrator's kubeconfig.
pub(crate) fn command(lab: &Lab, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("keys").args(args).arg("--kubeconfig").arg(lab.kubeconfig()).env("USER", "alice");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn keys(lab: &Lab, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command(lab, args).output().unwrap();
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn json(lab: &Lab, args: &[&str]) -> (Option<i32>, Value) {
    let mut command = command(lab, args);
    let output = command.args(["--output", "json"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let value = serde_json::from_slice(&output.stdout);
    (output.status.code(), value.unwrap_or_else(|why| panic!("{why}: {error}")))
}

/// The state of the rotation of each node, in order; null before the agent has answered, and `held` before its turn.
pub(crate) fn states(lab: &Lab) -> Vec<Value> {
    let rows = json(lab, &["status", "--all"]).1;
    let state = |row: &Value| match &row["rotation"] {
        rotation if rotation["held"] == true => "held".into(),
        rotation => rotation["state"].clone(),
    };
    rows.as_array().unwrap().iter().map(state).collect()
}

/// Exit code and standard output of a command that is over.
fn end(mut child: Child) -> (Option<i32>, String) {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code(), text)
}

#[test]
fn all_nodes_are_rotated_through_the_api() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 3);
        let traffic = Traffic::start(&lab);
        let (code, plan) = json(&lab, &["rotate", "--all", "--max-parallel", "2"]);
        assert_eq!(
            (code, &plan["nodeWrites"], &plan["nodeEvents"]),
            (Some(0), &6.into(), &18.into()),
            "{plan}"
        );
        assert!(states(&lab).iter().all(Value::is_null), "nothing is asked for without --yes");
        let reason = ["--reason", "planned"];
        let args = ["rotate", "--all", "--max-parallel", "2", "--yes", "--wait"];
        let (code, outcome) = json(&lab, &[&args[..], &reason].concat());
        assert_eq!(code, Some(0), "{outcome}");
        println!("{outcome}");
        let nodes = outcome["nodes"].as_array().unwrap();
        assert!(nodes.len() == 3 && nodes.iter().all(|node| node["state"] == "Rotated"), "{outcome}");
        let id = outcome["operation"].as_str().unwrap().to_owned();
        for node in lab.nodes() {
            wait_rotated(node, 2);
            let asked = |event: &Event| {
                matches!(event, Event::RotationRequested { id: of, by, reason, .. }
                    if of.as_str() == id && by.as_str() == "alice" && reason.as_str() == "planned")
            };
            assert!(recorded(node).iter().any(asked), "{}", node.name());
        }
        let (code, text) = keys(&lab, &["status", "--all"]);
        assert!(code == Some(0) && text.matches("rotated").count() == 3, "{text}");
        assert_eq!(keys(&lab, &["abort", &id]).0, Some(1), "it is over");
        assert_eq!(keys(&lab, &["resume", "r-none"]).0, Some(1));
        traffic.nothing_lost();
        nothing_leaked(&lab);
    });
}

#[test]
fn an_operation_is_carried_on_and_aborted_by_other_commands() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 3);
        let traffic = Traffic::start(&lab);
        let args = ["rotate", "--all", "--max-parallel", "1", "--yes", "--wait", "--output", "json"];
        // The operator's machine dies.
        let mut dying = command(&lab, &args).spawn().unwrap();
        wait_for("the first node to begin", SOON, || {
            states(&lab)[0].is_string() && states(&lab)[0] != "held"
        })
        .unwrap();
        dying.kill().unwrap();
        dying.wait().unwrap();
        assert_eq!(states(&lab)[1..], ["held", "held"]);
        let rows = json(&lab, &["status", "--node", "node1"]).1;
        let id = rows[0]["rotation"]["operation"].as_str().unwrap().to_owned();
        let other = json(&lab, &["rotate", "--all", "--yes"]);
        assert_eq!((other.0, other.1["skipped"].as_array().map(Vec::len)), (Some(1), Some(3)), "{other:?}");
        // Carried on, and interrupted politely.
        let resumed = command(&lab, &["resume", &id, "--max-parallel", "1", "--wait"]).spawn().unwrap();
        wait_for("the second node to begin", SOON * 5, || states(&lab)[1] != "held").unwrap();
        kill(Pid::from_raw(i32::try_from(resumed.id()).unwrap()), Signal::SIGINT).unwrap();
        let (code, text) = end(resumed);
        assert!(code == Some(1) && text.contains(&format!("selvedge keys resume {id}")), "{code:?}: {text}");
        // Taken back: what runs, and what waits for its turn.
        let (code, text) = keys(&lab, &["abort", &id, "--reason", "wrong day"]);
        assert!(code == Some(0) && text.contains("on 2 nodes"), "{code:?}: {text}");
        wait_for("the abort", SOON * 5, || states(&lab) == ["Rotated", "Aborted", "Aborted"]).unwrap();
        wait_rotated(&lab.nodes()[0], 2);
        wait_rotated(&lab.nodes()[1], 1);
        let by = |event: &Event| {
            matches!(event, Event::RotationAborted { by, reason, .. }
                if by.as_str() == "alice" && reason.as_str() == "wrong day")
        };
        assert!(recorded(&lab.nodes()[1]).iter().any(by));
        traffic.nothing_lost();
        nothing_leaked(&lab);
    });
}

#[test]
fn a_node_that_is_away_keeps_nobody_waiting_and_rotates_when_it_is_back() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 2);
        let [first, _] = lab.nodes() else { panic!("two nodes") };
        first.agent.stop();
        let (code, outcome) = json(&lab, &["rotate", "--all", "--max-parallel", "1", "--yes"]);
        assert_eq!((code, &outcome["silent"][0]), (Some(1), &"node1".into()), "{outcome}");
        wait_for("the second node to begin", SOON, || states(&lab)[1] == "Confirming").unwrap();
        assert!(states(&lab)[0].is_null());
        first.agent.resume();
        wait_for("the first node to confirm and to rotate", SOON, || {
            states(&lab).iter().all(|state| state == "Retiring" || state == "Rotated")
        })
        .unwrap();
        nothing_leaked(&lab);
    });
}
