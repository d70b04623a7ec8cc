//! A Node that is registered again with other pod CIDRs, and another node that gets the old ones.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use selvedge::kernel::netlink::Netlink;
use selvedge::pod::admission::Admitted;
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::NODES;
use selvedge_lab::isolated;
use selvedge_lab::traffic::Ping;
use serde_json::{Value, json};

use crate::cluster::Cluster;

impl Cluster {
    /// Deletes the Node object and creates it again, as a kubelet does, with these pod CIDRs.
    fn register_again(&self, name: &str, pod_cidrs: &[String]) {
        let before = self.lab.store().get(&NODES, "", name).unwrap();
        let mut node = Value::clone(&before);
        self.lab.store().delete(&NODES, "", name, &Deletion::default()).unwrap();
        node["metadata"] = json!({"name": name, "labels": before["metadata"]["labels"]});
        node["spec"] = json!({"podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs});
        self.lab.store().create(&NODES, node).unwrap();
    }

    /// The addresses of the node's devices of ours, and the destinations of its routes of ours that are no pod's.
    fn ours(&self, number: usize) -> (BTreeSet<IpAddr>, BTreeSet<String>) {
        let read = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let netlink = Netlink::new().unwrap();
                let mut addresses = BTreeSet::new();
                for device in ["selvedge0", selvedge::pod::gateway::BRIDGE] {
                    let Some(link) = netlink.link_named(device).await.unwrap() else { continue };
                    let found = netlink.addresses(Some(link.index)).await.unwrap();
                    addresses.extend(found.iter().map(|address| address.net.addr()));
                }
                addresses.retain(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
                let routes = netlink.routes().await.unwrap();
                (addresses, routes.iter().map(|route| route.destination.to_string()).collect())
            })
        };
        self.lab.nodes()[number].space().run(read).unwrap()
    }
}

fn cidrs(number: u8) -> Vec<String> {
    vec![format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")]
}

fn gateways(number: u8) -> BTreeSet<IpAddr> {
    [format!("10.244.{number}.1"), format!("fd00:10:244:{number:x}::1")]
        .map(|text| text.parse().unwrap())
        .into_iter()
        .collect()
}

#[test]
fn the_next_owner_of_a_pod_cidr_is_reached() {
    isolated!(|| {
        let cluster = Cluster::start();
        let old: Vec<String> = cluster.status(0).unwrap().pod_cidrs.iter().map(ToString::to_string).collect();
        let (_, before) = cluster.lab.create_pod("before", "node1", &[]).unwrap();
        cluster.register_again("node1", &cidrs(70));
        cluster.wait_for("node1's devices to have its new gateways alone", |cluster| {
            cluster.ours(0).0 == gateways(70)
        });
        cluster.wait_for("nothing of the old pod CIDRs to be left in node1's routes", |cluster| {
            let (_, routes) = cluster.ours(0);
            let pods = before.iter().map(|address| ipnet::IpNet::from(*address).to_string());
            old.iter().cloned().chain(pods).all(|gone| !routes.contains(&gone))
        });
        cluster.wait_for("node1 to be ready again", |cluster| {
            cluster.status(0).is_some_and(|status| status.ready)
        });
        let (from, address) = cluster.lab.create_pod("after", "node1", &[]).unwrap();
        assert!(address[0].to_string().starts_with("10.244.70."), "{address:?}");

        cluster.register_again("node2", &old);
        cluster.wait_for("node2 to be a peer again, with node1's old pod CIDRs", |cluster| {
            let peer = crate::cluster::peer(cluster, "node2");
            peer.is_some_and(|peer| peer.allowed_ips.iter().any(|net| old.contains(&net.to_string())))
        });
        cluster.wait_for("node2's devices to have its new gateways alone", |cluster| {
            cluster.ours(1).0.iter().any(|address| address.to_string() == "10.244.1.1")
                && cluster.ours(1).0.len() == 2
        });
        cluster.wait_for("node2 to be ready again", |cluster| {
            cluster.status(1).is_some_and(|status| status.ready)
        });
        let (_, there) = cluster.lab.create_pod("there", "node2", &[]).unwrap();
        assert!(there[0].to_string().starts_with("10.244.1."), "{there:?}");
        for address in there {
            let ping = Ping::start(&from, address, Duration::from_millis(1), cluster.lab.canary()).unwrap();
            cluster.wait_for(&format!("an answer from {address}"), |_| ping.received() > 0);
            let report = ping.stop();
            println!("{} of {} pings to {address} were answered", report.sent - report.lost(), report.sent);
        }
    });
}

#[test]
fn a_pod_with_an_address_of_another_node_is_not_admitted() {
    isolated!(|| {
        let cluster = Cluster::start();
        assert_eq!(cluster.admit(&["10.244.1.7"]), Ok(Admitted {}));
        let refused = cluster.admit(&["10.244.2.7"]).unwrap_err();
        assert!(refused.contains("10.244.2.7 is in none of this node's pod CIDRs"), "{refused}");
    });
}
