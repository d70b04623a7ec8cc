//! Keys of nodes are rotated while pods speak with each other: not one packet is lost.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::agent::status::KeysStatus;
use selvedge::kernel::netns::NetNs;
use selvedge::paths::Paths;
use selvedge_keys::KeyReader;
use selvedge_keys::audit::{AuditReader, Event, Recorded, verify};
use selvedge_keys::rotation::Phase;
use selvedge_lab::isolated;
use selvedge_lab::lab::Lab;
use selvedge_lab::node::{Node, environment};
use selvedge_lab::plan::Families;
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{Ping, PingReport};

use crate::cluster::{lab, nothing_leaked};
use crate::operation::{command, states};

pub(crate) const SOON: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_millis(10);
/// A rotation with every peer there takes 25 s, with restarts of the agent 200 s.
const ROTATED: Duration = Duration::from_secs(420);

/// Exit code and standard output of `selvedge keys`.
fn keys(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("keys").args(args).envs(environment()).stdin(Stdio::null());
    let output = node.space().place(&mut command).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
}

/// None while the agent does not answer.
fn status(node: &Node) -> Option<KeysStatus> {
    let (code, text) = keys(node, &["status", "--output", "json"]);
    (code == Some(0)).then(|| serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

fn phase(node: &Node) -> Option<Phase> {
    Some(status(node)?.rotation?.phase)
}

fn paths(node: &Node) -> Paths {
    let state = node.disk().join("state");
    Paths { state, ..Paths::default() }
}

pub(crate) fn epochs(node: &Node) -> Vec<u64> {
    KeyReader::open(paths(node).keys()).unwrap().epochs().unwrap()
}

/// A pod of each node, each of which pings all others.
pub(crate) struct Traffic {
    pings: Vec<(String, Ping)>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab) -> Self {
        let pods: Vec<(String, Arc<NetNs>, Vec<IpAddr>)> = (1..=lab.nodes().len())
            .map(|number| {
                let (ns, addresses) =
                    lab.create_pod(&format!("pod{number}"), &format!("node{number}"), &[]).unwrap();
                (format!("pod{number}"), ns, addresses)
            })
            .collect();
        let mut pings = Vec::new();
        for (from, ns, _) in &pods {
            for (to, _, addresses) in pods.iter().filter(|(to, ..)| to != from) {
                for address in addresses {
                    let ping = Ping::start(ns, *address, EVERY, lab.canary()).unwrap();
                    pings.push((format!("{from} to {to}, {address}"), ping));
                }
            }
        }
        let traffic = Self { pings };
        wait_for("all pods to be reached", SOON, || {
            traffic.pings.iter().all(|(_, ping)| ping.received() > 0)
        })
        .unwrap();
        traffic
    }

    /// Ends it: what was sent before the first answer may have waited too long for the first handshakes, all else arrived.
    #[track_caller]
    pub(crate) fn nothing_lost(self) {
        let reports: Vec<(String, PingReport)> =
            self.pings.into_iter().map(|(what, ping)| (what, ping.stop())).collect();
        let sent: u64 = reports.iter().map(|(_, report)| report.sent).sum();
        println!("{sent} packets sent");
        let lossy: Vec<String> = reports
            .iter()
            .filter(|(_, report)| report.lost() > 0)
            .map(|(what, report)| {
                format!("{what}: {} of {}, longest gap {:?}", report.lost(), report.sent, report.longest_gap)
            })
            .collect();
        assert!(lossy.is_empty(), "{lossy:#?}");
    }
}

/// Waits until no rotation of this node runs and its key is of `epoch`, which is then the only one.
#[track_caller]
pub(crate) fn wait_rotated(node: &Node, epoch: u64) {
    let mut seen = None;
    let waited = wait_for("the rotation to end", ROTATED, || {
        seen = status(node).or(seen.take());
        seen.as_ref().is_some_and(|status| status.rotation.is_none() && status.key_epoch == epoch)
    });
    waited.unwrap_or_else(|error| panic!("{}: {error}: {seen:?}", node.name()));
    assert_eq!(epochs(node), [epoch], "{}: the old key is wiped", node.name());
}

pub(crate) fn recorded(node: &Node) -> Vec<Event> {
    let folder = paths(node).audit();
    let verified = verify(&folder, None).unwrap();
    assert!(!verified.torn_tail && verified.damaged == 0, "{verified:?}");
    let entries = AuditReader::open(folder).unwrap().newest(10_000).unwrap();
    let known = |entry: Recorded| match entry {
        Recorded::Known(event) => Some(event),
        Recorded::Unknown { .. } => None,
    };
    entries.into_iter().filter_map(|entry| known(entry.unwrap().event)).collect()
}

#[test]
fn all_nodes_rotate_at_once_without_losing_a_packet() {
    isolated!(|| {
        let lab = lab(Families::Dual, 3);
        let traffic = Traffic::start(&lab);
        let plan = keys(&lab.nodes()[0], &["rotate"]);
        assert!(plan.0 == Some(0) && plan.1.contains("epoch 2") && plan.1.contains("--yes"), "{plan:?}");
        assert_eq!(status(&lab.nodes()[0]).unwrap().rotation, None, "nothing is done without --yes");
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for node in lab.nodes() {
                scope.spawn(|| {
                    let (code, text) = keys(node, &["rotate", "--yes", "--wait", "--reason", "all at once"]);
                    assert_eq!(code, Some(0), "{text}");
                });
            }
        });
        println!("rotated in {:?}", begun.elapsed());
        for node in lab.nodes() {
            wait_rotated(node, 2);
            let events = recorded(node);
            let confirmed =
                events.iter().filter(|event| matches!(event, Event::PeerConfirmed { epoch: 2, .. }));
            assert_eq!(confirmed.count(), 2, "{events:?}");
            let promoted =
                |event: &&Event| matches!(event, Event::KeyPromoted { epoch: 2, confirmed: 2, live: 2, .. });
            assert_eq!(events.iter().filter(promoted).count(), 1, "{events:?}");
        }
        traffic.nothing_lost();
        nothing_leaked(&lab);
    });
}

#[test]
fn an_agent_killed_in_every_phase_loses_no_packet() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 2);
        let traffic = Traffic::start(&lab);
        let node = &lab.nodes()[0];
        let mut asking = command(&lab, &["rotate", "--node", "node1", "--yes"]);
        assert!(asking.status().unwrap().success());
        let mut killed = Vec::new();
        let file = paths(node).rotation();
        wait_for("the rotation to end", ROTATED, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let rotation: Option<selvedge_keys::rotation::Rotation> = serde_json::from_str(&text).ok();
            let phase = rotation.as_ref().map(|rotation| rotation.phase);
            if let Some(phase) = phase.filter(|phase| !killed.contains(phase)) {
                node.agent.kill();
                killed.push(phase);
            }
            rotation.is_none() && !file.exists() && paths(node).last_rotation().exists()
        })
        .unwrap();
        println!("killed in {killed:?}");
        assert!(killed.len() >= 4, "killed in {killed:?}");
        wait_rotated(node, 2);
        assert!(recorded(node).iter().any(|event| matches!(event, Event::RotationResumed { .. })));
        wait_for("the answer", SOON, || states(&lab)[0] == "Rotated").unwrap();
        traffic.nothing_lost();
        nothing_leaked(&lab);
    });
}

#[test]
fn a_peer_without_agent_and_an_abort_lose_no_packet() {
    isolated!(|| {
        let lab = lab(Families::Ipv4, 3);
        let traffic = Traffic::start(&lab);
        let [first, second, third] = lab.nodes() else { panic!("three nodes") };
        second.agent.stop();
        let (code, text) = keys(first, &["rotate", "--yes", "--deadline", "5s", "--output", "json"]);
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = keys(third, &["rotate", "--yes", "--deadline", "1h", "--output", "json"]);
        assert_eq!(code, Some(0), "{text}");
        let id = serde_json::from_str::<KeysStatus>(&text).unwrap().rotation.unwrap().id;
        wait_for("the deadline", SOON, || phase(first) == Some(Phase::Retire)).unwrap();
        assert_eq!(epochs(first), [1, 2], "the old key stays for the peer that uses it");
        wait_for("the third node to wait", SOON, || {
            let rotation = status(third).and_then(|status| status.rotation);
            rotation.is_some_and(|rotation| {
                rotation.phase == Phase::Confirm
                    && rotation.confirmed == 1
                    && rotation.waiting_for == ["node2"]
            })
        })
        .unwrap();
        assert_eq!(keys(third, &["abort", "r-other"]).0, Some(1));
        let (code, text) = keys(first, &["abort", &status(first).unwrap().rotation.unwrap().id]);
        assert!(code == Some(1) && text.contains("rotate again"), "{text}");
        assert_eq!(keys(third, &["abort", &id, "--reason", "tried"]).0, Some(0));
        wait_for("the third node to go back", SOON, || phase(third) == Some(Phase::Drain)).unwrap();
        // Who was away follows, and the packets with it.
        second.agent.resume();
        wait_for("the second node to use the new key", SOON, || {
            let status: Option<selvedge::agent::status::AgentStatus> = {
                let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
                command.args(["status", "--output", "json"]).envs(environment()).stdin(Stdio::null());
                let output = second.space().place(&mut command).output().unwrap();
                serde_json::from_slice(&output.stdout).ok()
            };
            let tunnel = status.and_then(|status| status.tunnel);
            let peer = tunnel.and_then(|tunnel| tunnel.peers.into_iter().find(|peer| peer.name == "node1"));
            peer.is_some_and(|peer| {
                peer.sessions.iter().any(|session| session.sending && session.peer_epoch == 2)
            })
        })
        .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        traffic.nothing_lost();
        nothing_leaked(&lab);
    });
}
