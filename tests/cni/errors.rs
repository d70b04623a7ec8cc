//! Each error, as JSON with the specification's code.

use selvedge::kernel::link::{self, Bridge, Id};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft;
use serde_json::{Value, json};

use crate::node::{Node, Pod, Said, block_on, node, node_with, ports};

fn expect(said: &Said, code: u32, words: &str) {
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.output["code"], code, "{said:?}");
    assert!(said.output["cniVersion"].is_string());
    let text = format!("{} {}", said.output["msg"], said.output["details"]);
    assert!(text.contains(words), "`{words}` is not in {text}");
}

fn without(mut config: Value, field: &str) -> Value {
    config.as_object_mut().unwrap().remove(field);
    config
}

#[test]
fn broken_input() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = Pod::unconnected("a");
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let variables = pod.variables("ADD");
            let run = |input: &str| {
                let variables = variables.each_ref().map(|(name, value)| match *name {
                    "CNI_COMMAND" => (*name, command),
                    _ => (*name, value.as_str()),
                });
                node.run(&variables, input)
            };
            expect(&run("{"), 6, "standard input");
            expect(&run(""), 6, "standard input");
            expect(&run(r#"{"cniVersion": 1, "name": "a"}"#), 6, "expected a string");
            expect(&run(&without(node.config.clone(), "name").to_string()), 7, "`name`");
            expect(&run(&without(node.config.clone(), "type").to_string()), 7, "`type`");
            let mut unknown = node.config.clone();
            unknown["cniVersion"] = json!("0.2.0");
            expect(&run(&unknown.to_string()), 1, "0.2.0");
        }
        assert_eq!((node.leases().len(), ports().len()), (0, 0));
    });
}

#[test]
fn broken_environment() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = Pod::unconnected("a");
        let run = |name: &str, value: Option<&str>| {
            let all = pod.variables("ADD");
            let mut variables: Vec<(&str, &str)> = all
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .filter(|(other, _)| *other != name)
                .collect();
            variables.extend(value.map(|value| (name, value)));
            node.run(&variables, &node.config.to_string())
        };
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            expect(&run(name, None), 4, name);
            expect(&run(name, Some("")), 4, name);
        }
        expect(&run("CNI_COMMAND", Some("FROB")), 4, "FROB");
        expect(&run("CNI_CONTAINERID", Some("../etc")), 4, "../etc");
        expect(&run("CNI_IFNAME", Some("a/b")), 4, "a/b");
        expect(&run("CNI_NETNS", Some("/run/netns/gone")), 3, "/run/netns/gone");
        expect(&run("CNI_NETNS", Some("/proc/self/status")), 4, "/proc/self/status");
        expect(&run("CNI_NETNS", Some("/proc/self/ns/net")), 4, "the node's own");
        assert_eq!((node.leases().len(), ports().len()), (0, 0));
    });
}

#[test]
fn check_and_gc_need_their_lists() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = node.add("a");
        expect(&node.call("CHECK", &pod, &node.config), 7, "prevResult");
        expect(&node.run(&[("CNI_COMMAND", "GC")], &node.config.to_string()), 7, "valid-attachments");
        assert!(node.check(&pod).success, "GC without a list frees nothing");
        let mut old = node.config.clone();
        old["cniVersion"] = json!("1.0.0");
        for command in ["GC", "STATUS"] {
            expect(&node.run(&[("CNI_COMMAND", command)], &old.to_string()), 1, "1.1.0");
        }
    });
}

#[test]
fn no_addresses_left() {
    selvedge_lab::isolated!(|| {
        let node = node_with(&["10.244.1.0/29", "fd00:10:244:1::/64"]);
        let pods: Vec<Pod> = (0..5).map(|number| node.add(&format!("pod{number}"))).collect();
        let late = Pod::unconnected("late");
        expect(&node.call("ADD", &late, &node.config), 100, "all 5 pod addresses of this node are in use");
        assert_eq!(ports().len(), 5);
        node.del(&pods[3]);
        let late = node.connect(late);
        assert_eq!(late.addresses(), pods[3].addresses());
    });
}

#[test]
fn no_node_no_pod() {
    selvedge_lab::isolated!(|| {
        let node = node();
        std::fs::remove_file(node.paths.node()).unwrap();
        let pod = Pod::unconnected("a");
        expect(&node.call("ADD", &pod, &node.config), 11, "node.json");
        std::fs::write(node.paths.node(), "{").unwrap();
        expect(&node.call("ADD", &pod, &node.config), 7, "node.json");
    });
}

#[test]
fn twice_is_once_too_many() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = node.add("a");
        expect(&node.call("ADD", &pod, &node.config), 103, "eth0 of container a");
        assert!(node.check(&pod).success, "the first is not hurt");
    });
}

/// Whatever fails, nothing is left.
fn rolled_back(node: &Node, pod: &Pod, code: u32, words: &str) {
    expect(&node.call("ADD", pod, &node.config), code, words);
    assert_eq!(node.leases().len(), 0);
    assert_eq!(ports().len(), 0);
    assert_eq!(nft::chain_names(nft::Family::Netdev, "selvedge-ports").unwrap(), Vec::<String>::new());
}

#[test]
fn a_failure_takes_everything_back() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = Pod::unconnected("a");
        let taken = Bridge { name: "eth0", mac: pod.ethernet_address(), mtu: 1420, group: 0 };
        let inside = || Netlink::in_ns(&pod.netns).unwrap();
        block_on(async { inside().apply([taken.create()]).await.unwrap() });
        rolled_back(&node, &pod, 104, "create veth");
        let there = block_on(async { inside().link_named("eth0").await.unwrap() });
        assert_eq!(there.unwrap().kind.as_deref(), Some("bridge"), "what was there before stays");
        block_on(async { inside().apply([link::delete(Id::Name("eth0"))]).await.unwrap() });
        assert!(node.call("ADD", &pod, &node.config).success);
    });
}

#[test]
fn without_a_bridge_no_pod() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = Pod::unconnected("a");
        // The bridge's name is taken by something else.
        let other = link::Veth {
            end: link::End { name: "selvedge-br", mac: None, mtu: 1420, group: 0 },
            peer: link::End { name: "other", mac: None, mtu: 1420, group: 0 },
            peer_ns: None,
        };
        block_on(async { Netlink::new().unwrap().apply([other.create()]).await.unwrap() });
        rolled_back(&node, &pod, 104, "selvedge-br");
    });
}

#[test]
fn without_a_guard_no_pod() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = Pod::unconnected("a");
        let variables = pod.variables("ADD");
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let said = node.run_without_rights(&variables, &node.config.to_string());
        expect(&said, 101, "CAP_NET_ADMIN");
        assert_eq!((node.leases().len(), ports().len()), (0, 0));
    });
}
