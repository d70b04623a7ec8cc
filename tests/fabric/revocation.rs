//! Keys of a node are revoked while its pods speak with others.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use selvedge::agent::status::AgentStatus;
use selvedge_keys::audit::Event;
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::KEY_REVOCATIONS;
use selvedge_lab::isolated;
use selvedge_lab::lab::Lab;
use selvedge_lab::node::{Node, environment};
use selvedge_lab::plan::Families;
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::Ping;

use crate::cluster::{lab, nothing_leaked};
use crate::operation::command;
use crate::rotation::{SOON, epochs, recorded};

const EVERY: Duration = Duration::from_millis(10);
/// After a revocation.
const AT_ONCE: Duration = Duration::from_secs(2);

fn keys(lab: &Lab, args: &[&str]) -> String {
    let output = command(lab, args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn status(node: &Node) -> Option<AgentStatus> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["status", "--output", "json"]).envs(environment()).stdin(Stdio::null());
    serde_json::from_slice(&node.space().place(&mut command).output().unwrap().stdout).ok()
}

/// Whether `node` refuses node1, and for this reason.
fn refuses(node: &Node, reason: &str) -> bool {
    let refused = status(node).map(|status| status.refused).unwrap_or_default();
    refused.iter().any(|refused| refused.node == "node1" && refused.reason == reason)
}

#[test]
fn a_revoked_node_is_cut_off_at_once_and_comes_back_with_new_keys() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 3);
        let [first, second, third] = lab.nodes() else { panic!("three nodes") };
        let pods: Vec<_> = (1..=3)
            .map(|number| lab.create_pod(&format!("pod{number}"), &format!("node{number}"), &[]).unwrap())
            .collect();
        let ping =
            |from: usize, to: usize| Ping::start(&pods[from].0, pods[to].1[0], EVERY, lab.canary()).unwrap();
        let cut = [ping(0, 1), ping(1, 0), ping(2, 0), ping(0, 2)];
        let others = ping(1, 2);
        let counts = || cut.each_ref().map(Ping::received);
        wait_for("all pods to be reached", SOON, || {
            counts().iter().all(|count| *count > 0) && others.received() > 0
        })
        .unwrap();

        let args = ["revoke", "--node", "node1", "--reason", "stolen"];
        assert!(keys(&lab, &args).contains("--yes"));
        assert_eq!(keys(&lab, &["revocations"]), "no key is revoked\n", "nothing is done without --yes");
        let begun = Instant::now();
        keys(&lab, &[&args[..], &["--yes"]].concat());
        std::thread::sleep(AT_ONCE.saturating_sub(begun.elapsed()));
        let after = counts();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(counts(), after, "packets of the revoked node arrive {AT_ONCE:?} after the revocation");
        for node in [second, third] {
            assert!(refuses(node, "NodeBarred"), "{:?}", status(node).map(|status| status.refused));
            let revoked = |event: &Event| {
                matches!(event, Event::KeyRevoked { node, by, .. }
                    if node.as_str() == "node1" && by.as_str() == "alice")
            };
            assert_eq!(recorded(node).iter().filter(|event| revoked(event)).count(), 1);
        }
        let problems = status(first).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.contains("revoked by alice (stolen)")), "{problems:?}");

        // An agent that starts again while the API server serves no revocations remembers them. So do those that saw the object
        // deleted.
        second.agent.hold();
        lab.store().delete(&KEY_REVOCATIONS, "", &revocation(&lab), &Deletion::default()).unwrap();
        second.agent.resume();
        wait_for("the second node to know", SOON, || refuses(second, "NodeBarred")).unwrap();
        assert!(refuses(third, "NodeBarred"));
        assert_eq!(counts(), after);

        // Back again.
        keys(&lab, &[&args[..], &["--yes"]].concat());
        keys(&lab, &["readmit", "--node", "node1", "--yes"]);
        wait_for("the node to be reached again", SOON, || {
            counts().iter().zip(after).all(|(now, then)| *now > then)
        })
        .unwrap();
        wait_for("the old key to be wiped", SOON, || epochs(first) == [2]).unwrap();
        assert!(!refuses(second, "NodeBarred") && !refuses(second, "KeyRevoked"));
        let report = others.stop();
        assert_eq!(report.lost(), 0, "the others speak on: {report:?}");
        cut.into_iter().for_each(|ping| drop(ping.stop()));
        nothing_leaked(&lab);
    });
}

/// Name of the only revocation.
fn revocation(lab: &Lab) -> String {
    let text = keys(lab, &["revocations", "--output", "json"]);
    let objects: serde_json::Value = serde_json::from_str(&text).unwrap();
    objects[0]["metadata"]["name"].as_str().unwrap().to_owned()
}
