//! Ports of the node that lead to pods.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, End, Id, Update, Veth};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Family};
use selvedge::kernel::sysctl;
use selvedge::pod::hostport::TABLE;
use selvedge::pod::repair;
use selvedge_lab::packet;
use selvedge_lab::wire::Wire;
use serde_json::{Value, json};

use crate::node::{Node, Pod, block_on, in_both, node};

const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(300);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn this() -> NetNs {
    NetNs::current().unwrap()
}

pub(crate) fn tcp_port(host: u16) -> Value {
    json!({"hostPort": host, "containerPort": 80, "protocol": "tcp"})
}

pub(crate) fn udp_port(host: u16) -> Value {
    json!({"hostPort": host, "containerPort": 53, "protocol": "udp"})
}

fn on(address: &str, mut port: Value) -> Value {
    port["hostIP"] = json!(address);
    port
}

impl Node {
    pub(crate) fn with_ports(&self, ports: &Value) -> Value {
        let mut config = self.config.clone();
        config["runtimeConfig"] = json!({"portMappings": ports});
        config
    }

    pub(crate) fn add_with(&self, name: &str, ports: &Value) -> Pod {
        let pod = Pod::unconnected(name);
        let said = self.call("ADD", &pod, &self.with_ports(ports));
        assert!(said.success, "ADD {name}: {}", said.output);
        Pod { result: said.output, ..pod }
    }
}

/// A host beside the node, on the node's `uplink`.
fn outside() -> NetNs {
    let outside = NetNs::create().unwrap();
    let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
    let veth = Veth { end: end("uplink"), peer: end("outside"), peer_ns: Some(&outside) };
    let up = Update { up: Some(true), ..Update::default() };
    block_on(async {
        let (netlink, inside) = (Netlink::new().unwrap(), Netlink::in_ns(&outside).unwrap());
        let lo = || link::update(Id::Name("lo"), &up);
        netlink.apply([veth.create(), lo()]).await.unwrap();
        inside.apply([lo()]).await.unwrap();
        sysctl::write("ipv6/conf/uplink/accept_dad", "0").unwrap();
        outside.run(|| sysctl::write("ipv6/conf/outside/accept_dad", "0").unwrap()).unwrap();
        for (netlink, name, addresses) in [(&netlink, "uplink", NODE), (&inside, "outside", OUTSIDE)] {
            let index = netlink.link_named(name).await.unwrap().unwrap().index;
            let add = |text: &str| {
                let length = if text.contains(':') { 64 } else { 24 };
                Address::new(index, ipnet::IpNet::new(ip(text), length).unwrap()).add()
            };
            netlink.apply(addresses.map(add)).await.unwrap();
            netlink.apply([link::update(Id::Name(name), &up)]).await.unwrap();
        }
    });
    outside
}

fn listen(pod: &Pod, ipv6: bool, port: u16) -> TcpListener {
    pod.netns.run(|| TcpListener::bind((pod.address(ipv6), port)).unwrap()).unwrap()
}

/// The client that the server saw when `client` connected to `target`.
fn connects(client: &NetNs, target: SocketAddr, server: &TcpListener) -> IpAddr {
    let stream = client.run(|| TcpStream::connect_timeout(&target, LONG)).unwrap();
    let stream = stream.unwrap_or_else(|error| panic!("{} to {target}: {error}", client.name().display()));
    assert_eq!(stream.peer_addr().unwrap(), target);
    server.accept().unwrap().1.ip()
}

fn datagrams(ns: &NetNs, address: IpAddr, port: u16) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind((address, port)).unwrap()).unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    socket
}

/// Whether a datagram of `client` gets to `server`, and its answer back.
fn echoes(client: &UdpSocket, target: SocketAddr, server: &UdpSocket) -> Option<IpAddr> {
    client.send_to(b"ping", target).ok()?;
    let (_, from) = server.recv_from(&mut [0; 16]).ok()?;
    server.send_to(b"pong", from).unwrap();
    // An error may be waiting from before.
    let (_, back) = (0..2).find_map(|_| client.recv_from(&mut [0; 16]).ok()).expect("no answer");
    assert_eq!(back, target, "the answer comes from where the question went");
    Some(from.ip())
}

in_both!(everybody_is_served_and_seen_as_who_they_are, |node: Node| {
    let outside = outside();
    let wire = Wire::open(&outside, "outside").unwrap();
    let pod = node.add_with("web", &json!([tcp_port(8080), udp_port(5353)]));
    let other = node.add("other");
    for ipv6 in [false, true] {
        let family = usize::from(ipv6);
        let own = ip(NODE[family]);
        let fabric = node.info.fabric(ipv6).unwrap();
        let server = listen(&pod, ipv6, 80);
        let web = SocketAddr::new(own, 8080);
        assert_eq!(connects(&outside, web, &server), ip(OUTSIDE[family]));
        assert_eq!(connects(&other.netns, web, &server), other.address(ipv6));
        assert_eq!(connects(&other.netns, SocketAddr::new(fabric, 8080), &server), other.address(ipv6));
        assert_eq!(connects(&this(), web, &server), own);
        let itself = connects(&pod.netns, web, &server);
        assert!([own, fabric].contains(&itself), "a pod to itself: {itself}");
        let server = datagrams(&pod.netns, pod.address(ipv6), 53);
        let dns = SocketAddr::new(own, 5353);
        for (client, address) in
            [(&outside, ip(OUTSIDE[family])), (&other.netns, other.address(ipv6)), (&this(), own)]
        {
            let socket = datagrams(client, address, 0);
            assert_eq!(echoes(&socket, dns, &server), Some(address));
        }
        let socket = datagrams(&pod.netns, pod.address(ipv6), 0);
        assert!(echoes(&socket, dns, &server).is_some(), "a pod to itself");
    }
    no_pod_address_on(&wire);
});

/// Everything that was on the wire until now.
fn no_pod_address_on(wire: &Wire) {
    let mut seen = 0;
    while let Some(frame) = wire.receive(std::time::Instant::now() + SHORT).unwrap() {
        seen += 1;
        let pods: [&[u8]; 2] = [&[10, 244, 1], &[0xfd, 0, 0, 0x10, 2, 0x44]];
        for bytes in pods {
            assert!(!frame.windows(bytes.len()).any(|window| window == bytes), "a pod's address: {frame:x?}");
        }
    }
    assert!(seen > 20, "only {seen} frames were seen");
}

// As Kubernetes' conformance test has it.
in_both!(one_port_on_several_addresses_and_protocols, |node: Node| {
    let outside = outside();
    let a = node.add_with("a", &json!([on("127.0.0.1", tcp_port(9000)), on("127.0.0.1", udp_port(9001))]));
    let b = node.add_with("b", &json!([on(NODE[0], tcp_port(9000))]));
    let c = node.add_with("c", &json!([on(NODE[0], udp_port(9000))]));
    let d = node.add_with("d", &json!([on("::", tcp_port(9000)), on("198.51.100.1", udp_port(9002))]));
    let (at_a, at_b, at_d) = (listen(&a, false, 80), listen(&b, false, 80), listen(&d, true, 80));
    // From an address of the node's, as `curl --interface` does it.
    let socket = datagrams(&this(), ip(NODE[0]), 0);
    let local = datagrams(&a.netns, a.address(false), 53);
    assert_eq!(echoes(&socket, "127.0.0.1:9001".parse().unwrap(), &local), Some(ip(NODE[0])));
    let target: SocketAddr = "127.0.0.1:9000".parse().unwrap();
    let refused = TcpStream::connect_timeout(&target, LONG).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "from 127.0.0.1");
    connects(&outside, SocketAddr::new(ip(NODE[0]), 9000), &at_b);
    connects(&outside, SocketAddr::new(ip(NODE[1]), 9000), &at_d);
    let server = datagrams(&c.netns, c.address(false), 53);
    let client = datagrams(&outside, ip(OUTSIDE[0]), 0);
    assert!(echoes(&client, SocketAddr::new(ip(NODE[0]), 9000), &server).is_some());
    // Nobody from outside is let in by a forged loopback address.
    let wire = Wire::open(&outside, "outside").unwrap();
    let uplink = block_on(async { Netlink::new().unwrap().link_named("uplink").await.unwrap().unwrap() });
    let forged = packet::udp(ip(OUTSIDE[0]), ip("127.0.0.1"), [7, 9001], b"forged");
    let mac = uplink.mac.unwrap().0;
    wire.send(&packet::ethernet(mac, [2, 0, 0, 0, 0, 7], packet::IPV4, &forged)).unwrap();
    assert!(local.recv(&mut [0; 16]).is_err(), "a forged datagram got to the pod");
    // Nobody's traffic to somebody else is taken.
    let strange = datagrams(&d.netns, d.address(false), 53);
    let client = datagrams(&b.netns, b.address(false), 0);
    let _ = client.send_to(b"ping", "198.51.100.1:9002");
    assert!(strange.recv(&mut [0; 16]).is_err(), "somebody else's traffic was taken");
    at_a.set_nonblocking(true).unwrap();
    assert!(at_a.accept().is_err());
    for pod in [&a, &b, &c, &d] {
        assert!(node.check(pod).success);
    }
});

#[test]
fn a_host_port_in_use_is_refused_and_its_holder_named() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let first = node.add_with("first", &json!([on(NODE[0], tcp_port(80))]));
        let second = Pod::unconnected("second");
        let refused = |ports: Value, words: &str| {
            let said = node.call("ADD", &second, &node.with_ports(&ports));
            assert_eq!(said.output["code"], 105, "{said:?}");
            let details = said.output["details"].as_str().unwrap();
            assert!(details.contains(words), "{details}");
            assert_eq!(node.leases().len(), 1);
        };
        refused(
            json!([udp_port(80), tcp_port(80)]),
            "TCP port 80 of the node leads to eth0 of container first",
        );
        refused(json!([on(NODE[0], tcp_port(80))]), "TCP 192.0.2.1:80 leads to eth0 of container first");
        refused(json!([udp_port(51830)]), "the tunnel's");
        assert!(node.check(&first).success);
        node.del(&first);
        assert!(node.call("ADD", &second, &node.with_ports(&json!([tcp_port(80)]))).success);
    });
}

pub(crate) fn opened() -> usize {
    let table = nft::read(Family::Inet, TABLE).unwrap();
    table
        .map_or(0, |state| ["any4", "address4"].iter().map(|map| state.table.sets[*map].elements.len()).sum())
}

#[test]
fn host_ports_go_with_their_pods() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let [a, b, c] =
            [("a", 1), ("b", 2), ("c", 3)].map(|(name, port)| node.add_with(name, &json!([tcp_port(port)])));
        let plain = node.add("plain");
        assert_eq!(opened(), 3);
        node.del(&a);
        node.del(&a);
        node.del(&plain);
        assert_eq!(opened(), 2);
        // A lease that is lost, as of a process that was killed.
        let lost = node.leases().into_iter().find(|name| name.ends_with(&c.port())).unwrap();
        std::fs::remove_file(node.paths.leases().join(lost)).unwrap();
        assert!(node.gc(&[&b]).success);
        assert_eq!(opened(), 1);
        assert!(node.check(&b).success);
        assert!(node.gc(&[]).success);
        assert!(!nft::tables(Family::Inet).unwrap().contains(TABLE), "no host port, no table");
    });
}

#[test]
fn what_is_taken_away_is_found_and_comes_back() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (a, plain) = (node.add_with("a", &json!([tcp_port(1), udp_port(2)])), node.add("plain"));
        let repaired =
            || block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() });
        assert_eq!(repaired(), Vec::<String>::new());
        let damages: [fn(&mut nft::Table); 4] = [
            |table| table.sets.get_mut("any4").unwrap().elements.clear(),
            |table| table.chains.get_mut("arriving").unwrap().rules.clear(),
            |table| table.sets.get_mut("own6").unwrap().elements.clear(),
            |table| drop(table.chains.remove("own")),
        ];
        for damage in damages {
            nft::edit(Family::Inet, TABLE, damage).unwrap();
            found_and_repaired(&node, &a, &plain);
        }
        nft::delete(Family::Inet, TABLE).unwrap();
        found_and_repaired(&node, &a, &plain);
        // What nobody has asked for goes.
        std::fs::remove_dir_all(node.paths.leases()).unwrap();
        assert_eq!(repaired().len(), 1);
        assert_eq!(opened(), 0);
    });
}

fn found_and_repaired(node: &Node, pod: &Pod, plain: &Pod) {
    let said = node.check(pod);
    assert!(said.output["details"].as_str().unwrap().contains("host ports"), "{said:?}");
    assert!(node.check(plain).success, "{:?}", node.check(plain));
    let repair =
        || block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() });
    assert!(repair().iter().any(|done| done.contains(TABLE)));
    assert_eq!(repair(), Vec::<String>::new());
    assert!(node.check(pod).success, "{:?}", node.check(pod));
    assert_eq!(opened(), 2);
}

in_both!(datagrams_of_older_clients_find_the_pod, |node: Node| {
    let outside = outside();
    // Connections are tracked from the guard's installation on at the latest, with NAT from the first host port on.
    let _first = node.add_with("first", &json!([tcp_port(1)]));
    for ipv6 in [false, true] {
        let target = SocketAddr::new(ip(NODE[usize::from(ipv6)]), 5353);
        let client = datagrams(&outside, ip(OUTSIDE[usize::from(ipv6)]), 4000);
        client.send_to(b"too early", target).unwrap();
        for name in ["a", "b"] {
            let pod = node.add_with(&format!("{name}{ipv6}"), &json!([udp_port(5353)]));
            let server = datagrams(&pod.netns, pod.address(ipv6), 53);
            assert!(echoes(&client, target, &server).is_some(), "{name}, IPv6 {ipv6}");
            node.del(&pod);
            let _ = client.send_to(b"too late", target);
        }
    }
});
