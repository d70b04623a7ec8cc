//! Controllers do not wait for each other, and run only when what they go by has changed.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use selvedge::kernel::address::Address;
use selvedge::kernel::nft::{self, Family};
use selvedge_lab::api::resource::NODES;
use selvedge_lab::api::{Action, Failure, Fault, Request};
use selvedge_lab::isolated;
use serde_json::json;

use crate::cluster::{Claim, Cluster};

/// Events that each controller of node1 has applied.
fn applied(cluster: &Cluster) -> BTreeMap<String, u64> {
    let text = cluster.get("/metrics");
    let counts = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("selvedge_agent_event_to_applied_seconds_count{controller=\"")?;
        let (name, count) = rest.split_once("\"} ")?;
        Some((name.to_owned(), count.parse().unwrap()))
    });
    counts.collect()
}

/// As [`applied`], once it stays the same.
fn settled(cluster: &Cluster) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    cluster.wait_for("all controllers to have nothing to do", |cluster| {
        std::thread::sleep(Duration::from_millis(500));
        let now = applied(cluster);
        std::mem::replace(&mut last, now.clone()) == now
    });
    last
}

#[test]
fn heartbeats_of_other_nodes_run_nothing() {
    isolated!(|| {
        let cluster = Cluster::start();
        cluster.create(&Claim::good("late", 1));
        cluster.wait_for("late to be a peer", |cluster| cluster.has_peer("late"));
        let before = settled(&cluster);
        assert!(before.len() > 8, "{before:?}");
        for number in 0..40 {
            let time = format!("2026-01-01T00:00:{number:02}Z");
            let status =
                json!({"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]});
            let heartbeat = json!({"metadata": {"labels": {"beat": number.to_string()}}, "status": status});
            cluster.lab.store().patch(&NODES, "", "late", &heartbeat).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        // The kernel has events of its own, such as an address that becomes usable; 40 heartbeats would make more.
        let (after, of_kernel) = (settled(&cluster), ["link", "routes", "sysctls", "wiring"]);
        for (name, count) in &after {
            let most = before[name] + if of_kernel.contains(&name.as_str()) { 3 } else { 0 };
            assert!(*count <= most, "{name} ran: {before:?} {after:?}");
        }
        // That they would be seen: one annotation of the same Node is.
        cluster.annotate("late", &json!({"selvedge.dev/endpoints": "172.31.101.2:51899"}));
        cluster.wait_for("the mesh to have run", |cluster| applied(cluster)["mesh"] > before["mesh"]);
    });
}

/// As when a kubelet's heartbeat comes in between, which no controller runs for.
#[test]
fn a_write_to_the_node_that_conflicts_is_retried() {
    isolated!(|| {
        let cluster = Cluster::start();
        let shown = |cluster: &Cluster| {
            let node = cluster.lab.store().get(&NODES, "", "node1").unwrap();
            node["metadata"]["annotations"]["selvedge.dev/endpoints"].as_str().map(str::to_owned)
        };
        let before = shown(&cluster).unwrap();
        settled(&cluster);
        let is_write = |request: &Request| request.verb == "patch" && request.name == "node1";
        let conflict = Failure::new(409, "Conflict", "the object has been modified");
        let _fault = cluster.lab.api().inject(Fault::new(Action::Fail(conflict)).when(is_write).times(1));
        cluster.annotate("node1", &json!({"selvedge.dev/endpoints": null}));
        cluster.wait_for("the annotation to be back", |cluster| shown(cluster).as_ref() == Some(&before));
    });
}

/// A file whose readers wait for ever, until this is dropped.
struct Endless(PathBuf);

impl Endless {
    fn put(path: PathBuf) -> Self {
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR).unwrap();
        Self(path)
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        // Those who wait for a writer have one, and then the end.
        let writer = std::fs::OpenOptions::new().read(true).write(true).open(&self.0);
        let _ = std::fs::remove_file(&self.0);
        drop(writer);
    }
}

/// Two controllers read a file that never ends; the others, and those who ask, do not notice.
#[test]
fn a_controller_that_hangs_delays_no_other_and_no_answer() {
    isolated!(|| {
        let cluster = Cluster::start();
        let space = cluster.lab.nodes()[0].space();
        let node = cluster.lab.nodes()[0].disk().join("state/node.json");
        cluster.wait_for("node.json", |_| node.exists());
        let _endless = Endless::put(node);
        // Both go by the node's devices and addresses.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let address = Address::new(1, "192.0.2.77/32".parse::<IpNet>().unwrap());
            cluster.lab.nodes()[0].netlink().unwrap().apply([address.add()]).await.unwrap();
        });
        cluster.wait_for("two controllers to hang", |cluster| {
            let problems = cluster.status(0).map(|status| status.problems).unwrap_or_default();
            let hangs = |name: &str| {
                problems
                    .iter()
                    .any(|problem| problem.starts_with(name) && problem.contains("a run has not ended"))
            };
            hangs("pods: ") && hangs("wiring: ")
        });
        for table in [selvedge::guard::TABLE, selvedge::egress::TABLE] {
            assert!(space.run(|| nft::delete(Family::Inet, table).unwrap()).unwrap());
            cluster.wait_for(table, |_| {
                space.run(|| nft::read(Family::Inet, table).unwrap().is_some()).unwrap()
            });
        }
        cluster.create(&Claim::good("late", 1));
        cluster.wait_for("late to be a peer", |cluster| cluster.has_peer("late"));
        assert!(cluster.get("/healthz").starts_with("HTTP/1.1 200"));
        assert!(cluster.get("/readyz").starts_with("HTTP/1.1 503"));
    });
}
