//! Pods whose namespaces are deleted, and whose DEL never comes.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use selvedge::kernel::link::{self, End, Id, Veth};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Family};
use selvedge::pod::attachment::Attachment;
use selvedge::pod::lease::GRACE;
use serde_json::{Value, json};

use crate::hostport::{opened, tcp_port, udp_port};
use crate::node::{Node, Pod, Said, block_on, in_both, node, node_with, ports, said, soon};

/// What is left of a pod that is gone.
struct Gone(Attachment);

impl Gone {
    fn port(&self) -> String {
        self.0.port().name
    }
}

/// Deletes a pod's namespace, and waits until the kernel has removed what was in it.
fn vanish(pod: Pod) -> Gone {
    pod.gone();
    let (gone, deadline) = (Gone(pod.attachment), soon());
    drop(pod.netns);
    while ports().contains(&gone.port()) {
        assert!(Instant::now() < deadline, "the port of {} is still there", gone.0);
        std::thread::sleep(Duration::from_millis(5));
    }
    gone
}

/// Notes in the folder of leases: port and time since boot.
fn notes(node: &Node) -> Vec<(String, i64)> {
    let entries = std::fs::read_dir(node.paths.leases()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let note = |name: String| name.split_once('!').map(|(port, at)| (port.to_owned(), at.parse().unwrap()));
    names.filter_map(note).collect()
}

/// As if all that is noted had been noted `time` earlier.
fn earlier(node: &Node, time: Duration) {
    let folder = node.paths.leases();
    for (port, at) in notes(node) {
        let before = at - i64::try_from(time.as_secs()).unwrap();
        std::fs::rename(folder.join(format!("{port}!{at}")), folder.join(format!("{port}!{before}")))
            .unwrap();
    }
}

fn leased(node: &Node) -> BTreeSet<String> {
    node.leases().iter().map(|name| name.split_once('@').unwrap().1.to_owned()).collect()
}

fn protected() -> BTreeSet<String> {
    nft::chain_names(Family::Netdev, "selvedge-ports").unwrap().into_iter().collect()
}

fn add(node: &Node, pod: &Pod, ports: &Value) -> Said {
    node.call("ADD", pod, &node.with_ports(ports))
}

fn details(said: &Said) -> &str {
    said.output["details"].as_str().unwrap_or_default()
}

in_both!(a_host_port_is_free_again_after_the_time_of_grace, |node: Node| {
    let wanted = json!([tcp_port(8080), udp_port(5353)]);
    let kept = node.add_with("kept", &json!([tcp_port(8081)]));
    let gone = vanish(node.add_with("gone", &wanted));
    let next = Pod::unconnected("next");
    for _ in 0..2 {
        let said = add(&node, &next, &wanted);
        assert_eq!(said.output["code"], 105, "{said:?}");
        assert!(details(&said).contains("1 pods are gone without DEL"), "{said:?}");
        assert_eq!(leased(&node), BTreeSet::from([kept.port(), gone.port()]));
        assert_eq!(notes(&node).len(), 1);
        earlier(&node, GRACE / 3);
    }
    earlier(&node, GRACE / 3 + Duration::from_secs(1));
    let said = add(&node, &next, &wanted);
    assert!(said.success, "{said:?}");
    let both = BTreeSet::from([kept.port(), next.port()]);
    assert_eq!((leased(&node), protected(), ports()), (both.clone(), both.clone(), both));
    assert_eq!((opened(), notes(&node)), (3, vec![]));
    // Its DEL comes after all.
    let late = Pod { attachment: gone.0, ..Pod::unconnected("late") };
    node.del(&late);
    let next = Pod { result: said.output, ..next };
    for pod in [&kept, &next] {
        assert!(node.check(pod).success, "{:?}", node.check(pod));
        node.del(pod);
    }
    crate::verbs::nothing_left(&node);
});

#[test]
fn addresses_are_free_again_after_the_time_of_grace() {
    selvedge_lab::isolated!(|| {
        let node = node_with(&["10.244.1.0/28", "fd00:10:244:1::/64"]);
        let kept = node.add("kept");
        let gone: Vec<Gone> = (0..12).map(|number| vanish(node.add(&format!("gone{number}")))).collect();
        let next = Pod::unconnected("next");
        let said = add(&node, &next, &json!([]));
        assert_eq!(said.output["code"], 100, "{said:?}");
        assert!(details(&said).contains("12 pods are gone without DEL"), "{said:?}");
        assert_eq!((leased(&node).len(), notes(&node).len()), (13, gone.len()));
        earlier(&node, GRACE);
        let said = add(&node, &next, &json!([]));
        assert!(said.success, "{said:?}");
        assert_eq!(leased(&node), BTreeSet::from([kept.port(), next.port()]));
        // All addresses can be had again.
        let again: Vec<Pod> = (0..11).map(|number| node.add(&format!("again{number}"))).collect();
        let addresses: BTreeSet<_> = again.iter().chain([&kept]).flat_map(Pod::addresses).collect();
        assert_eq!(addresses.len(), 24);
    });
}

/// A pod of which only one, namespace or port, is gone may live.
#[test]
fn a_pod_that_may_live_keeps_what_it_has() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let bare = node.add("bare");
        block_on(async {
            Netlink::new().unwrap().apply([link::delete(Id::Name(&bare.port()))]).await.unwrap();
        });
        // The path is gone, and a process still has the namespace.
        let nameless = node.add("nameless");
        nameless.gone();
        for number in 0..2 {
            node.add(&format!("other{number}"));
            assert_eq!((leased(&node).len(), notes(&node)), (3 + number, vec![]));
        }
    });
}

/// A runtime that keeps namespaces where this process sees none of them.
#[test]
fn a_path_that_is_hidden_says_nothing() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let hidden = |name: &str| {
            let path = Path::new("/run/hidden").join(name);
            let netns = NetNs::create_named(&path).unwrap();
            node.connect(Pod { path, netns, ..Pod::unconnected(name) })
        };
        let (a, b) = (hidden("a"), hidden("b"));
        let (path, b) = (a.path.clone(), vanish(b));
        let a = vanish(a);
        std::fs::remove_dir(path.parent().unwrap()).unwrap();
        node.add("c");
        earlier(&node, GRACE);
        node.add("d");
        assert!(leased(&node).is_superset(&BTreeSet::from([a.port(), b.port()])));
        assert_eq!(notes(&node), vec![]);
        // Where a namespace is to be seen beside it, it is gone.
        NetNs::create_named("/run/hidden/e").unwrap();
        node.add("e");
        assert_eq!(notes(&node).len(), 2);
        earlier(&node, GRACE);
        node.add("f");
        assert!(leased(&node).is_disjoint(&BTreeSet::from([a.port(), b.port()])));
    });
}

#[test]
fn another_namespace_of_the_same_path_is_not_the_pods() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let pod = node.add("a");
        let path = pod.path.clone();
        let gone = vanish(pod);
        // The kernel may give the new one the number of the old one; then it counts as the same.
        let others: Vec<NetNs> = (0..8).map(|_| NetNs::create().unwrap()).collect();
        NetNs::create_named(&path).unwrap();
        drop(others);
        node.add("b");
        earlier(&node, GRACE);
        node.add("c");
        assert!(!leased(&node).contains(&gone.port()));
    });
}

#[test]
fn a_port_that_comes_back_ends_the_time_of_grace() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let gone = vanish(node.add("a"));
        node.add("b");
        assert_eq!(notes(&node).len(), 1);
        earlier(&node, GRACE);
        let port = gone.port();
        let end = |name| End { name, mac: None, mtu: 1420, group: 0 };
        let veth = Veth { end: end(&port), peer: end("peer"), peer_ns: None };
        block_on(async { Netlink::new().unwrap().apply([veth.create()]).await.unwrap() });
        node.add("c");
        assert!(leased(&node).contains(&port));
        assert_eq!(notes(&node), vec![]);
    });
}

/// Many ADDs at once, while what is gone is released.
#[test]
fn many_adds_release_each_once() {
    selvedge_lab::isolated!(|| {
        let node = node_with(&["10.244.1.0/27", "fd00:10:244:1::/64"]);
        let gone =
            |number: u16| vanish(node.add_with(&format!("gone{number}"), &json!([tcp_port(8000 + number)])));
        let gone: Vec<Gone> = (0..20).map(gone).collect();
        node.add("first");
        assert_eq!(notes(&node).len(), gone.len());
        earlier(&node, GRACE);
        let pods: Vec<Pod> = (0..16).map(|number| Pod::unconnected(&format!("new{number}"))).collect();
        let started: Vec<_> = pods
            .iter()
            .zip(8000u16..)
            .map(|(pod, port)| {
                let variables = pod.variables("ADD");
                let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
                node.start(&variables, &node.with_ports(&json!([tcp_port(port)])).to_string())
            })
            .collect();
        let results: Vec<Value> = started
            .into_iter()
            .map(|child| {
                let said = said(child);
                assert!(said.success, "{said:?}");
                said.output
            })
            .collect();
        let pods: Vec<Pod> =
            pods.into_iter().zip(results).map(|(pod, result)| Pod { result, ..pod }).collect();
        let addresses: BTreeSet<_> = pods.iter().flat_map(Pod::addresses).collect();
        assert_eq!((addresses.len(), opened(), leased(&node).len()), (32, 16, 17));
        for pod in &pods {
            assert!(node.check(pod).success, "{:?}", node.check(pod));
        }
    });
}
