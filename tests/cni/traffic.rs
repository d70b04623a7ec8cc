//! Packets between pods of one node, and between pods and the node.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, Bridge, End, Id, Update, Veth};
use selvedge::kernel::mac::Mac;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Chain, ChainKind, End as Side, Family, Hook, Rule, Table};
use selvedge::kernel::route::Route;
use selvedge::kernel::sysctl;
use selvedge::pod::node::NodeInfo;
use selvedge_lab::packet;
use selvedge_lab::traffic::{Canary, Probe, Server, probe};
use selvedge_lab::wire::Wire;

use crate::node::{Node, block_on, in_both, node, soon, tcp, udp};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

fn this() -> NetNs {
    NetNs::current().unwrap()
}

in_both!(pods_of_one_node_see_each_others_addresses, |node: Node| {
    let (a, b) = (node.add("a"), node.add("b"));
    for (netfilter, ipv6) in [("1", false), ("1", true), ("0", false), ("0", true)] {
        bridge_netfilter(netfilter);
        assert_eq!(tcp(&a.netns, &b.netns, b.address(ipv6)), a.address(ipv6));
        assert_eq!(tcp(&b.netns, &a.netns, a.address(ipv6)), b.address(ipv6));
        assert_eq!(tcp(&a.netns, &a.netns, a.address(ipv6)), a.address(ipv6), "a pod to itself");
    }
});

#[test]
fn two_pods_use_the_same_port() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (a, b) = (node.add("a"), node.add("b"));
        let listen = |ns: &NetNs| ns.run(|| TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
        let (_first, _second) = (listen(&a.netns), listen(&b.netns));
    });
}

in_both!(node_and_pods_reach_each_other_with_and_without_the_tunnels_device, |node: Node| {
    let pod = node.add("a");
    both_ways(&node, &pod.netns, &pod.addresses());
    // Stands for the TUN: another device of ours with the fabric addresses.
    let device = Bridge { name: "selvedge0", mac: Mac([2, 0, 0, 0, 0, 9]), mtu: 1420, group: LINK_GROUP };
    block_on(async {
        let netlink = Netlink::new().unwrap();
        let index = netlink.ensure_bridge(&device).await.unwrap().index;
        let fabric = node.info.fabric_addresses().into_iter();
        netlink.apply(fabric.map(|address| Address::new(index, address).add())).await.unwrap();
    });
    both_ways(&node, &pod.netns, &pod.addresses());
    block_on(async {
        Netlink::new().unwrap().apply([link::delete(Id::Name("selvedge0"))]).await.unwrap();
    });
    both_ways(&node, &pod.netns, &pod.addresses());
    assert!(node.check(&pod).success, "{:?}", node.check(&pod));
});

fn both_ways(node: &Node, pod: &NetNs, addresses: &[IpAddr]) {
    for address in addresses {
        let fabric = node.info.fabric(address.is_ipv6()).unwrap();
        assert_eq!(
            tcp(&this(), pod, *address),
            fabric,
            "the node speaks to its pods from its fabric address"
        );
        assert_eq!(tcp(pod, &this(), fabric), *address);
    }
}

in_both!(the_gateway_answers_a_pod_that_asks, |node: Node| {
    let pod = node.add("a");
    let wire = Wire::open(&pod.netns, "eth0").unwrap();
    let (IpAddr::V4(own), Some(IpAddr::V4(gateway))) = (pod.address(false), node.info.fabric(false)) else {
        panic!()
    };
    let request = packet::arp(1, (pod.ethernet_address().0, own), ([0; 6], gateway));
    wire.send(&packet::ethernet([0xff; 6], pod.ethernet_address().0, packet::ARP, &request)).unwrap();
    let answer =
        |frame: &[u8]| frame[12..14] == [8, 6] && frame[21] == 2 && frame[28..32] == gateway.octets();
    assert!(wire.find(soon(), answer).unwrap().is_some(), "no ARP reply");
    let (IpAddr::V6(own), Some(IpAddr::V6(gateway))) = (pod.address(true), node.info.fabric(true)) else {
        panic!()
    };
    let body = [&[0; 4][..], &gateway.octets(), &[1, 1], &pod.ethernet_address().0].concat();
    let solicitation = packet::icmpv6(own, gateway, 135, 255, &body);
    wire.send(&packet::ethernet(
        [0x02, b's', b'l', b'v', 0, 1],
        pod.ethernet_address().0,
        packet::IPV6,
        &solicitation,
    ))
    .unwrap();
    let answer = |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 136;
    assert!(wire.find(soon(), answer).unwrap().is_some(), "no neighbour advertisement");
});

#[test]
fn nothing_is_bridged_between_pods() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (a, b) = (node.add("a"), node.add("b"));
        for ipv6 in [false, true] {
            assert!(udp(&a.netns, &b.netns, b.address(ipv6), LONG));
        }
        // With the node's IP stack not forwarding, no packet passes.
        sysctl::write("ipv4/conf/selvedge-br/forwarding", "0").unwrap();
        sysctl::write("ipv6/conf/all/forwarding", "0").unwrap();
        for ipv6 in [false, true] {
            assert!(!udp(&a.netns, &b.netns, b.address(ipv6), SHORT));
        }
        // Nor does a frame straight to the other pod's Ethernet address, or to everybody.
        let (from, to) = (Wire::open(&a.netns, "eth0").unwrap(), Wire::open(&b.netns, "eth0").unwrap());
        for destination in [b.ethernet_address().0, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            let payload = packet::udp(a.address(false), b.address(false), [1, 2], b"straight across");
            from.send(&packet::ethernet(destination, a.ethernet_address().0, packet::IPV4, &payload))
                .unwrap();
        }
        // The next ADD repairs what it needs, and then a packet comes after those that did not.
        node.add("c");
        assert!(udp(&a.netns, &b.netns, b.address(false), LONG));
        let straight = |frame: &[u8]| frame.ends_with(b"straight across");
        assert!(to.find(Instant::now() + SHORT, straight).unwrap().is_none());
    });
}

in_both!(the_node_sends_no_redirects, |node: Node| {
    let (a, b) = (node.add("a"), node.add("b"));
    let wire = Wire::open(&a.netns, "eth0").unwrap();
    for ipv6 in [false, true] {
        for _ in 0..5 {
            assert!(udp(&a.netns, &b.netns, b.address(ipv6), LONG));
        }
    }
    let redirect = |frame: &[u8]| {
        (frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 5)
            || (frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 137)
    };
    assert!(wire.find(Instant::now() + SHORT, redirect).unwrap().is_none());
});

in_both!(mtu_is_the_nodes, |node: Node| {
    let (a, b) = (node.add("a"), node.add("b"));
    let canary = Canary::random().unwrap();
    let server = Server::start(&b.netns, "b", &[7000], &canary).unwrap();
    let mtu = usize::try_from(node.info.mtu).unwrap();
    for ipv6 in [false, true] {
        let to = SocketAddr::new(b.address(ipv6), server.ports()[0]);
        let send = |size, whole| probe(&a.netns, to, size, whole, &canary, 20).unwrap();
        assert_eq!(send(mtu, true), Probe::Echoed);
        assert_eq!(send(mtu + 1, true), Probe::TooBig(node.info.mtu));
        assert_eq!(send(3 * mtu, false), Probe::Echoed, "in fragments");
    }
});

in_both!(a_pod_reaches_itself_by_way_of_a_service, |node: Node| {
    let pod = node.add("a");
    let mut table = Table::new(Family::Inet, "service");
    let (mut to, mut from) = (vec![], vec![]);
    for (service, ipv6) in [("10.96.0.10", false), ("fd00:10:96::10", true)] {
        let service: IpAddr = service.parse().unwrap();
        let (ip, own) = (nft::Ip::of(service), pod.address(ipv6));
        to.push(Rule::new().ip(ip).address(Side::Destination, service).dnat(own, None));
        let loops = Rule::new().ip(ip).address(Side::Source, own).address(Side::Destination, own);
        from.push(loops.snat(node.info.fabric(ipv6).unwrap(), 0));
    }
    table.chain("to", Chain::base(ChainKind::Nat, Hook::Prerouting, -100, to));
    table.chain("from", Chain::base(ChainKind::Nat, Hook::Postrouting, 100, from));
    nft::apply(&[table]).unwrap();
    for (netfilter, service, ipv6) in [
        ("1", "10.96.0.10", false),
        ("1", "fd00:10:96::10", true),
        ("0", "10.96.0.10", false),
        ("0", "fd00:10:96::10", true),
    ] {
        bridge_netfilter(netfilter);
        let server = pod.netns.run(|| TcpListener::bind((pod.address(ipv6), 0)).unwrap()).unwrap();
        let target = SocketAddr::new(service.parse().unwrap(), server.local_addr().unwrap().port());
        let client = pod.netns.run(|| std::net::TcpStream::connect_timeout(&target, LONG)).unwrap();
        assert!(client.is_ok(), "{service} with br_netfilter {netfilter}: {client:?}");
    }
});

/// Whether frames in a bridge pass the hooks of IP. Without the module there is nothing to switch.
fn bridge_netfilter(value: &str) {
    for key in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
        match sysctl::ensure(key, value) {
            Err(error) if error.is_missing() => {}
            done => drop(done.unwrap()),
        }
    }
}

/// An underlay with a default route, to which nothing of a pod's must go in the clear.
fn underlay(info: &NodeInfo) -> (NetNs, Wire) {
    let outside = NetNs::create().unwrap();
    let end = |name| End { name, mac: None, mtu: info.mtu + 80, group: 0 };
    let veth = Veth { end: end("uplink"), peer: end("outside"), peer_ns: Some(&outside) };
    let up = Update { up: Some(true), ..Update::default() };
    block_on(async {
        let (netlink, inside) = (Netlink::new().unwrap(), Netlink::in_ns(&outside).unwrap());
        netlink.apply([veth.create(), link::update(Id::Name("uplink"), &up)]).await.unwrap();
        inside.apply([link::update(Id::Name("outside"), &up)]).await.unwrap();
        let index = netlink.link_named("uplink").await.unwrap().unwrap().index;
        let address = |text: &str| Address::new(index, text.parse::<ipnet::IpNet>().unwrap()).add();
        netlink.apply([address("192.0.2.1/24"), address("2001:db8::1/64")]).await.unwrap();
        let anything =
            ["0.0.0.0/0", "::/0"].map(|net| Route::on_link(net.parse::<ipnet::IpNet>().unwrap(), index));
        netlink.apply(anything.iter().map(Route::replace)).await.unwrap();
    });
    let wire = Wire::open(&outside, "outside").unwrap();
    (outside, wire)
}

in_both!(nothing_for_the_cluster_leaves_in_the_clear_on_a_node_without_agent, |node: Node| {
    let (_outside, wire) = underlay(&node.info);
    let pod = node.add("a");
    let canary = b"for the cluster alone";
    for target in [
        "10.244.9.9",
        "10.244.1.200",
        "10.96.0.77",
        "fd00:10:244:9::9",
        "fd00:10:244:1::200",
        "fd00:10:96::77",
    ] {
        let target: SocketAddr = SocketAddr::new(target.parse().unwrap(), 9);
        for ns in [&pod.netns, &this()] {
            let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = ns.run(|| UdpSocket::bind(any).unwrap()).unwrap();
            let _ = socket.send_to(canary, target);
        }
    }
    // The control: what is not for the cluster is seen there, after all those.
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    block_on(async {
        let netlink = Netlink::new().unwrap();
        let device = netlink.link_named("uplink").await.unwrap().unwrap().index;
        let address = "192.0.2.2".parse().unwrap();
        let neighbour = selvedge::kernel::neigh::Neighbour { device, address, mac: Mac([2; 6]) };
        netlink.apply([neighbour.replace()]).await.unwrap();
    });
    socket.send_to(b"for the outside", "192.0.2.2:9").unwrap();
    let deadline = soon();
    loop {
        let frame = wire.receive(deadline).unwrap().expect("the control was not seen");
        assert!(!frame.windows(canary.len()).any(|window| window == canary), "leaked: {frame:x?}");
        let arp_for_cluster = frame[12..14] == [8, 6] && frame[38] == 10;
        assert!(!arp_for_cluster, "asked the underlay for a cluster address");
        if frame.ends_with(b"for the outside") {
            break;
        }
    }
});
