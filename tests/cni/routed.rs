//! What is different where pods have no bridge between them and the node.

use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, Id, Update};
use selvedge::kernel::netlink::{Change, Netlink};
use selvedge::kernel::nft::{self, Family};
use selvedge::kernel::sysctl;
use selvedge::pod::gateway::BRIDGE_MAC;
use selvedge::pod::node::Datapath;
use selvedge::pod::repair;

use crate::node::{Node, Pod, block_on, node, node_in, tcp};

fn change(change: Change) {
    block_on(async { Netlink::new().unwrap().apply([change]).await.unwrap() });
}

fn port(pod: &Pod) -> link::Link {
    block_on(async { Netlink::new().unwrap().link_named(&pod.port()).await.unwrap().unwrap() })
}

#[test]
fn a_pod_has_a_link_of_its_own() {
    selvedge_lab::isolated!(|| {
        let node = node_in(Datapath::Routed);
        let pod = node.add("a");
        let port = port(&pod);
        assert_eq!((port.master, port.group, port.mac, port.up), (None, LINK_GROUP, Some(BRIDGE_MAC), true));
        let interfaces = pod.result["interfaces"].as_array().unwrap();
        assert_eq!((interfaces.len(), &interfaces[0]["name"]), (2, &pod.port().into()));
        assert_eq!((&pod.result["ips"][0]["interface"], &interfaces[1]["name"]), (&1.into(), &"eth0".into()));
        for key in ["ipv4/conf", "ipv6/conf"] {
            assert_eq!(sysctl::read(&format!("{key}/{}/forwarding", pod.port())).unwrap(), "1");
        }
        assert!(node.check(&pod).success, "{:?}", node.check(&pod));
    });
}

fn all_reach_all(pods: &[Pod]) {
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        for ipv6 in [false, true] {
            assert_eq!(tcp(&from.netns, &to.netns, to.address(ipv6)), from.address(ipv6));
        }
    }
}

#[test]
fn both_kinds_live_on_one_node() {
    selvedge_lab::isolated!(|| {
        let mut node = node();
        let mut pods = vec![];
        for (name, datapath) in [("a", Datapath::Bridge), ("b", Datapath::Routed), ("c", Datapath::Bridge)] {
            node.info.datapath = datapath;
            node.info.save(&node.paths).unwrap();
            pods.push(node.add(name));
            all_reach_all(&pods);
        }
        assert_eq!(repaired(&node), Vec::<String>::new());
        let masters: Vec<bool> = pods.iter().map(|pod| port(pod).master.is_some()).collect();
        assert_eq!(masters, [true, false, true]);
        assert!(pods.iter().all(|pod| node.check(pod).success));
        pods.iter().for_each(|pod| node.del(pod));
        assert_eq!(crate::node::ports().len(), 0);
    });
}

fn repaired(node: &Node) -> Vec<String> {
    block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() })
}

type Damage = fn(&Pod, u32);

const DAMAGES: [(&str, Damage); 6] = [
    ("is in a bridge", |pod, bridge| {
        let joined = Update { master: Some(bridge), ..Update::default() };
        change(link::update(Id::Name(&pod.port()), &joined));
    }),
    ("is down", |pod, _| {
        let down = Update { up: Some(false), ..Update::default() };
        change(link::update(Id::Name(&pod.port()), &down));
    }),
    ("is in link group", |pod, _| {
        let other = Update { group: Some(1), ..Update::default() };
        change(link::update(Id::Name(&pod.port()), &other));
    }),
    ("lacks the gateway address fd00:10:244:1::1", |pod, _| {
        change(
            Address::new(port(pod).index, "fd00:10:244:1::1".parse::<std::net::IpAddr>().unwrap()).delete(),
        );
    }),
    ("the rules against spoofing", |_, _| {
        for family in [Family::Netdev, Family::Inet, Family::Arp] {
            assert!(nft::delete(family, "selvedge-ports").unwrap(), "{family}");
        }
    }),
    ("bridge selvedge-br is missing", |_, _| change(link::delete(Id::Name("selvedge-br")))),
];

#[test]
fn whatever_is_taken_away_comes_back() {
    selvedge_lab::isolated!(|| {
        let node = node_in(Datapath::Routed);
        let pods = ["a", "b"].map(|name| node.add(name));
        for (what, damage) in DAMAGES {
            let bridge =
                block_on(async { Netlink::new().unwrap().link_named("selvedge-br").await.unwrap().unwrap() });
            damage(&pods[0], bridge.index);
            let done = repaired(&node);
            assert!(done.iter().any(|done| done.contains(what)), "`{what}` is not in {done:?}");
            assert_eq!(repaired(&node), Vec::<String>::new(), "after {what}");
            assert!(
                pods.iter().all(|pod| node.check(pod).success),
                "after {what}: {:?}",
                node.check(&pods[0])
            );
            all_reach_all(&pods);
        }
    });
}
