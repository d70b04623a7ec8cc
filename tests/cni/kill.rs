//! `kill -9` at any point.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use selvedge::kernel::nft::{self, Family};
use serde_json::{Value, json};

use crate::node::{Node, Pod, node_with, ports, said};

const ROUNDS: u32 = 60;

/// Starts `command` for `pod` and kills it after `delay`. True if it was done before.
fn killed(node: &Node, pod: &Pod, command: &'static str, delay: Duration) -> bool {
    let variables = pod.variables(command);
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut child = node.start(&variables, &with_host_port(node, pod).to_string());
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap().success()
}

/// How long a whole one takes.
fn usual(node: &Node, command: &'static str, pod: &Pod) -> Duration {
    let start = Instant::now();
    let variables = pod.variables(command);
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert!(said(node.start(&variables, &with_host_port(node, pod).to_string())).success);
    start.elapsed()
}

/// Each pod has one of its own: 1000 and the number in its name.
fn with_host_port(node: &Node, pod: &Pod) -> Value {
    let mut config = node.config.clone();
    let mapping = json!({"hostPort": host_port(pod), "containerPort": 80, "protocol": "udp"});
    config["runtimeConfig"] = json!({"portMappings": [mapping]});
    config
}

fn host_port(pod: &Pod) -> u16 {
    1000 + pod.attachment.container.trim_start_matches(char::is_alphabetic).parse().unwrap_or(999)
}

#[test]
fn nothing_is_lost_or_leaked() {
    selvedge_lab::isolated!(|| {
        let node = node_with(&["10.244.1.0/28", "fd00:10:244:1::/64"]);
        let first = Pod::unconnected("first");
        let adding = usual(&node, "ADD", &first);
        let deleting = usual(&node, "DEL", &first);
        let mut alive: Vec<Pod> = vec![];
        for round in 0..ROUNDS {
            let pod = Pod::unconnected(&format!("pod{round}"));
            // Spread over the whole of it, and a bit longer.
            if killed(&node, &pod, "ADD", adding * (round + 1) * 5 / (ROUNDS * 4)) {
                alive.push(pod);
            }
            if let Some(victim) = alive.pop_if(|_| round % 3 == 0) {
                killed(&node, &victim, "DEL", deleting * (round + 1) / ROUNDS);
                if round % 2 == 0 {
                    node.del(&victim);
                }
            }
            if round % 10 == 9 {
                let valid: Vec<&Pod> = alive.iter().collect();
                let said = node.gc(&valid);
                assert!(said.success, "{said:?}");
                exactly(&node, &valid);
                alive.truncate(4);
            }
        }
        assert!(node.gc(&[]).success);
        exactly(&node, &[]);
        // Every address can be had: none is lost.
        let again: Vec<Pod> = (0..13).map(|number| node.add(&format!("again{number}"))).collect();
        let addresses: BTreeSet<_> = again.iter().flat_map(Pod::addresses).collect();
        assert_eq!(addresses.len(), 26);
        assert!(again.iter().all(|pod| node.check(pod).success));
    });
}

/// Leases, ports, chains and host ports are those of `pods`.
fn exactly(node: &Node, pods: &[&Pod]) {
    let wanted: BTreeSet<String> = pods.iter().map(|pod| pod.port()).collect();
    let leased: BTreeSet<String> =
        node.leases().iter().map(|name| name.split_once('@').unwrap().1.to_owned()).collect();
    let chains = nft::chain_names(Family::Netdev, "selvedge-ports").unwrap();
    assert_eq!((leased, ports()), (wanted.clone(), wanted.clone()));
    assert_eq!(BTreeSet::from_iter(chains), wanted);
    let table = nft::read(Family::Inet, "selvedge-hostports").unwrap();
    let open = table.map(|state| state.table.sets["any6"].elements.clone()).unwrap_or_default();
    let open: BTreeSet<u16> =
        open.keys().map(|key| u16::from_be_bytes([key.first()[4], key.first()[5]])).collect();
    assert_eq!(open, pods.iter().map(|pod| host_port(pod)).collect());
}
