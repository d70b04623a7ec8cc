//! NodePorts as kube-proxy makes them (DNAT, mark 0x4000, masquerade), whose endpoints are processes of other nodes' hosts:
//! what a peer sends to them goes back into the tunnel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use selvedge::egress;
use selvedge::fabric::POD_TABLE;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{
    self, Chain, ChainKind, Comparison, End, Expression, Family as Tables, Hook, Ip, Meta, NAT_RANDOM_FULLY,
    PayloadBase, Register, Rule, Table,
};
use selvedge::kernel::sysctl;
use selvedge_lab::lab::{HOST_PORTS, Lab};
use selvedge_lab::plan::{Datapath, Families, Family};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{self, Canary};
use selvedge_lab::{isolated, scenario};

use crate::cluster::{lab_with, nothing_leaked};

const LONG: Duration = Duration::from_secs(5);
const SOON: Duration = Duration::from_secs(30);
const POD_PORT: u16 = 8080;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// NodePorts, by what is behind them.
const TO_SECOND: u16 = 30002;
const TO_THIRD: u16 = 30003;
const TO_POD: u16 = 30004;

/// kube-proxy's mark for what is to be masqueraded.
const MASQUERADE: u32 = 0x4000;

fn marked(rule: Rule, mask: u32, xor: u32) -> Rule {
    let (from, to) = (Register::FIRST, Register::FIRST);
    let (mask, xor) = (mask.to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
    rule.with(Expression::Meta { key: Meta::Mark, to })
        .with(Expression::Bitwise { from, to, mask, xor })
        .with(Expression::MetaSet { key: Meta::Mark, from })
}

/// The NodePorts of a node with these addresses: port and endpoint.
fn proxy(addresses: &[IpAddr], ports: &[(u16, SocketAddr)]) -> Table {
    let mut table = Table::new(Tables::Inet, "kube-proxy-by-hand");
    let services = ports.iter().flat_map(|(port, endpoint)| {
        let own = Family::of(endpoint.ip()).pick(addresses).unwrap();
        [TCP, UDP].map(|protocol| {
            let rule = Rule::new().ip(Ip::of(own)).address(End::Destination, own).protocol(protocol);
            let rule = rule.payload(PayloadBase::Transport, 2, port.to_be_bytes());
            marked(rule, !MASQUERADE, MASQUERADE).dnat(endpoint.ip(), Some(endpoint.port()))
        })
    });
    table.chain("services", Chain::base(ChainKind::Nat, Hook::Prerouting, -100, services.collect()));
    let (from, to, mark) = (Register::FIRST, Register::FIRST, MASQUERADE.to_ne_bytes().to_vec());
    let with_mark = Rule::new()
        .with(Expression::Meta { key: Meta::Mark, to })
        .with(Expression::Bitwise { from, to, mask: mark, xor: vec![0; 4] })
        .compare(Comparison::NotEqual, [0; 4]);
    let rules = vec![marked(with_mark, !MASQUERADE, 0).masquerade(NAT_RANDOM_FULLY)];
    table.chain("masquerade", Chain::base(ChainKind::Nat, Hook::Postrouting, 100, rules));
    table
}

/// Three nodes. The first has the NodePorts.
struct Cluster {
    lab: Lab,
    near: (Arc<NetNs>, Vec<IpAddr>),
    far: (Arc<NetNs>, Vec<IpAddr>),
    third: (Arc<NetNs>, Vec<IpAddr>),
}

impl Cluster {
    fn start(datapath: Datapath) -> Self {
        let lab = lab_with(Families::Dual, 3, datapath);
        let pod = |name, node| lab.create_pod(name, node, &[("main", POD_PORT)]).unwrap();
        let (near, far, third) = (pod("near", "node1"), pod("far", "node2"), pod("third", "node3"));
        let hosts = [(TO_SECOND, 1), (TO_THIRD, 2)]
            .into_iter()
            .flat_map(|(port, node)| lab.nodes()[node].addresses().into_iter().map(move |ip| (port, ip)));
        let ports: Vec<_> = hosts
            .map(|(port, ip)| (port, SocketAddr::new(ip, HOST_PORTS[0])))
            .chain(third.1.iter().map(|ip| (TO_POD, SocketAddr::new(*ip, POD_PORT))))
            .collect();
        let first = &lab.nodes()[0];
        let table = proxy(&first.addresses(), &ports);
        first.space().run(|| nft::apply(&[table])).unwrap().unwrap();
        for node in lab.nodes() {
            // As many distributions have it; all that a node is asked to take is checked against the routes back.
            node.space().run(|| sysctl::write("ipv4/conf/all/rp_filter", "1")).unwrap().unwrap();
        }
        Self { lab, near, far, third }
    }

    /// An address of the first node, which is as far as its fabric address goes what the endpoints see.
    fn own(&self, family: Family) -> (IpAddr, IpAddr) {
        let node = &self.lab.nodes()[0];
        (family.pick(&node.addresses()).unwrap(), family.pick(&node.fabric_addresses()).unwrap())
    }

    /// Asks over TCP and UDP; answers come from `name`, which has seen `source`.
    fn ask(&self, ns: &NetNs, to: SocketAddr, canary: &Canary, (name, source): (&str, IpAddr)) {
        let answer = traffic::ask(ns, to, canary).map_err(|error| format!("TCP: {error}"));
        let udp = traffic::ask_udp(ns, to, canary, LONG).map_err(|error| format!("UDP: {error}"));
        for answer in [answer, udp] {
            let told = answer.unwrap_or_else(|error| panic!("{name} by {to}: {error}")).told;
            assert_eq!((&*told.name, told.source.ip()), (name, source), "by {to}");
        }
    }

    fn transit(&self) -> u64 {
        let counters = self.lab.nodes()[0].space().run(egress::connections).unwrap().unwrap();
        counters["transit"].packets
    }
}

#[test]
fn node_ports_lead_to_processes_of_other_nodes() {
    isolated!(|| served(&Cluster::start(Datapath::Bridge)));
}

#[test]
fn node_ports_lead_to_processes_of_other_nodes_where_pods_have_no_bridge() {
    isolated!(|| served(&Cluster::start(Datapath::Routed)));
}

fn served(cluster: &Cluster) {
    let (lab, secret) = (&cluster.lab, cluster.lab.canary());
    let hosts: Vec<NetNs> =
        lab.nodes().iter().map(|node| node.space().run(NetNs::current).unwrap().unwrap()).collect();
    // These requests may be read on the way: nothing says that they belong to the cluster.
    let plain = Canary::random().unwrap();
    for family in [Family::V4, Family::V6] {
        let (own, fabric) = cluster.own(family);
        let to = |port| SocketAddr::new(own, port);
        // The pod's own node, and a third one.
        cluster.ask(&cluster.far.0, to(TO_SECOND), secret, ("node2", fabric));
        cluster.ask(&cluster.far.0, to(TO_THIRD), secret, ("node3", fabric));
        cluster.ask(&cluster.third.0, to(TO_THIRD), secret, ("node3", fabric));
        cluster.ask(&cluster.near.0, to(TO_THIRD), secret, ("node3", fabric));
        cluster.ask(&cluster.far.0, to(TO_POD), secret, ("third/main", fabric));
        // A host, and the internet, whose requests enter the tunnel here; the answers of the pod to the host stay in it.
        cluster.ask(&hosts[1], to(TO_POD), &plain, ("third/main", fabric));
        cluster.ask(lab.internet(), to(TO_POD), &plain, ("third/main", fabric));
    }
    assert_eq!(cluster.transit(), 0);
    nothing_leaked(lab);
    not_by_the_uplink(cluster);
    nothing_leaked(lab);
}

/// Without the way into the tunnel there is none.
fn not_by_the_uplink(cluster: &Cluster) {
    let (lab, first) = (&cluster.lab, &cluster.lab.nodes()[0]);
    first.agent.hold();
    let flush = async {
        let rules = scenario::flush_rules(first.space().net()).await.unwrap();
        let pods = |route: &_| scenario::table(route) == POD_TABLE;
        (rules, scenario::delete_routes(first.space().net(), pods).await.unwrap())
    };
    let (rules, routes) = lab.runtime().block_on(flush);
    assert!(rules > 0 && routes > 0, "{rules} rules and {routes} routes deleted");
    for family in [Family::V4, Family::V6] {
        for port in [TO_SECOND, TO_THIRD] {
            let to = SocketAddr::new(cluster.own(family).0, port);
            let wait = Duration::from_millis(300);
            let answer = traffic::ask_udp(&cluster.far.0, to, lab.canary(), wait);
            assert!(answer.is_err(), "{to} answers by the uplink");
        }
    }
    first.agent.resume();
    let to = SocketAddr::new(cluster.own(Family::V4).0, TO_THIRD);
    wait_for("the NodePort to be served again", SOON, || {
        traffic::ask_udp(&cluster.far.0, to, lab.canary(), Duration::from_millis(300)).is_ok()
    })
    .unwrap();
}
