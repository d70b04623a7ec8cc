//! Host ports from end to end: from outside, from other nodes, from other nodes' pods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use selvedge::kernel::netns::NetNs;
use selvedge::kernel::sysctl;
use selvedge_lab::api::resource::PODS;
use selvedge_lab::isolated;
use selvedge_lab::lab::Lab;
use selvedge_lab::plan::{Datapath, Families, Family};
use selvedge_lab::traffic::{self, Canary};
use serde_json::json;

use crate::cluster::{lab, lab_with, nothing_leaked};

const PORT: u16 = 8088;
const LONG: Duration = Duration::from_secs(5);

fn web(lab: &Lab) -> Vec<IpAddr> {
    let port = |protocol| json!({"containerPort": 8080, "hostPort": PORT, "protocol": protocol});
    let container = json!({"name": "main", "image": "lab", "ports": [port("TCP"), port("UDP")]});
    let pod = json!({"metadata": {"name": "web"}, "spec": {"nodeName": "node1", "containers": [container]}});
    lab.store().create(&PODS, pod).unwrap();
    lab.wait_pod("web").unwrap().1
}

#[test]
fn host_ports_are_served_to_the_rest_of_the_world() {
    isolated!(|| served(&lab(Families::Dual, 2)));
}

#[test]
fn host_ports_of_pods_without_bridge_are_served_to_the_rest_of_the_world() {
    isolated!(|| served(&lab_with(Families::Dual, 2, Datapath::Routed)));
}

fn served(lab: &Lab) {
    web(lab);
    let near = lab.create_pod("near", "node1", &[("main", 8080)]).unwrap();
    let far = lab.create_pod("far", "node2", &[("main", 8080)]).unwrap();
    let [first, second] = [0, 1].map(|number| lab.nodes()[number].space());
    let host = second.run(NetNs::current).unwrap().unwrap();
    // As many distributions have it; all that a node is asked to take is checked against the routes back.
    first.run(|| sysctl::write("ipv4/conf/all/rp_filter", "1")).unwrap().unwrap();
    // These requests may be read on the way: nothing says that they belong to the cluster.
    let plain = Canary::random().unwrap();
    for address in lab.nodes()[0].addresses() {
        let target = SocketAddr::new(address, PORT);
        let same_family = |addresses: &[IpAddr]| Family::of(address).pick(addresses).unwrap();
        for (who, ns, source) in [
            ("the internet", lab.internet(), same_family(&lab.plan().internet().addresses())),
            ("another node", &host, same_family(&lab.nodes()[1].addresses())),
            ("another node's pod", &*far.0, same_family(&far.1)),
            ("a pod", &*near.0, same_family(&near.1)),
        ] {
            let answer = traffic::ask(ns, target, &plain);
            let answer = answer.unwrap_or_else(|error| panic!("{who} over TCP: {error}"));
            assert_eq!(answer.told.source.ip(), source, "{who}");
            let answer = traffic::ask_udp(ns, target, &plain, LONG);
            let answer = answer.unwrap_or_else(|error| panic!("{who} over UDP: {error}"));
            assert_eq!((answer.told.source.ip(), &*answer.told.name), (source, "web/main"), "{who}");
        }
    }
    nothing_leaked(lab);
}
