//! Masquerading, and strangers in the tunnel.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::egress::{self, EgressConfig};
use selvedge::guard;
use selvedge::kernel::nft::{self, Connection, Family, Ip, Update};
use selvedge_lab::isolated;
use selvedge_lab::packet::udp;

use crate::node::{Node, TUNNEL_PORT, dropped, drops_one, egress_config, families, node_port};
use crate::packet::{PORT, Seen, beginnings, datagram, dying, strays};

#[test]
fn the_internet_sees_the_node_and_its_answer_reaches_the_pod() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.internet, "request"));
            let request = node.uplink.seen("request").unwrap();
            assert_eq!((request.source, request.destination), (family.node, family.internet));
            let [port, _] = request.ports();
            let reply = |canary: &str| udp(family.internet, family.node, [PORT, port], canary.as_bytes());
            node.uplink.send(&reply("reply"));
            let reply = node.pod.seen("reply").unwrap();
            assert_eq!((reply.source, reply.destination), (family.internet, family.pod));
            assert_eq!(reply.ports(), [PORT, PORT]);
            // An error of the node itself about such a reply names the node, not the pod, on the wire.
            node.uplink.send(&dying(family.internet, family.node, [PORT, port], "dying"));
            let error = node.uplink.awaited("dying");
            let quoted = error.quoted().unwrap();
            assert_eq!((quoted.source, quoted.destination), (family.internet, family.node));
            assert_eq!(error.source, family.node);
        }
        assert!(dropped().values().all(|packets| *packets == 0), "{:?}", dropped());
        let counts = egress::connections().unwrap();
        assert_eq!((counts["masqueraded4"].packets, counts["masqueraded6"].packets), (1, 1));
    });
}

#[test]
fn errors_of_a_pod_about_the_internet_are_translated() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.internet, "request"));
            let [port, _] = node.uplink.seen("request").unwrap().ports();
            node.uplink.send(&udp(family.internet, family.node, [PORT, port], b"reply"));
            node.pod.seen("reply").unwrap();
            let reply = datagram(family.internet, family.pod, "reply");
            node.pod.send(&crate::packet::unreachable(family.pod, family.internet, &reply));
            let error = node.uplink.seen("reply").unwrap();
            assert_eq!((error.source, error.quoted().unwrap().destination), (family.node, family.node));
        }
    });
}

#[test]
fn the_ranges_that_are_not_masqueraded_are_not() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.trusted, "trusted"));
            assert_eq!(node.uplink.seen("trusted").unwrap().source, family.pod);
            drops_one("members", family, || node.pod.send(&datagram(family.pod, family.member, "member")));
            drops_one("leaving", family, || node.pod.send(&datagram(family.pod, family.service, "service")));
            assert_eq!(node.uplink.sent(), []);
        }
    });
}

#[test]
fn strangers_enter_the_tunnel_as_the_fabric_address() {
    isolated!(|| {
        let node = Node::guarded();
        node.lay_ways_to_members();
        for family in families() {
            node_port(family, family.remote_pod);
            // A client from the internet, and one on another member node, whose address our peers do not take from us.
            // What a pod answers to a member goes by the tunnel.
            for (client, canary, back) in
                [(family.internet, "client", &node.uplink), (family.member, "member", &node.tunnel)]
            {
                node.uplink.send(&datagram(client, family.node, canary));
                let request = node.tunnel.seen(canary).unwrap();
                assert_eq!((request.source, request.destination), (family.fabric, family.remote_pod));
                let [port, _] = request.ports();
                let reply = udp(family.remote_pod, family.fabric, [PORT, port], canary.as_bytes());
                node.tunnel.send(&reply);
                let reply = back.seen(canary).unwrap();
                assert_eq!((reply.source, reply.destination), (family.node, client));
            }
        }
        assert!(dropped().values().all(|packets| *packets == 0), "{:?}", dropped());
    });
}

#[test]
fn what_peers_take_from_this_node_keeps_its_source() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            for source in [family.node, family.fabric] {
                let host = UdpSocket::bind((source, 0)).unwrap();
                host.send_to(b"host", (family.remote_pod, PORT)).unwrap();
                assert_eq!(node.tunnel.awaited("host").source, source);
            }
            node.pod.send(&datagram(family.pod, family.remote_pod, "pod"));
            assert_eq!(node.tunnel.seen("pod").unwrap().source, family.pod);
        }
    });
}

/// The way to the member is the uplink's still, and its connection's NAT was decided on before it was a member.
#[test]
fn a_masqueraded_connection_ends_where_a_node_becomes_a_member() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            egress::ensure(&EgressConfig { member_addresses: vec![], ..egress_config() }).unwrap();
            node.pod.send(&datagram(family.pod, family.member, "before"));
            let before = node.uplink.seen("before").unwrap();
            assert_eq!(before.source, family.node);
            let answer = udp(family.member, family.node, [PORT, before.ports()[0]], b"answer");
            node.uplink.send(&answer);
            assert_eq!(node.pod.seen("answer").unwrap().destination, family.pod);
            egress::ensure(&egress_config()).unwrap();
            drops_one("members", family, || node.pod.send(&datagram(family.pod, family.member, "after")));
            drops_one("members", family, || node.uplink.send(&answer));
            assert_eq!((node.uplink.sent(), node.pod.seen("answer")), (vec![], None));
        }
    });
}

/// Where nothing drops such a packet before, it has the pod's address still, and the guard stops it. With the node's address
/// it would pass.
#[test]
fn what_pods_send_to_members_is_not_masqueraded() {
    isolated!(|| {
        let node = Node::guarded();
        nft::edit(Family::Inet, egress::TABLE, |table| {
            for chain in ["forward", "leaving"] {
                table.chains.get_mut(chain).unwrap().rules.clear();
            }
        })
        .unwrap();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.internet, "control"));
            assert_eq!(node.uplink.seen("control").unwrap().source, family.node);
            drops_one("leaving", family, || node.pod.send(&datagram(family.pod, family.member, "member")));
            assert_eq!(node.uplink.sent(), []);
        }
    });
}

/// Else what is encrypted could be led into the tunnel again.
#[test]
fn the_tunnels_port_is_not_reached_by_the_tunnel_nor_by_pods() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            let host = UdpSocket::bind((family.node, TUNNEL_PORT)).unwrap();
            let to = |source, destination, canary: &str| {
                udp(source, destination, [PORT, TUNNEL_PORT], canary.as_bytes())
            };
            node.tunnel.send(&to(family.remote_pod, family.node, "nested"));
            node.pod.send(&to(family.pod, family.node, "forged"));
            node.uplink.send(&to(family.member, family.node, "control"));
            let mut buffer = [0; 20];
            assert_eq!(host.recv(&mut buffer).unwrap(), b"control".len());
            // A pod may use the port for its own ends.
            node.tunnel.send(&to(family.remote_pod, family.pod, "to-pod"));
            assert!(node.pod.seen("to-pod").is_some());
        }
        assert_eq!(egress::connections().unwrap()["nested"].packets, 4);
    });
}

/// With its own address as source a peer's packet passes the tunnel's check; that makes this node no router of it.
#[test]
fn a_peer_reaches_nothing_beyond_the_node() {
    isolated!(|| {
        let node = Node::guarded();
        let packets =
            |source, destination| [strays(source, destination), beginnings(source, destination)].concat();
        for family in families() {
            // The control: without the table all of them leave.
            assert!(egress::remove().unwrap());
            for (what, packet) in packets(family.member, family.internet) {
                node.tunnel.send(&packet);
                assert_eq!(node.uplink.sent().len(), 1, "{what}, without the table");
            }
            egress::ensure(&egress_config()).unwrap();
            let other_peers_pod = if family.pod.is_ipv4() { "10.244.3.9" } else { "fd00:3::9" };
            let beyond = [family.internet, family.trusted, other_peers_pod.parse().unwrap()];
            for source in [family.member, family.remote_pod] {
                for destination in beyond {
                    for (what, packet) in packets(source, destination) {
                        let before = transit();
                        node.tunnel.send(&packet);
                        let what = format!("{what} from {source} to {destination}");
                        // To its peer the kernel may say that there is a shorter way.
                        let back = but_for_redirects(node.tunnel.sent());
                        assert_eq!((node.uplink.sent(), back), (vec![], vec![]), "{what}");
                        assert_eq!(transit(), before + 1, "{what} is counted");
                    }
                }
                node.tunnel.send(&datagram(source, family.pod, "to-pod"));
                assert!(node.pod.seen("to-pod").is_some());
            }
        }
    });
}

/// Without redirects of IPv6, for which the kernel has no switch. The guard looks into those that leave.
fn but_for_redirects(mut packets: Vec<Seen>) -> Vec<Seen> {
    packets.retain(|packet| (packet.protocol, packet.payload[0]) != (58, 137));
    packets
}

fn transit() -> u64 {
    egress::connections().unwrap()["transit"].packets
}

/// What a peer says about connections that began beyond the node goes back there: errors too.
#[test]
fn errors_of_a_remote_pod_about_a_node_ports_client_reach_the_client() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node_port(family, family.remote_pod);
            node.uplink.send(&datagram(family.internet, family.node, "request"));
            let request = node.tunnel.seen("request").unwrap();
            let [port, _] = request.ports();
            let quoted = udp(family.fabric, family.remote_pod, [port, PORT], b"request");
            node.tunnel.send(&crate::packet::unreachable(family.remote_pod, family.fabric, &quoted));
            let error = node.uplink.seen("request").unwrap();
            assert_eq!((error.source, error.destination), (family.node, family.internet));
            assert_eq!(error.quoted().unwrap().destination, family.node);
        }
        assert_eq!(transit(), 0);
    });
}

/// NodePorts of this node whose endpoint is a pod of another peer, or a process of a member's host.
#[test]
fn what_is_translated_here_may_go_from_peer_to_peer() {
    isolated!(|| {
        let node = Node::guarded();
        node.lay_ways_to_members();
        for family in families() {
            let other_peers_pod = if family.pod.is_ipv4() { "10.244.3.9" } else { "fd00:3::9" };
            let endpoints = [other_peers_pod.parse().unwrap(), family.member];
            for (own_port, endpoint) in (5000..).zip(endpoints) {
                node_port(family, endpoint);
                for client in [family.remote_pod, family.member] {
                    node.tunnel.send(&udp(client, family.node, [own_port, PORT], b"hairpin"));
                    let request = node.tunnel.seen("hairpin").unwrap();
                    assert_eq!((request.source, request.destination), (family.fabric, endpoint));
                    let [port, _] = request.ports();
                    node.tunnel.send(&udp(endpoint, family.fabric, [PORT, port], b"answer"));
                    let answer = node.tunnel.seen("answer").unwrap();
                    assert_eq!((answer.source, answer.destination), (family.node, client));
                }
            }
        }
        assert_eq!((transit(), but_for_redirects(node.uplink.sent())), (0, vec![]));
    });
}

/// Where the routing rules are gone the way to a member is the uplink's.
#[test]
fn what_came_out_of_the_tunnel_does_not_go_to_members_by_the_uplink() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node_port(family, family.member);
            let request = datagram(family.remote_pod, family.node, "request");
            drops_one("members", family, || node.tunnel.send(&request));
            node_port(family, family.remote_pod);
            node.uplink.send(&datagram(family.member, family.node, "begun"));
            let [port, _] = node.tunnel.seen("begun").unwrap().ports();
            let answer = udp(family.remote_pod, family.fabric, [PORT, port], b"answer");
            drops_one("members", family, || node.tunnel.send(&answer));
            assert_eq!(node.uplink.sent(), []);
        }
    });
}

/// As IPVS sends what it has taken on for a peer's pod: past the forward hook, with the guard's mark still on it.
#[test]
fn what_goes_past_the_forward_hook_with_the_guards_mark_does_not_reach_members() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            let host = UdpSocket::bind((family.node, 0)).unwrap();
            let send = || drop(host.send_to(b"host", (family.member, PORT)));
            send();
            assert_eq!(node.uplink.awaited("host").destination, family.member, "the node's own");
            socket2::SockRef::from(&host).set_mark(guard::MARK | 0x4000).unwrap();
            drops_one("members", family, send);
            assert_eq!(node.uplink.sent(), []);
        }
    });
}

#[test]
fn ensuring_twice_changes_nothing() {
    isolated!(|| {
        assert!(!egress::ensure(&egress_config()).unwrap().is_empty());
        assert!(egress::ensure(&egress_config()).unwrap().is_empty());
        assert!(egress::remove().unwrap());
        assert!(!egress::remove().unwrap());
    });
}

#[test]
fn a_member_that_comes_or_goes_changes_one_element() {
    isolated!(|| {
        let node = Node::guarded();
        let (before, mut connection) = (egress_config(), Connection::open().unwrap());
        for family in families() {
            let mut after = before.clone();
            after.member_addresses.push(family.internet);
            let set = format!("members{}", Ip::of(family.internet).digit());
            let changes = egress::update(&mut connection, &before, &after).unwrap();
            assert_eq!(changes.0, [format!("add elements to set {set} in table inet selvedge-egress")]);
            assert!(egress::ensure(&after).unwrap().is_empty());
            drops_one("members", family, || {
                node.pod.send(&datagram(family.pod, family.internet, "to-member"));
            });
            let changes = egress::update(&mut connection, &after, &before).unwrap();
            assert_eq!(changes.0, [format!("delete elements of set {set} in table inet selvedge-egress")]);
            assert!(egress::ensure(&before).unwrap().is_empty());
            node.pod.send(&datagram(family.pod, family.internet, "to-internet"));
            assert_eq!(node.uplink.seen("to-internet").unwrap().source, family.node);
        }
        assert!(egress::update(&mut connection, &before, &before).unwrap().is_empty());
    });
}

#[test]
fn an_update_makes_the_whole_table_where_elements_are_not_enough() {
    isolated!(|| {
        let (before, mut connection) = (egress_config(), Connection::open().unwrap());
        let more = |address: [u8; 4]| {
            let mut after = before.clone();
            after.member_addresses.push(address.into());
            after
        };
        let after = more([192, 0, 2, 77]);
        let whole = |connection: &mut Connection, after: &EgressConfig| {
            assert!(!egress::update(connection, &before, after).unwrap().is_empty());
            assert!(egress::ensure(after).unwrap().is_empty());
        };
        // There is no table; it has the element; it has another one, which nobody told us of.
        whole(&mut connection, &after);
        egress::ensure(&before).unwrap();
        let mut update = Update::new(Family::Inet, egress::TABLE);
        update
            .insert("members4", IpAddr::from([192, 0, 2, 77]))
            .insert("members4", IpAddr::from([192, 0, 2, 78]));
        connection.update(&update).unwrap();
        whole(&mut connection, &after);
        egress::ensure(&before).unwrap();
        let after = EgressConfig { listen_port: 1, ..more([192, 0, 2, 77]) };
        whole(&mut connection, &after);
    });
}

/// Prints what one more member costs among ten thousand, which is less than a look at the whole table.
#[test]
fn a_member_among_ten_thousand_costs_less_than_reading_the_table() {
    isolated!(|| {
        const ROUNDS: u32 = 101;
        let member = |number: u32| IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + number));
        let mut config = egress_config();
        config.member_addresses.extend((0..10_000).map(member));
        let mut connection = Connection::open().unwrap();
        let start = Instant::now();
        connection.apply(&[egress::table(&config)]).unwrap();
        let made = start.elapsed();
        let ensured = (0..5).map(|_| {
            let start = Instant::now();
            egress::ensure(&config).unwrap();
            start.elapsed()
        });
        let ensured = ensured.min().unwrap();
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|round| {
                let mut after = config.clone();
                after.member_addresses.push(member(20_000 + round));
                let start = Instant::now();
                let changes = egress::update(&mut connection, &config, &after).unwrap();
                let took = start.elapsed();
                assert_eq!(changes.0.len(), 1);
                config = after;
                took
            })
            .collect();
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "10,000 members: made in {made:?}, ensured in {ensured:?}; \
             one more in {median:?} (median), {longest:?} (longest)"
        );
        assert!(median < ensured, "{median:?}, and {ensured:?} for the whole table");
    });
}
