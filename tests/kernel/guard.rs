//! The guard's truth table, for both families, with counters.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use selvedge::guard;
use selvedge::kernel::route::Route;
use selvedge_lab::isolated;
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{Addresses, Node, dropped, drops_one, families, guard_config, node_port};
use crate::packet::{PORT, datagram, dying, fragments, recording, unreachable};

/// Waits for what the socket gets next.
fn hears(socket: &UdpSocket, text: &str) {
    let mut buffer = [0; 100];
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let length = socket
        .recv(&mut buffer)
        .unwrap_or_else(|error| panic!("waited 5 s for {text} on {socket:?}: {error}"));
    assert_eq!(std::str::from_utf8(&buffer[..length]), Ok(text));
}

#[test]
fn pods_reach_each_other_and_the_node() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.remote_pod, "to-remote"));
            assert_eq!(node.tunnel.seen("to-remote").unwrap().source, family.pod, "no NAT");
            node.tunnel.send(&datagram(family.remote_pod, family.pod, "from-remote"));
            assert_eq!(node.pod.seen("from-remote").unwrap().source, family.remote_pod, "no NAT");

            let host = UdpSocket::bind((family.node, 0)).unwrap();
            host.send_to(b"host-to-pod", (family.pod, PORT)).unwrap();
            assert_eq!(node.pod.awaited("host-to-pod").source, family.node);
            let fabric = UdpSocket::bind((family.fabric, PORT)).unwrap();
            fabric.send_to(b"to-itself", (family.fabric, PORT)).unwrap();
            hears(&fabric, "to-itself");
            node.pod.send(&datagram(family.pod, family.fabric, "pod-to-host"));
            hears(&fabric, "pod-to-host");
        }
        assert!(dropped().values().all(|packets| *packets == 0), "{:?}", dropped());
    });
}

#[test]
fn nothing_of_a_pod_leaves_by_the_uplink() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.apply(node.cluster_route(family).delete());
            let leaks: [(&str, Vec<u8>); 3] = [
                ("remote-pod", datagram(family.pod, family.remote_pod, "remote-pod")),
                ("no-pod", datagram(family.pod, family.absent_pod, "no-pod")),
                ("no-service", datagram(family.pod, family.service, "no-service")),
            ];
            for (canary, packet) in leaks {
                drops_one("leaving", family, || node.pod.send(&packet));
                assert_eq!(node.uplink.seen(canary), None);
            }
            drops_one("members", family, || node.pod.send(&datagram(family.pod, family.member, "member")));
            assert_eq!(node.uplink.seen("member"), None);
            node.pod.send(&datagram(family.pod, family.internet, "control"));
            assert_eq!(node.uplink.seen("control").unwrap().source, family.node);
            let before = dropped();
            for fragment in fragments(family.pod, family.remote_pod, "fragment") {
                node.pod.send(&fragment);
            }
            assert_ne!(dropped(), before);
            assert_eq!(node.uplink.sent(), []);
        }
    });
}

/// NAT would leave the pod's address in them.
#[test]
fn options_of_pods_do_not_leave() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            drops_one("leaving-options", family, || {
                node.pod.send(&recording(family.pod, family.internet, "recorded"));
            });
            assert_eq!(node.uplink.seen("recorded"), None);
            node.pod.send(&recording(family.pod, family.remote_pod, "inside"));
            assert_eq!(node.tunnel.seen("inside").unwrap().source, family.pod);
        }
    });
}

#[test]
fn the_nodes_own_packets_to_pods_stay_inside_too() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.apply(node.cluster_route(family).delete());
            let host = UdpSocket::bind((family.node, 0)).unwrap();
            drops_one("leaving", family, || drop(host.send_to(b"astray", (family.remote_pod, PORT))));
            let fabric = UdpSocket::bind((family.fabric, 0)).unwrap();
            drops_one("leaving", family, || drop(fabric.send_to(b"astray", (family.member, PORT))));
            host.send_to(b"control", (family.internet, PORT)).unwrap();
            node.uplink.awaited("control");
        }
    });
}

#[test]
fn without_egress_nothing_gets_out() {
    isolated!(|| {
        let node = Node::new();
        for family in families() {
            node.pod.send(&datagram(family.pod, family.internet, "bare"));
            assert_eq!(
                node.uplink.seen("bare").unwrap().source,
                family.pod,
                "leaks as long as there is no guard"
            );
        }
        guard::ensure(&guard_config()).unwrap();
        for family in families() {
            drops_one("leaving", family, || node.pod.send(&datagram(family.pod, family.internet, "guarded")));
            assert_eq!(node.uplink.seen("guarded"), None);
        }
    });
}

#[test]
fn nobody_outside_speaks_to_or_as_a_pod() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            let intruders = [
                datagram(family.internet, family.pod, "to-pod"),
                datagram(family.member, family.pod, "member-to-pod"),
                datagram(family.remote_pod, family.pod, "as-pod"),
                datagram(family.remote_pod, family.node, "as-pod-to-node"),
                datagram(family.internet, family.fabric, "to-fabric"),
                datagram(family.internet, family.service, "to-service"),
                datagram(family.internet, family.remote_pod, "through"),
                // A trusted range does not open the cluster's own.
                datagram(family.trusted, family.service, "trusted-to-service"),
            ];
            for packet in intruders {
                drops_one("arriving", family, || node.uplink.send(&packet));
            }
            assert_eq!((node.pod.sent(), node.tunnel.sent()), (vec![], vec![]));
            let host = UdpSocket::bind((family.node, PORT)).unwrap();
            node.uplink.send(&datagram(family.internet, family.node, "control"));
            hears(&host, "control");
        }
    });
}

#[test]
fn trusted_sources_speak_to_pods_both_ways() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node.uplink.send(&datagram(family.trusted, family.pod, "request"));
            assert_eq!(node.pod.seen("request").unwrap().source, family.trusted);
            node.pod.send(&datagram(family.pod, family.trusted, "reply"));
            assert_eq!(node.uplink.seen("reply").unwrap().source, family.pod);
            // An error about it, from the node itself, quotes the pod and may.
            node.uplink.send(&dying(family.trusted, family.pod, [PORT, PORT], "dying"));
            let error = node.uplink.awaited("dying").quoted().unwrap();
            assert_eq!(error.destination, family.pod);
        }
        assert!(dropped().values().all(|packets| *packets == 0), "{:?}", dropped());
    });
}

/// The kernel redirects whoever sends a packet that leaves by the device that it came by.
#[test]
fn redirects_about_pods_do_not_leave() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node_port(family, family.remote_pod);
            node.tunnel.send(&datagram(family.member, family.node, "hairpin"));
            assert_eq!(node.tunnel.seen("hairpin").unwrap().destination, family.remote_pod);
            assert_eq!(node.uplink.sent(), []);
        }
        assert_eq!(dropped()["leaving6-quoted"], 1, "IPv6 has no switch for sending redirects");
    });
}

#[test]
fn a_node_ports_client_is_served() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node_port(family, family.pod);
            node.uplink.send(&datagram(family.internet, family.node, "request"));
            assert_eq!(node.pod.seen("request").unwrap().source, family.internet);
            node.pod.send(&datagram(family.pod, family.internet, "reply"));
            assert_eq!(node.uplink.seen("reply").unwrap().source, family.node);
        }
        assert!(dropped().values().all(|packets| *packets == 0), "{:?}", dropped());
    });
}

/// The kernel quotes the packet as the client sent it, even when it knows the connection only by this first packet.
#[test]
fn errors_about_a_pod_that_is_gone_do_not_name_it() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            node_port(family, family.absent_pod);
            node.apply(Route::unreachable(family.absent_pod).replace());
            node.uplink.send(&datagram(family.internet, family.node, "gone"));
            let error = node.uplink.awaited("gone");
            assert_eq!((error.source, error.quoted().unwrap().destination), (family.node, family.node));
        }
    });
}

/// An ICMP error from the node's own hands, quoting `quoted`.
fn own_error(family: Addresses, quoted: &[u8]) {
    let whole = unreachable(family.node, family.internet, quoted);
    let (domain, protocol, message) = match family.node {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, &whole[20..]),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, &whole[40..]),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    let _ = socket.send_to(message, &SocketAddr::new(family.internet, 0).into());
}

#[test]
fn errors_that_quote_a_pod_do_not_leave() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            for (from, to) in [(family.pod, family.internet), (family.internet, family.service)] {
                let quoted = datagram(from, to, "quoted");
                drops_one("leaving-quoted", family, || own_error(family, &quoted));
                assert_eq!(node.uplink.seen("quoted"), None);
            }
            own_error(family, &datagram(family.node, family.internet, "control"));
            node.uplink.awaited("control");
        }
    });
}

#[test]
fn forged_errors_about_pods_do_not_arrive() {
    isolated!(|| {
        let node = Node::guarded();
        for family in families() {
            for (from, to) in [(family.fabric, family.remote_pod), (family.remote_pod, family.pod)] {
                let forged = unreachable(family.internet, family.node, &datagram(from, to, "quoted"));
                drops_one("arriving-quoted", family, || node.uplink.send(&forged));
            }
            let before = dropped();
            let honest =
                unreachable(family.internet, family.node, &datagram(family.node, family.internet, "quoted"));
            node.uplink.send(&honest);
            assert_eq!(dropped(), before);
        }
    });
}

#[test]
fn mapped_addresses_are_pods_too() {
    isolated!(|| {
        let node = Node::guarded();
        let [v4, v6] = families();
        let IpAddr::V4(remote) = v4.remote_pod else { panic!("the first family is IPv4") };
        let packet = datagram(v6.pod, remote.to_ipv6_mapped().into(), "mapped");
        drops_one("leaving", v6, || node.pod.send(&packet));
        assert_eq!(node.uplink.seen("mapped"), None);
    });
}

#[test]
fn ensuring_twice_changes_nothing_and_keeps_the_counts() {
    isolated!(|| {
        let node = Node::guarded();
        let family = families()[0];
        drops_one("arriving", family, || node.uplink.send(&datagram(family.internet, family.pod, "x")));
        assert!(guard::ensure(&guard_config()).unwrap().is_empty());
        let mut wider = guard_config();
        wider.service_cidrs.push("100.64.0.0/10".parse().unwrap());
        assert!(guard::is_right(&guard_config()).unwrap() && !guard::is_right(&wider).unwrap());
        assert!(!guard::ensure(&wider).unwrap().is_empty());
        assert_eq!(dropped()["arriving4"], 1);
    });
}
