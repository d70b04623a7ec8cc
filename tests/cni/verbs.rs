//! Each verb against the specification.

use std::collections::BTreeSet;

use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::link::{self, Id, Port, Update};
use selvedge::kernel::netlink::{Change, Netlink};
use selvedge::kernel::nft::{self, Family};
use selvedge::kernel::{address::Address, neigh::Neighbour, sysctl};
use selvedge::pod::gateway::{BRIDGE, BRIDGE_MAC};
use selvedge::pod::node::clear_ready;
use serde_json::json;

use crate::node::{Node, Pod, block_on, in_both, node, node_with, ports};

#[test]
fn version_tells_what_is_supported() {
    selvedge_lab::isolated!(|| {
        let node = node();
        for input in ["", r#"{"cniVersion": "1.1.0"}"#, r#"{"cniVersion": "7.0.0"}"#] {
            let said = node.run(&[("CNI_COMMAND", "VERSION")], input);
            assert!(said.success);
            let versions = json!(["0.4.0", "1.0.0", "1.1.0"]);
            assert_eq!(said.output, json!({"cniVersion": "1.1.0", "supportedVersions": versions}), "{input}");
        }
        let said = node.run(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion": "0.4.0"}"#);
        assert_eq!(said.output["cniVersion"], "0.4.0");
    });
}

#[test]
fn add_answers_in_the_version_asked_for() {
    selvedge_lab::isolated!(|| {
        let mut node = node();
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            node.config["cniVersion"] = json!(version);
            node.config["dns"] = json!({"nameservers": ["10.96.0.10"]});
            let pod = node.add(&format!("pod-{version}"));
            assert_eq!(pod.result["cniVersion"], version);
            assert_eq!(pod.result["dns"]["nameservers"][0], "10.96.0.10");
            let interfaces = pod.result["interfaces"].as_array().unwrap();
            let sandbox = pod.path.display().to_string();
            assert_eq!(
                (&interfaces[2]["name"], &interfaces[2]["sandbox"]),
                (&json!("eth0"), &json!(sandbox))
            );
            assert_eq!(interfaces[1]["name"], pod.port());
            assert_eq!(pod.result["ips"][0]["interface"], 2);
            assert_eq!(pod.result["ips"][0].get("version").is_some(), version == "0.4.0");
            assert!(node.check(&pod).success);
        }
    });
}

#[test]
fn add_makes_what_the_design_says() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = node.add("a");
        assert_eq!(pod.result["ips"][0]["address"], "10.244.1.2/32");
        assert_eq!(pod.result["ips"][1]["address"], "fd00:10:244:1::2/128");
        block_on(async {
            let (netlink, inside) = (Netlink::new().unwrap(), Netlink::in_ns(&pod.netns).unwrap());
            let bridge = netlink.link_named(BRIDGE).await.unwrap().unwrap();
            let port = netlink.link_named(&pod.port()).await.unwrap().unwrap();
            assert_eq!((bridge.group, port.group), (LINK_GROUP, LINK_GROUP));
            assert_eq!((bridge.mac, port.master), (Some(BRIDGE_MAC), Some(bridge.index)));
            assert!(port.port.unwrap().isolated && port.up);
            let eth0 = inside.link_named("eth0").await.unwrap().unwrap();
            assert_eq!((eth0.mtu, port.mtu, eth0.mac), (1420, 1420, Some(pod.ethernet_address())));
            assert!(inside.link_named("lo").await.unwrap().unwrap().up);
            let addresses = inside.addresses(Some(eth0.index)).await.unwrap();
            let lengths = |address: &&Address| address.net.prefix_len() == address.net.max_prefix_len();
            assert_eq!(addresses.iter().filter(lengths).count(), 2, "{addresses:?}");
        });
    });
}

#[test]
fn one_family_is_enough() {
    selvedge_lab::isolated!(|| {
        for (name, net) in [("four", "10.244.7.0/24"), ("six", "fd00:10:244:7::/64")] {
            let node = node_with(&[net]);
            let pod = node.add(name);
            assert_eq!(pod.addresses().len(), 1);
            assert!(node.check(&pod).success);
            node.del(&pod);
        }
    });
}

#[test]
fn add_on_a_fresh_node_installs_guard_and_unreachable_routes_first() {
    selvedge_lab::isolated!(|| {
        let node = node();
        assert_eq!(nft::read(Family::Inet, "selvedge-guard").unwrap(), None);
        node.add("a");
        assert!(nft::read(Family::Inet, "selvedge-guard").unwrap().is_some());
        let routes = block_on(async { Netlink::new().unwrap().routes().await.unwrap() });
        for route in node.info.unreachable_routes() {
            assert!(routes.contains(&route), "{route} is missing: {routes:?}");
        }
        // Somebody flushes; the next pod does not start without.
        nft::delete(Family::Inet, "selvedge-guard").unwrap();
        let unreachable = node.info.unreachable_routes();
        let deletions: Vec<Change> = unreachable.iter().map(|route| route.delete()).collect();
        block_on(async { Netlink::new().unwrap().apply(deletions).await.unwrap() });
        node.add("b");
        assert!(nft::read(Family::Inet, "selvedge-guard").unwrap().is_some());
        let routes = block_on(async { Netlink::new().unwrap().routes().await.unwrap() });
        assert!(unreachable.iter().all(|route| routes.contains(route)));
    });
}

in_both!(del_is_idempotent_and_needs_no_namespace, |node: Node| {
    let never_added = Pod::unconnected("never");
    node.del(&never_added);
    let pod = node.add("a");
    pod.gone();
    node.del(&pod);
    node.del(&pod);
    let other = node.add("b");
    let variables: Vec<_> =
        other.variables("DEL").into_iter().filter(|(name, _)| *name != "CNI_NETNS").collect();
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert!(node.run(&variables, &node.config.to_string()).success);
    nothing_left(&node);
});

#[test]
fn del_works_without_the_agents_files() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = node.add("a");
        std::fs::remove_file(node.paths.node()).unwrap();
        node.del(&pod);
        nothing_left(&node);
    });
}

pub(crate) fn nothing_left(node: &Node) {
    assert_eq!(node.leases(), BTreeSet::new());
    assert_eq!(ports(), BTreeSet::new());
    assert_eq!(selvedge::pod::spoof::protected().unwrap(), BTreeSet::new());
    block_on(async {
        let netlink = Netlink::new().unwrap();
        let routes = netlink.routes().await.unwrap();
        assert!(routes.iter().all(|route| route.device().is_none()), "{routes:?}");
    });
}

in_both!(a_recreated_pod_gets_another_address, |node: Node| {
    let first = node.add("a");
    node.del(&first);
    first.gone();
    let second = node.add("a");
    assert_ne!(first.addresses(), second.addresses());
    assert!(node.check(&second).success);
});

/// Something that happens to a pod behind our back.
type Damage = fn(&Node, &Pod) -> Vec<(bool, Change)>;

const INSIDE: bool = true;
const NODE: bool = false;

fn index(pod: &Pod, inside: bool, name: &str) -> u32 {
    block_on(async {
        let netlink = if inside { Netlink::in_ns(&pod.netns) } else { Netlink::new() }.unwrap();
        netlink.link_named(name).await.unwrap().unwrap().index
    })
}

const DAMAGES: [(&str, Damage); 17] = [
    ("lacks the address 10.244.1.", |_, pod| {
        let eth0 = index(pod, INSIDE, "eth0");
        vec![(INSIDE, Address::new(eth0, pod.address(false)).delete())]
    }),
    ("lacks the address fd00:10:244:1::", |_, pod| {
        let eth0 = index(pod, INSIDE, "eth0");
        vec![(INSIDE, Address::new(eth0, pod.address(true)).delete())]
    }),
    ("the pod's route 0.0.0.0/0", |_, pod| {
        let routes = block_on(async { Netlink::in_ns(&pod.netns).unwrap().routes().await.unwrap() });
        vec![(INSIDE, routes.iter().find(|route| route.destination.addr().is_ipv4()).unwrap().delete())]
    }),
    ("the pod's eth0 is down", |_, _| {
        vec![(INSIDE, link::update(Id::Name("eth0"), &Update { up: Some(false), ..Update::default() }))]
    }),
    ("the pod's loopback is down", |_, _| {
        vec![(INSIDE, link::update(Id::Name("lo"), &Update { up: Some(false), ..Update::default() }))]
    }),
    ("the pod's eth0 is missing", |_, _| vec![(INSIDE, link::delete(Id::Name("eth0")))]),
    ("another Ethernet address", |_, pod| {
        let mac = Some(pod.attachment.port().mac);
        vec![(INSIDE, link::update(Id::Name("eth0"), &Update { mac, ..Update::default() }))]
    }),
    ("has MTU 1300", |_, _| {
        vec![(INSIDE, link::update(Id::Name("eth0"), &Update { mtu: Some(1300), ..Update::default() }))]
    }),
    ("the pod's neighbour 10.244.1.1", |node, pod| {
        let (device, address) = (index(pod, INSIDE, "eth0"), node.info.fabric(false).unwrap());
        vec![(INSIDE, Neighbour { device, address, mac: BRIDGE_MAC }.delete())]
    }),
    ("is not in bridge selvedge-br", |_, pod| {
        vec![(NODE, link::update(Id::Name(&pod.port()), &Update { master: Some(0), ..Update::default() }))]
    }),
    ("is not isolated", |_, pod| vec![(NODE, link::set_port(Id::Name(&pod.port()), Port::default()))]),
    ("is in link group 0", |_, pod| {
        vec![(NODE, link::update(Id::Name(&pod.port()), &Update { group: Some(0), ..Update::default() }))]
    }),
    ("the node's route to 10.244.1.", |_, pod| {
        let routes = block_on(async { Netlink::new().unwrap().routes().await.unwrap() });
        let address = pod.address(false);
        vec![(NODE, routes.iter().find(|route| route.destination.addr() == address).unwrap().delete())]
    }),
    ("the rules against spoofing", |_, pod| {
        let chain =
            nft::Branch { family: Family::Netdev, table: "selvedge-ports", name: &pod.port(), entry: None };
        nft::delete_chains(&[chain]).unwrap();
        vec![]
    }),
    ("sysctl net/ipv4/ip_forward is 0", |_, _| {
        sysctl::write("ipv4/ip_forward", "0").unwrap();
        vec![]
    }),
    ("the guard", |_, _| {
        nft::delete(Family::Inet, "selvedge-guard").unwrap();
        vec![]
    }),
    ("its lease is gone", |node, _| {
        std::fs::remove_dir_all(node.paths.leases()).unwrap();
        vec![]
    }),
];

#[test]
fn check_names_what_was_changed() {
    selvedge_lab::isolated!(|| {
        let node = node();
        for (number, (expected, damage)) in DAMAGES.iter().enumerate() {
            let pod = node.add(&format!("pod{number}"));
            let before = node.check(&pod);
            assert!(before.success, "before `{expected}`: {}", before.output);
            for (inside, change) in damage(&node, &pod) {
                let netlink = || if inside { Netlink::in_ns(&pod.netns) } else { Netlink::new() };
                block_on(async { netlink().unwrap().apply([change]).await.unwrap() });
            }
            let said = node.check(&pod);
            assert_eq!((said.success, &said.output["code"]), (false, &json!(102)), "{expected}");
            let details = said.output["details"].as_str().unwrap();
            assert!(details.contains(expected), "expected `{expected}`: {details}");
            node.del(&pod);
        }
    });
}

#[test]
fn status_follows_the_node() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let status = || node.run(&[("CNI_COMMAND", "STATUS")], &node.config.to_string());
        let said = status();
        assert!(said.success && said.output.is_null(), "{said:?}");
        clear_ready(&node.paths).unwrap();
        assert_eq!(status().output["code"], 50);
        std::fs::remove_file(node.paths.node()).unwrap();
        let said = status();
        assert_eq!((said.code, &said.output["code"]), (Some(1), &json!(50)));
        assert!(said.output["details"].as_str().unwrap().contains("/run/state/node.json"), "{said:?}");
    });
}

#[test]
fn add_needs_no_running_agent() {
    selvedge_lab::isolated!(|| {
        let node = node();
        // As after a reboot: the disk is there, /run is empty.
        std::fs::remove_dir_all(&node.paths.run).unwrap();
        let pod = node.add("a");
        assert!(node.check(&pod).success);
    });
}

#[test]
fn gc_frees_what_is_not_listed_and_nothing_else() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let [a, b, c] = ["a", "b", "c"].map(|name| node.add(name));
        // A port, a chain and a route whose lease is lost.
        let lost = node.leases().into_iter().find(|name| name.ends_with(&c.port())).unwrap();
        std::fs::remove_file(node.paths.leases().join(lost)).unwrap();
        let said = node.gc(&[&a]);
        assert!(said.success && said.output.is_null(), "{said:?}");
        assert_eq!(ports(), BTreeSet::from([a.port()]));
        assert_eq!(node.leases().len(), 1);
        assert!(node.check(&a).success, "{:?}", node.check(&a));
        assert!(!node.check(&b).success);
        assert!(node.gc(&[]).success);
        nothing_left(&node);
    });
}

#[test]
fn gc_leaves_other_networks_alone() {
    selvedge_lab::isolated!(|| {
        let mut node = node();
        let pod = node.add("a");
        node.config["name"] = json!("others");
        assert!(node.gc(&[]).success);
        node.config["name"] = json!(crate::node::NETWORK);
        assert!(node.check(&pod).success);
    });
}

#[test]
fn without_a_request_it_tells_what_it_is() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_selvedge")).arg("cni").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("0.4.0, 1.0.0, 1.1.0") && text.contains("CNI_COMMAND"));
}
