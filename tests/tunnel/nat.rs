//! A peer behind a NAT that proposes addresses of its own.

use std::net::{IpAddr, SocketAddr};

use selvedge::kernel::link::{End, Veth};
use selvedge::kernel::route::Route;
use selvedge::kernel::sysctl;
use selvedge::tunnel::api::PeerConfig;
use selvedge_lab::isolated;
use selvedge_lab::traffic::{Canary, Ping};

use crate::managed::Node;
use crate::source::nft;
use crate::support::{Host, SOON, until};
use crate::{MS, pings};

const MASQUERADE: &str = "table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        oifname left ip saddr 10.1.0.0/24 masquerade
    }
}";

fn join(left: &Host, right: &Host, [left_name, right_name]: [&'static str; 2]) {
    let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
    left.apply(Veth { end: end(left_name), peer: end(right_name), peer_ns: Some(&right.ns) }.create());
    left.up(left_name);
    right.up(right_name);
}

fn route(host: &Host, net: &str, gateway: &str) {
    let device = host.link("wire").unwrap().index;
    let net: ipnet::IpNet = net.parse().unwrap();
    host.apply(Route::via(net, gateway.parse().unwrap(), device).replace());
}

/// A at 192.0.2.1; a router that masquerades; B behind it at 10.1.0.2. A knows a route to B's network.
struct Natted {
    a: Node,
    b: Node,
    _router: Host,
    canary: Canary,
}

impl Natted {
    fn new() -> Self {
        let (a, router, b) = (Host::new(), Host::new(), Host::new());
        join(&router, &a, ["left", "wire"]);
        join(&router, &b, ["right", "wire"]);
        a.address("wire", "192.0.2.1/24");
        router.address("left", "192.0.2.254/24");
        router.address("right", "10.1.0.1/24");
        b.address("wire", "10.1.0.2/24");
        router.run(|| sysctl::write("ipv4/ip_forward", "1").unwrap());
        nft(&router, MASQUERADE);
        route(&a, "10.1.0.0/24", "192.0.2.254");
        route(&b, "192.0.2.0/24", "10.1.0.1");
        let (a, b) = (Node::new(a, 1), Node::new(b, 2));
        Self { a, b, _router: router, canary: Canary::random().unwrap() }
    }

    /// Has A know these endpoints of B.
    fn propose(&self, endpoints: &[&str]) {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        let peer = PeerConfig { endpoints, ..self.b.as_peer() };
        self.a.put("/v1/config", &self.a.config(vec![peer])).unwrap();
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        self.a.tunnel.status().peers[0].endpoint
    }
}

#[test]
fn a_proposed_address_does_not_replace_what_nat_made_work() {
    isolated!(|| {
        let net = Natted::new();
        net.propose(&[]);
        net.b.put("/v1/config", &net.b.config(vec![net.a.as_peer()])).unwrap();
        let inside: IpAddr = "10.9.0.2".parse().unwrap();
        pings(&net.b.host, "10.9.0.1".parse().unwrap(), &net.canary);
        let by_nat = net.endpoint().unwrap();
        assert_eq!(by_nat.ip(), "192.0.2.254".parse::<IpAddr>().unwrap());

        // Nobody has this one. A is the first to send: an answer on its way would bring B back.
        net.propose(&["10.1.0.99:51830"]);
        let ping = Ping::start(&net.a.host.ns, inside, MS, &net.canary).unwrap();
        until("the ping goes on", SOON, || (ping.received() > 500).then_some(()));
        let report = ping.stop();
        println!("{} of {} lost, longest gap {:?}", report.lost(), report.sent, report.longest_gap);
        assert_eq!(report.lost(), 0, "{report:?}");
        assert_eq!(net.endpoint(), Some(by_nat));

        // B is there, and answers.
        net.propose(&["10.1.0.2:51830"]);
        let there = "10.1.0.2:51830".parse().unwrap();
        until("B is sent to where it answers", SOON, || (net.endpoint() == Some(there)).then_some(()));
        pings(&net.a.host, inside, &net.canary);
    });
}
