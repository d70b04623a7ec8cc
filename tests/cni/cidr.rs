//! A Node that is registered again with other pod CIDRs: nothing on the node may stand in the way of the old ones' next
//! owner, and nothing of the old ones may reach it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use selvedge::kernel::netlink::Netlink;
use selvedge::pod::gateway::{BRIDGE, ensure_unreachable};
use selvedge::pod::node::NodeInfo;
use selvedge::pod::repair;
use serde_json::json;

use crate::hostport::{opened, tcp_port, udp_port};
use crate::node::{Node, Pod, block_on, in_both, node, tcp, udp};

fn move_to(node: &mut Node, pod_cidrs: &[&str]) {
    let pod_cidrs = pod_cidrs.iter().map(|net| net.parse().unwrap()).collect();
    node.info = NodeInfo { pod_cidrs, ..node.info.clone() };
    node.info.save(&node.paths).unwrap();
    // As the agent's controller of routes does it.
    let unreachable = async { ensure_unreachable(&Netlink::new().unwrap(), &node.info).await.unwrap() };
    block_on(unreachable);
}

fn repaired(node: &Node) -> Vec<String> {
    block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() })
}

/// The addresses of all devices but those that the kernel makes.
fn addresses() -> BTreeSet<IpAddr> {
    let found = block_on(async { Netlink::new().unwrap().addresses(None).await.unwrap() });
    let is_kernels = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    };
    found.iter().map(|address| address.net.addr()).filter(|address| !is_kernels(address)).collect()
}

/// The addresses that the node has routes to pods for.
fn pod_routes() -> BTreeSet<IpAddr> {
    let routes = block_on(async { Netlink::new().unwrap().routes().await.unwrap() });
    let to_pods = routes.iter().filter(|route| route.device().is_some());
    to_pods.map(|route| route.destination.addr()).collect()
}

fn set(addresses: impl IntoIterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    addresses.into_iter().collect()
}

fn reaches(from: &Pod, to: &Pod, ipv6: bool) -> bool {
    udp(&from.netns, &to.netns, to.address(ipv6), Duration::from_millis(300))
}

in_both!(nothing_of_the_old_pod_cidrs_stays, |mut node: Node| {
    let before = node.info.clone();
    let a = node.add_with("a", &json!([tcp_port(8080), udp_port(5353)]));
    assert_eq!(addresses(), set(before.fabric_addresses()));
    move_to(&mut node, &["10.244.9.0/24", "fd00:10:244:9::/64"]);
    let b = node.add("b");
    let c = node.add_with("c", &json!([tcp_port(8081)]));
    let done = repaired(&node);
    assert!(done.iter().any(|done| done.contains("route to fd00:10:244:1::2/128 is stale")), "{done:?}");
    assert_eq!(repaired(&node), Vec::<String>::new());
    // The next owner of 10.244.1.0/24 is no martian, its pods are not taken for ours, and no host port leads to them.
    assert_eq!(addresses(), set(node.info.fabric_addresses()));
    assert_eq!(pod_routes(), set(b.addresses().into_iter().chain(c.addresses())));
    assert_eq!(opened(), 1);
    for ipv6 in [false, true] {
        assert_eq!(tcp(&b.netns, &c.netns, c.address(ipv6)), b.address(ipv6));
        assert!(!reaches(&a, &b, ipv6) && !reaches(&b, &a, ipv6), "IPv6 {ipv6}");
    }
    let said = node.check(&a);
    let details = said.output["details"].as_str().unwrap();
    assert!(
        details.contains("10.244.1.2 is in none of this node's pod CIDRs; recreate the pod"),
        "{details}"
    );
    assert!(node.check(&b).success, "{:?}", node.check(&b));
    // Pods that end take nothing of the others' along.
    node.del(&b);
    assert_eq!((opened(), node.check(&c).success), (1, true));
    // The node gets its pod CIDRs back before the pod was recreated.
    node.info = before;
    node.info.save(&node.paths).unwrap();
    assert!(!repaired(&node).is_empty());
    assert!(node.check(&a).success, "{:?}", node.check(&a));
    assert_eq!(opened(), 2);
    for pod in [&a, &c] {
        node.del(pod);
    }
    crate::verbs::nothing_left(&node);
});

in_both!(one_family_may_change_alone, |mut node: Node| {
    let (a, b) = (node.add("a"), node.add("b"));
    move_to(&mut node, &["10.244.9.0/24", "fd00:10:244:1::/64"]);
    assert!(!repaired(&node).is_empty());
    assert_eq!(repaired(&node), Vec::<String>::new());
    assert_eq!(addresses(), set(node.info.fabric_addresses()));
    assert_eq!(tcp(&a.netns, &b.netns, b.address(true)), a.address(true));
    assert!(!reaches(&a, &b, false));
});

#[test]
fn a_node_without_pods_changes_too() {
    selvedge_lab::isolated!(|| {
        let mut node = node();
        let pod = node.add("a");
        node.del(&pod);
        move_to(&mut node, &["10.244.9.0/24"]);
        let done = repaired(&node);
        assert!(done.iter().any(|done| done.contains(BRIDGE)), "{done:?}");
        assert_eq!(addresses(), BTreeSet::from(["10.244.9.1".parse().unwrap()]));
    });
}
