//! On a node of a running cluster.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use selvedge::guard;
use selvedge_keys::KeyStore;
use selvedge_lab::api::resource::EVENTS;
use selvedge_lab::isolated;
use selvedge_lab::lab::{Lab, Options};
use selvedge_lab::node::{Node, environment};
use selvedge_lab::process::wait_for;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bundle::assert_clean;
use crate::host::{NO_POLICIES, expect, found};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes that are peers.
fn cluster() -> (Lab, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::pair(folder.path(), env!("CARGO_BIN_EXE_selvedge"));
    let lab = Lab::start(options, &mut |_| {}).unwrap();
    wait_for("all to be well on node1", PATIENCE, || doctor(&lab.nodes()[0], &["--offline"]).1 == 0).unwrap();
    (lab, folder)
}

/// The program as an administrator of the node would run it.
fn selvedge(node: &Node, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(arguments).envs(environment());
    node.space().place(&mut command).output().unwrap()
}

pub(crate) fn doctor(node: &Node, options: &[&str]) -> (Value, i32) {
    let output = selvedge(node, &[&["doctor", "--output", "json"], options].concat());
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
}

#[test]
fn a_node_that_works_has_no_problem_and_one_that_does_not_says_what_is_down() {
    isolated!(|| {
        let (lab, _folder) = cluster();
        let node = &lab.nodes()[0];
        let (report, exit) = doctor(node, &["--offline"]);
        assert_eq!((exit, &report["installed"]), (0, &Value::Bool(true)), "{report:#}");
        expect(&report, "agent", &[("ok", "node node1 is ready")]);
        expect(&report, "guard", &[("ok", "as it should be")]);
        expect(&report, "port", &[("ok", "UDP 51830 is the tunnel's")]);
        expect(&report, "keys", &[("ok", "epoch 1 is in use, of 1")]);
        expect(&report, "cni", &[("ok", "10-selvedge.conflist alone")]);
        expect(&report, "ranges", &[("ok", "no address and no route")]);
        expect(&report, "firewall", &[("ok", "nothing drops")]);
        assert_eq!(found(&report, "tunnel").len(), 1, "{report:#}");
        let (report, _) = doctor(node, &[]);
        expect(&report, "nodes", &[("ok", "2 Nodes, all with pod CIDRs; 2 are members")]);
        expect(&report, "admission", &NO_POLICIES);

        // The agent of a container has its file there.
        let elsewhere = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
            command.args(["doctor", "--output", "json", "--offline"]);
            command.envs(environment()).env("SELVEDGE_CONFIG", "/run/node/none.toml");
            let output = node.space().place(&mut command).output().unwrap();
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let report = elsewhere();
        let source =
            "what the agent runs with (there is no /run/node/none.toml here) is valid for node node1";
        expect(&report, "config", &[("ok", source)]);
        expect(&report, "ranges", &[("ok", "no address and no route")]);

        node.hold();
        let report = elsewhere();
        expect(&report, "config", &[("problem", "there is no /run/node/none.toml")]);
        expect(&report, "config", &[("problem", "the agent was asked for its own: nothing answers on")]);
        node.space().run(|| assert!(guard::remove().unwrap())).unwrap();
        let (report, exit) = doctor(node, &["--offline"]);
        assert_eq!(exit, 3);
        expect(&report, "agent", &[("problem", "the agent does not answer")]);
        expect(&report, "tunnel", &[("problem", "the tunnel does not answer")]);
        expect(&report, "guard", &[("problem", "missing or was changed")]);
        expect(&report, "port", &[("ok", "UDP 51830 is free")]);
    });
}

#[test]
fn a_bundle_of_a_node_that_works_has_everything_but_its_keys() {
    isolated!(|| {
        let (lab, _folder) = cluster();
        let node = &lab.nodes()[0];
        // More than come at once, of which every second is ours.
        for number in 0..1200 {
            let controller = if number % 2 == 0 { "selvedge.dev/agent" } else { "other" };
            let event = json!({
                "metadata": {"name": format!("event-{number}"), "namespace": "default"},
                "reportingComponent": controller, "eventTime": "2026-11-26T00:00:00.000000Z",
            });
            lab.store().create(&EVENTS, event).unwrap();
        }
        let output = selvedge(node, &["support", "bundle", "--output", "/run/node/bundle"]);
        assert!(output.status.success(), "{output:?}");
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(node.disk().join("bundle")).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
        let keys = KeyStore::open(node.disk().join("state/keys")).unwrap().load(1).unwrap();
        assert_clean(&files, std::slice::from_ref(&keys.private_key));
        let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
        // The public half is what others know the node by.
        assert!(text("agent-status.json").contains(&keys.private_key.public_key().to_string()));
        assert!(text("tunnel-status.json").contains("\"node2\""));
        assert!(text("metrics.txt").contains("# EOF"));
        assert!(text("nftables.txt").contains("table inet selvedge-guard\n  counter arriving4"));
        assert!(text("network.txt").contains("selvedge0 kind tun"));
        assert!(text("config.json").contains("clusterPodCIDRs") && files.contains_key("records.json"));
        let events: Value = serde_json::from_slice(&files["events.json"]).unwrap();
        assert_eq!(events.as_array().unwrap().len(), 600, "{}", text("manifest.json"));
    });
}
