//! What happens to nodes: processes die, power fails, addresses change. Traffic comes back, and nothing leaks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge_lab::isolated;
use selvedge_lab::lab::{Lab, logs};
use selvedge_lab::plan::{Families, Plan};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{self, Ping};

use crate::cluster::{lab, nothing_leaked};

const MILLISECOND: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(30);

/// Two pods on two nodes that have talked to each other.
struct Pair {
    lab: Lab,
    near: (Arc<NetNs>, Vec<IpAddr>),
    far: (Arc<NetNs>, Vec<IpAddr>),
}

fn pair(families: Families) -> Pair {
    let lab = lab(families, 2);
    let near = lab.create_pod("near", "node1", &[("main", 8080)]).unwrap();
    let far = lab.create_pod("far", "node2", &[("main", 8080)]).unwrap();
    let pair = Pair { lab, near, far };
    pair.reaches("far");
    pair
}

impl Pair {
    /// Waits until the first pod reaches another in every family.
    fn reaches(&self, name: &str) {
        let (_, addresses) = self.lab.wait_pod(name).unwrap();
        for address in addresses {
            let server = SocketAddr::new(address, 8080);
            let mut last = String::new();
            let waited = wait_for(&format!("an answer of {server}"), SOON, || {
                let answer = traffic::ask(&self.near.0, server, self.lab.canary());
                answer.inspect_err(|error| last = error.to_string()).is_ok()
            });
            waited.unwrap_or_else(|why| panic!("{why}: {last}\n{}", self.logs()));
        }
    }

    fn ping(&self) -> Ping {
        Ping::start(&self.near.0, self.far.1[0], MILLISECOND, self.lab.canary()).unwrap()
    }

    fn logs(&self) -> String {
        self.lab.nodes().iter().map(|node| logs(node)).collect()
    }
}

#[test]
fn killing_the_agent_loses_no_packet() {
    isolated!(|| {
        let pair = pair(Families::Ipv4);
        let ping = pair.ping();
        wait_for("replies", SOON, || ping.received() > 100).unwrap();
        for node in pair.lab.nodes() {
            node.agent.hold();
        }
        let before = ping.received();
        wait_for("more replies", SOON, || ping.received() > before + 2000).unwrap();
        let report = ping.stop();
        assert_eq!((report.lost(), report.duplicates), (0, 0), "{report:?}");
        // Pods can be started all the same.
        pair.lab.create_pod("meanwhile", "node2", &[("main", 8080)]).unwrap();
        pair.reaches("meanwhile");
        nothing_leaked(&pair.lab);
    });
}

#[test]
fn killing_the_tunnels_worker_costs_less_than_a_second() {
    isolated!(|| {
        let pair = pair(Families::Ipv4);
        let ping = pair.ping();
        wait_for("replies", SOON, || ping.received() > 100).unwrap();
        let tunnel = &pair.lab.nodes()[0].tunnel;
        assert_eq!(tunnel.kill_children(), 1, "one worker");
        let before = ping.received();
        wait_for("replies again", SOON, || ping.received() > before + 500).unwrap();
        let report = ping.stop();
        println!("worker killed: {report:?}");
        assert!(report.longest_gap < Duration::from_secs(1), "{report:?}\n{}", pair.logs());
        assert_eq!(tunnel.starts(), 1, "its parent stayed");
        nothing_leaked(&pair.lab);
    });
}

#[test]
fn killing_the_whole_tunnel_is_survived() {
    isolated!(|| {
        let pair = pair(Families::Dual);
        let ping = pair.ping();
        wait_for("replies", SOON, || ping.received() > 100).unwrap();
        let tunnel = &pair.lab.nodes()[0].tunnel;
        assert!(tunnel.kill());
        let before = ping.received();
        wait_for("replies again", SOON, || ping.received() > before + 500)
            .unwrap_or_else(|why| panic!("{why}\n{}", pair.logs()));
        let report = ping.stop();
        println!("parent killed: {report:?}");
        assert_eq!(tunnel.starts(), 2);
        nothing_leaked(&pair.lab);
    });
}

#[test]
fn a_node_comes_back_after_a_power_failure() {
    isolated!(|| {
        let pair = pair(Families::Dual);
        pair.lab.reboot(1, false).unwrap();
        // Nothing of Selvedge runs on the node, and nobody gets anything out of it or to it.
        let server = SocketAddr::new(pair.far.1[0], 8080);
        let refused = traffic::ask_udp(&pair.near.0, server, pair.lab.canary(), Duration::from_millis(300));
        assert!(refused.is_err(), "{refused:?}");
        let booted = Instant::now();
        pair.lab.nodes()[1].resume();
        pair.lab.wait_until_ready().unwrap_or_else(|error| panic!("{error}"));
        pair.reaches("far");
        println!("reachable {:?} after its processes were started", booted.elapsed());
        nothing_leaked(&pair.lab);
    });
}

#[test]
fn a_node_may_change_its_addresses() {
    isolated!(|| {
        let pair = pair(Families::Dual);
        let other = Plan::new(Families::Dual, 9).node_plans().remove(8).cable;
        let changed = Instant::now();
        let name = pair.lab.nodes()[1].cable().name;
        pair.lab.renumber(1, &selvedge_lab::plan::Cable { name, ..other }).unwrap();
        pair.reaches("far");
        println!("reachable {:?} after the change", changed.elapsed());
        nothing_leaked(&pair.lab);
    });
}
