//! A node whose iptables drops what it forwards, as Docker has it.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use selvedge::forwarding;
use selvedge::kernel::iptables::{DOCKER_USER, FAMILIES, FILTER, FORWARD};
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Chain, ChainKind, Family, Hook, Policy, Rule, Table};
use selvedge_lab::isolated;
use selvedge_lab::traffic;

use crate::cluster::Cluster;

const PORT: u16 = 8080;
const SHORT: Duration = Duration::from_millis(300);

/// Docker's table, as far as it matters here.
fn docker(family: Family) -> Table {
    let mut table = Table::new(family, FILTER);
    let mut forward =
        Chain::base(ChainKind::Filter, Hook::Forward, 0, vec![Rule::new().counted().jump(DOCKER_USER)]);
    forward.base.as_mut().unwrap().policy = Policy::Drop;
    table.chain(FORWARD, forward);
    table.chain(DOCKER_USER, Chain::regular(vec![Rule::new().counted().end()]));
    table
}

impl Cluster {
    fn first<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.lab.nodes()[0].space().run(body).unwrap()
    }

    /// What a restart of Docker, or a reload of all rules, makes.
    fn reload(&self) {
        self.first(|| {
            for family in FAMILIES {
                nft::delete(family, FILTER).unwrap();
                nft::apply(&[docker(family)]).unwrap();
            }
        });
    }

    fn kept(&self) -> usize {
        self.first(|| forwarding::kept().unwrap().len())
    }

    fn configure(&self, forward_rules: bool) {
        let agent = &self.lab.nodes()[0].agent;
        agent.hold();
        let file = self.lab.options().folder.join("nodes/node1/etc/config.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("iptablesForwardRules"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, format!("iptablesForwardRules = {forward_rules}\n{text}")).unwrap();
        agent.resume();
    }

    fn problem(&self) -> Option<String> {
        let status = self.status(0)?;
        status.controllers.into_iter().find(|controller| controller.name == "forwarding")?.problem
    }
}

fn reaches(ns: &NetNs, addresses: &[IpAddr], cluster: &Cluster) -> Vec<bool> {
    let ask = |address: &IpAddr| {
        traffic::ask_udp(ns, SocketAddr::new(*address, PORT), cluster.lab.canary(), SHORT).is_ok()
    };
    addresses.iter().map(ask).collect()
}

#[test]
fn pods_are_served_where_iptables_drops_what_is_forwarded() {
    isolated!(|| {
        let cluster = Cluster::start();
        let pod = |name, node| cluster.lab.create_pod(name, node, &[("main", PORT)]).unwrap();
        let (near, beside, far): (_, _, (Arc<NetNs>, Vec<IpAddr>)) =
            (pod("near", "node1"), pod("beside", "node1"), pod("far", "node2"));
        cluster.reload();
        for addresses in [&beside.1, &far.1] {
            assert_eq!(reaches(&near.0, addresses, &cluster), [false; 2], "the control");
        }
        cluster.wait_for("an Event on node1", |cluster| cluster.has_event("node1", forwarding::REASON));
        assert_eq!(cluster.kept(), 0, "off by default");

        cluster.configure(true);
        cluster.wait_for("rules", |cluster| cluster.kept() == 4);
        cluster.wait_for("pods of both nodes to be reached", |cluster| {
            [&beside.1, &far.1].iter().all(|to| reaches(&near.0, to, cluster) == [true; 2])
                && reaches(&far.0, &near.1, cluster) == [true; 2]
        });
        for _ in 0..3 {
            cluster.reload();
            let back = cluster.wait_for("the rules to be back", |cluster| cluster.kept() == 4);
            println!("rules back after {back:?}");
        }
        assert_eq!(cluster.problem(), None);

        cluster.configure(false);
        cluster.wait_for("the rules to be gone", |cluster| cluster.kept() == 0);
        assert_eq!(
            cluster.first(|| nft::read(Family::Ipv4, FILTER).unwrap().unwrap().table),
            docker(Family::Ipv4)
        );
    });
}

#[test]
fn the_old_iptables_is_refused_by_name() {
    isolated!(|| {
        let cluster = Cluster::start();
        cluster.first(|| {
            let run = Command::new("/usr/sbin/iptables-legacy").args(["-P", FORWARD, "DROP"]).output();
            let run =
                run.unwrap_or_else(|error| panic!("iptables-legacy: {error}; tests/setup.sh installs it"));
            assert!(run.status.success(), "{run:?}");
        });
        cluster.configure(true);
        cluster.wait_for("the problem to be named", |cluster| {
            cluster.problem().is_some_and(|problem| {
                problem.contains("iptables-legacy drops")
                    && problem.contains("-I FORWARD -s 10.244.0.0/16 -j ACCEPT")
            })
        });
        assert!(!cluster.status(0).unwrap().ready, "pods would not reach each other");
    });
}
