//! Which addresses of other nodes the routes, the nftables sets and the tunnel get.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use selvedge::egress;
use selvedge::fabric::POD_TABLE;
use selvedge::kernel::nft::{self, Family, Key};
use selvedge::mesh::annotation::MAX_NODE_ADDRESSES;
use selvedge_lab::api::resource::NODES;
use selvedge_lab::api::{Action, Failure, Fault};
use selvedge_lab::isolated;
use selvedge_lab::traffic::Ping;
use serde_json::{Value, json};

use crate::cluster::{Claim, Cluster, peer};

impl Cluster {
    /// The addresses that pods of node1 reach only through the tunnel.
    pub(crate) fn routed(&self) -> BTreeSet<IpAddr> {
        let read = async { self.lab.nodes()[0].netlink().unwrap().routes().await.unwrap() };
        let routes = self.lab.runtime().block_on(read);
        let to_nodes = routes.into_iter().filter(|route| route.table == POD_TABLE);
        to_nodes.map(|route| route.destination.addr()).collect()
    }

    /// Sets the internal addresses in the status of a Node.
    pub(crate) fn set_addresses(&self, node: &str, addresses: &[String]) {
        let internal: Vec<Value> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let status = json!({"status": {"addresses": internal}});
        self.lab.store().patch(&NODES, "", node, &status).unwrap();
    }
}

/// The addresses of other nodes in the egress table of node1.
fn egress_members(cluster: &Cluster) -> BTreeSet<Key> {
    let read = || nft::read(Family::Inet, egress::TABLE).unwrap().unwrap().table;
    let table = cluster.lab.nodes()[0].space().run(read).unwrap();
    let sets = ["members4", "members6"].map(|name| table.sets[name].elements.keys().cloned());
    sets.into_iter().flatten().collect()
}

/// A hostile kubelet gives its Node the address of another node's pod, addresses of special ranges, and more addresses than a
/// node may have.
#[test]
fn a_refused_address_reaches_no_route_no_set_and_no_peer() {
    isolated!(|| {
        let cluster = Cluster::start();
        let pod = |name| cluster.lab.create_pod(name, "node1", &[]).unwrap();
        let ((from, _), (_, victim)) = (pod("one"), pod("two"));
        let ping = Ping::start(&from, victim[0], Duration::from_millis(1), cluster.lab.canary()).unwrap();
        cluster.wait_for("replies of a pod of the same node", |_| ping.received() > 50);

        let hostile = &cluster.lab.nodes()[1];
        hostile.agent.hold();
        let own: Vec<String> = hostile.addresses().iter().map(ToString::to_string).collect();
        let of_pod: Vec<String> = victim.iter().map(ToString::to_string).collect();
        let special = ["127.0.0.2", "169.254.169.254", "224.0.0.1", "0.0.0.1", "::1", "fe80::1"];
        let special: Vec<String> = special.iter().map(ToString::to_string).collect();
        let crowd: Vec<String> = (0..40).map(|number| format!("198.18.0.{number}")).collect();
        cluster.set_addresses("node2", &[own.clone(), of_pod.clone(), special.clone(), crowd].concat());
        let claimed = [own, of_pod.clone()].concat().join(",");
        cluster.annotate("node2", &json!({"selvedge.dev/node-addresses": claimed}));
        cluster.wait_for("the pod's address to be refused", |cluster| {
            cluster.refusals("node2").iter().any(|reason| reason == "AddressInside")
        });
        cluster.wait_for("routes to the Node's other addresses", |cluster| {
            cluster.routed().contains(&"198.18.0.1".parse::<IpAddr>().unwrap())
        });

        let routed = cluster.routed();
        let refused: Vec<IpAddr> =
            [of_pod, special].concat().iter().map(|text| text.parse().unwrap()).collect();
        let wrong: Vec<_> = refused.iter().filter(|address| routed.contains(address)).collect();
        assert!(wrong.is_empty(), "refused, and yet routed into the tunnel: {wrong:?}");
        assert!(routed.len() <= MAX_NODE_ADDRESSES, "{} addresses of one Node are routed", routed.len());
        let (members, peer) = (egress_members(&cluster), peer(&cluster, "node2").unwrap());
        assert!(members.len() <= MAX_NODE_ADDRESSES && !members.is_empty(), "{members:?}");
        for address in &refused {
            assert!(!members.contains(&Key::from(*address)), "{address} is in the egress table");
            assert!(!peer.allowed_ips.contains(&(*address).into()), "{address} is an allowed IP: {peer:?}");
        }
        let before = ping.received();
        cluster.wait_for("more replies", |_| ping.received() > before + 500);
        cluster.assert_nothing_lost(&ping.stop());
    });
}

/// As after the storage of the API server was restored from an old backup.
#[test]
fn a_list_that_lacks_a_node_takes_nothing_from_it_until_a_get_does() {
    isolated!(|| {
        let cluster = Cluster::start();
        let ping = cluster.ping();
        cluster.wait_for("replies", |_| ping.received() > 50);
        let state =
            |cluster: &Cluster| (peer(cluster, "node2").map(|peer| peer.allowed_ips), cluster.routed());
        let before = state(&cluster);
        let is_missed = |cluster: &Cluster| {
            cluster.status(0).is_some() && cluster.get("/metrics").contains("selvedge_missing_nodes 1")
        };
        cluster.lab.store().lose(&NODES, "", "node2").unwrap();
        cluster.wait_for("node1 to miss node2", is_missed);
        assert_eq!(state(&cluster), before);
        // What is kept is on disk.
        assert!(cluster.lab.nodes()[0].agent.kill());
        cluster.wait_for("its successor to miss node2", |cluster| {
            cluster.lab.nodes()[0].agent.starts() == 2 && is_missed(cluster)
        });
        let received = ping.received();
        cluster.wait_for("more replies", |_| ping.received() > received + 500);
        assert_eq!(state(&cluster), before);
        cluster.assert_nothing_lost(&ping.stop());

        let of_node2 =
            |request: &selvedge_lab::api::Request| request.verb == "get" && request.name == "node2";
        let fault = Fault::new(Action::Fail(Failure::internal())).when(of_node2);
        let fault = cluster.lab.api().inject(fault);
        let pod_cidr = cluster.lab.nodes()[1].pod_cidrs()[0].to_string();
        cluster.create(&Claim { pod_cidr, ..Claim::good("newcomer", 3) });
        cluster.wait_for("the newcomer to be refused in the name of node2", |cluster| {
            let refused = cluster.status(0).map(|status| status.refused).unwrap_or_default();
            let by_name = |refused: &selvedge::agent::status::Refused| {
                refused.node == "newcomer"
                    && refused.reason == "CIDRTaken"
                    && refused.message.contains("node2")
            };
            refused.iter().any(by_name)
        });
        assert_eq!(state(&cluster).0, before.0);
        drop(fault);
        cluster.wait_for("what node2 had to be the newcomer's", |cluster| {
            cluster.has_peer("newcomer") && !cluster.has_peer("node2")
        });
        let gone = cluster.lab.nodes()[1].addresses();
        cluster.wait_for("its addresses to be no member's", |cluster| {
            gone.iter().all(|address| !cluster.routed().contains(address))
        });
    });
}

/// The former owner of an address goes on publishing it; nothing but its status says that it is another node's now.
#[test]
fn an_address_that_a_node_no_longer_has_goes_to_its_next_owner() {
    isolated!(|| {
        let cluster = Cluster::start();
        let former = Claim::good("former", 1);
        cluster.create(&former);
        let has = |cluster: &Cluster, name: &str| {
            let host = format!("{}/32", former.address);
            peer(cluster, name).is_some_and(|peer| peer.allowed_ips.iter().any(|net| net.to_string() == host))
        };
        cluster.wait_for("the former owner to have its address", |cluster| has(cluster, "former"));
        cluster.set_addresses("former", &["172.31.177.2".to_owned()]);
        cluster.create(&Claim { address: former.address.clone(), ..Claim::good("next", 2) });
        cluster.wait_for("the next owner to have the address", |cluster| has(cluster, "next"));
        assert!(!has(&cluster, "former") && cluster.has_peer("former"));
        cluster.wait_for("the former owner's claim to be refused", |cluster| {
            cluster.refusals("former") == ["AddressesUnconfirmed"] && cluster.refusals("next").is_empty()
        });
    });
}
