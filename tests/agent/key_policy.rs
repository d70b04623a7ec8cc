//! A key whose cryptoperiod ends: the agent rotates it or warns of it, and the command line lists and finds it.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use selvedge::agent::status::AgentStatus;
use selvedge_keys::audit::{AuditReader, Event, Recorded};
use selvedge_keys::{KeyReader, KeyStore};
use selvedge_lab::isolated;
use selvedge_lab::node::{Node, environment};
use selvedge_lab::process::wait_for;
use serde_json::{Value, json};

use crate::cluster::{Claim, Cluster};

/// A rotation with every peer there takes 25 s.
const ROTATED: Duration = Duration::from_secs(120);

/// Restarts a node with a key of the next epoch that was made so many days ago, and these lines in `[keys]`.
fn restart_with_old_key(node: &Node, days: i64, lines: &str) {
    node.hold();
    let store = KeyStore::open(node.disk().join("state/keys")).unwrap();
    store.supersede(0, Timestamp::now() - SignedDuration::from_hours(24 * days)).unwrap();
    let file = node.disk().join("etc/config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[keys]\n{lines}\n")).unwrap();
    node.resume();
}

/// Exit code and answer of `selvedge keys`; on a node, or asking the API server from outside.
fn keys(cluster: &Cluster, node: Option<&Node>, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("keys").args(args).stdin(Stdio::null());
    match node {
        Some(node) => {
            command.envs(environment());
            node.space().place(&mut command);
        }
        None => {
            command.env("SELVEDGE_STATE_DIR", "/nonexistent").env("SELVEDGE_CONFIG", "/nonexistent");
            command.arg("--kubeconfig").arg(cluster.lab.kubeconfig());
        }
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// The checks with a finding.
fn found(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = value["findings"].as_array().unwrap().iter();
    let bad = findings.filter(|finding| !["ok", "skipped"].contains(&finding["severity"].as_str().unwrap()));
    bad.map(|finding| finding["check"].as_str().unwrap().to_owned()).collect()
}

fn key_age(status: Option<AgentStatus>) -> Option<String> {
    status?.problems.into_iter().find(|problem| problem.starts_with("key-age: "))
}

/// A metric of node1's agent.
fn metric(cluster: &Cluster, name: &str) -> Option<i64> {
    let text = cluster.get("/metrics");
    text.lines().find_map(|line| line.strip_prefix(&format!("selvedge_{name} "))?.parse().ok())
}

#[test]
fn the_agent_rotates_a_key_past_its_cryptoperiod_by_itself() {
    isolated!(|| {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        restart_with_old_key(node, 100, "rotate = \"auto\"");
        let status = |cluster: &Cluster| cluster.status(0).map(|status| status.key_epoch);
        wait_for("the new key", ROTATED, || status(&cluster) == Some(3)).unwrap();
        let audit = AuditReader::open(node.disk().join("state/audit")).unwrap().newest(1000).unwrap();
        let requested: Vec<_> = audit
            .into_iter()
            .filter_map(|entry| match entry.unwrap().event {
                Recorded::Known(Event::RotationRequested { by, reason, .. }) => {
                    Some((by.to_string(), reason.to_string()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(requested, [("policy".to_owned(), "cryptoperiod of 90d".to_owned())], "once");
        // It was past its time when the agent started.
        cluster.wait_for("the Event", |cluster| cluster.has_event("node1", "KeyExpired"));
        cluster.wait_for("the age to be good", |cluster| key_age(cluster.status(0)).is_none());
        // Two controllers measure these.
        cluster.wait_for("the times of the new key", |cluster| {
            let metric = |name| metric(cluster, &format!("key_{name}_timestamp_seconds")).unwrap();
            let (created, due) = (metric("created"), metric("rotation_due"));
            let day = 86_400;
            metric("expiry") == created + 90 * day && (created + 81 * day..created + 89 * day).contains(&due)
        });
        let store = || KeyReader::open(node.disk().join("state/keys")).unwrap().epochs().unwrap();
        wait_for("the old key to be wiped", ROTATED, || store() == [3]).unwrap();
    });
}

#[test]
fn with_manual_rotation_the_agent_warns_and_does_nothing() {
    isolated!(|| {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        restart_with_old_key(node, 80, "custodian = \"Ops\"");
        cluster.wait_for("the Event", |cluster| cluster.has_event("node1", "KeyExpiring"));
        let problem = key_age(cluster.status(0)).unwrap();
        assert!(problem.starts_with("key-age: the key of epoch 2 expires in 9 days"), "{problem}");
        assert!(problem.ends_with("custodian: Ops"), "{problem}");
        cluster.wait_for("node1 to be ready", |cluster| cluster.status(0).is_some_and(|status| status.ready));
        assert_eq!(metric(&cluster, "key_rotation_due_timestamp_seconds"), Some(0));
        let (_, text) = keys(&cluster, Some(node), &["status", "--output", "json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&status["keyEpoch"], &status["rotation"]), (&json!(2), &Value::Null), "{text}");
        inventory_and_check(&cluster, node);
    });
}

fn inventory_and_check(cluster: &Cluster, node: &Node) {
    cluster.wait_for("node1 to publish its key", |cluster| {
        let (code, text) = keys(cluster, None, &["inventory", "--output", "csv", "--custodian", "Ops"]);
        assert_eq!(code, Some(0), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        lines[1].starts_with("node1,current,X25519 (RFC 7748),128,")
            && lines[1].contains(",2,20")
            && lines[1].contains(",80,90d,20")
            && lines[1].ends_with(",Ops,")
    });
    let (code, text) = keys(cluster, None, &["check", "--output", "json"]);
    assert_eq!((code, found(&text)), (Some(0), vec![]), "{text}");
    let (code, text) = keys(cluster, None, &["check", "--output", "json", "--cryptoperiod", "30d"]);
    assert_eq!((code, found(&text)), (Some(3), vec!["key-age".to_owned()]), "{text}");
    let key = KeyReader::open(node.disk().join("state/keys")).unwrap().load(2).unwrap();
    cluster.create(&Claim { key: key.private_key.public_key(), ..Claim::good("twin", 1) });
    let (code, text) = keys(cluster, None, &["check", "--output", "json"]);
    assert_eq!(code, Some(3), "{text}");
    // The twin says no time either.
    assert_eq!(found(&text), ["duplicate-key", "key-created"], "{text}");
    cluster.delete("twin");

    let local = |args: &[&str]| {
        keys(cluster, Some(node), &[&["check", "--local", "--output", "json"], args].concat())
    };
    let (code, text) = local(&[]);
    assert_eq!((code, found(&text)), (Some(0), vec![]), "{text}");
    let store = node.disk().join("state/keys");
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o750)).unwrap();
    let (code, text) = local(&[]);
    std::fs::set_permissions(&store, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!((code, found(&text)), (Some(3), vec!["key-store".to_owned()]), "{text}");
    let (code, text) = keys(cluster, None, &["check", "--context", "none"]);
    assert_eq!(code, Some(2), "{text}");
}
