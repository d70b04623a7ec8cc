//! A pod that lies about who it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use selvedge::kernel::mac::Mac;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Family};
use selvedge::pod::gateway::BRIDGE_MAC;
use selvedge::pod::node::Datapath;
use selvedge::pod::repair;
use selvedge::pod::spoof::FAMILIES;
use selvedge_lab::packet::{self, ARP, IPV4, IPV6};
use selvedge_lab::stop::StopOnDrop;
use selvedge_lab::wire::Wire;

use crate::node::{Node, Pod, block_on, in_both, node, node_in, soon, tcp, udp};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OUTSIDE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// At the end of each forged frame that has room for it.
const FORGED: &[u8] = b"a forged frame";
const HONEST: &[u8] = b"an honest frame";

/// Who is who.
pub(crate) struct Cast {
    pub(crate) own: (Mac, Ipv4Addr, Ipv6Addr),
    victim: (Mac, Ipv4Addr, Ipv6Addr),
    gateway: (Mac, Ipv4Addr, Ipv6Addr),
}

impl Cast {
    pub(crate) fn new(node: &Node, own: &Pod, victim: &Pod) -> Self {
        let v4 = |address| if let IpAddr::V4(address) = address { address } else { panic!() };
        let v6 = |address| if let IpAddr::V6(address) = address { address } else { panic!() };
        let of = |pod: &Pod| (pod.ethernet_address(), v4(pod.address(false)), v6(pod.address(true)));
        let fabric = |ipv6| node.info.fabric(ipv6).unwrap();
        let gateway = (BRIDGE_MAC, v4(fabric(false)), v6(fabric(true)));
        Self { own: of(own), victim: of(victim), gateway }
    }

    fn frame(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        packet::ethernet(BRIDGE_MAC.0, self.own.0.0, kind, payload)
    }

    fn udp(&self, source: impl Into<IpAddr>, destination: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
        packet::udp(source.into(), destination.into(), [7, 7], payload)
    }

    /// One that passes, to the victim.
    pub(crate) fn honest(&self) -> Vec<u8> {
        self.frame(IPV4, &self.udp(self.own.1, self.victim.1, HONEST))
    }

    /// A neighbour advertisement that overrides: `target` is at our address.
    fn claim(&self, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
        let body = [&[0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &self.own.0.0, FORGED].concat();
        packet::icmpv6(source, ALL_NODES, 136, 255, &body)
    }

    /// A router advertisement: use us for everything.
    fn router(&self, source: Ipv6Addr) -> Vec<u8> {
        let body = [&[64, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0][..], &[1, 1], &self.own.0.0, FORGED].concat();
        packet::icmpv6(source, ALL_NODES, 134, 255, &body)
    }

    /// A router advertisement behind an empty hop-by-hop header.
    fn hidden_router(&self) -> Vec<u8> {
        let plain = self.router(self.own.0.link_local());
        let behind = [&[58, 0, 1, 4, 0, 0, 0, 0][..], &plain[40..]].concat();
        packet::ipv6(self.own.0.link_local(), ALL_NODES, 0, 255, &behind)
    }

    fn arp(&self, sender: (Mac, Ipv4Addr), operation: u16) -> Vec<u8> {
        let target = (self.gateway.0.0, self.gateway.1);
        [packet::arp(operation, (sender.0.0, sender.1), target), FORGED.to_vec()].concat()
    }

    /// Forged frames, each with the counter that has to count it.
    pub(crate) fn forged(&self) -> Vec<(&'static str, Vec<u8>)> {
        let (mac, v4, v6) = self.own;
        let frame = |kind, payload: &[u8]| self.frame(kind, payload);
        let other_mac = |kind, payload: &[u8]| packet::ethernet(BRIDGE_MAC.0, self.victim.0.0, kind, payload);
        let vlan = |kind: u16, payload: &[u8]| [&[0, 5][..], &kind.to_be_bytes(), payload].concat();
        let honest4 = self.udp(v4, self.gateway.1, FORGED);
        let honest6 = self.udp(v6, self.gateway.2, FORGED);
        vec![
            ("spoofed-ipv4", frame(IPV4, &self.udp(self.victim.1, self.gateway.1, FORGED))),
            ("spoofed-ipv4", frame(IPV4, &self.udp(OUTSIDE4, self.victim.1, FORGED))),
            ("spoofed-ipv4", frame(IPV4, &self.udp(self.gateway.1, self.victim.1, FORGED))),
            ("spoofed-ipv6", frame(IPV6, &self.udp(self.victim.2, self.gateway.2, FORGED))),
            ("spoofed-ipv6", frame(IPV6, &self.udp(OUTSIDE6, self.victim.2, FORGED))),
            ("spoofed-ipv6", frame(IPV6, &self.udp(mac.link_local(), self.gateway.2, FORGED))),
            ("spoofed-mac", other_mac(IPV4, &honest4)),
            ("spoofed-mac", other_mac(IPV6, &honest6)),
            ("spoofed-mac", other_mac(ARP, &self.arp((self.victim.0, self.victim.1), 2))),
            ("spoofed-arp", frame(ARP, &self.arp((mac, self.victim.1), 2))),
            ("spoofed-arp", frame(ARP, &self.arp((mac, self.gateway.1), 1))),
            ("spoofed-arp", frame(ARP, &self.arp((self.victim.0, v4), 2))),
            ("spoofed-nd", frame(IPV6, &self.claim(v6, self.victim.2))),
            ("spoofed-nd", frame(IPV6, &self.claim(self.victim.2, self.victim.2))),
            ("spoofed-nd", frame(IPV6, &self.claim(mac.link_local(), self.gateway.2))),
            ("router-advertisement", frame(IPV6, &self.router(mac.link_local()))),
            ("router-advertisement", frame(IPV6, &self.router(v6))),
            ("router-advertisement", frame(IPV6, &self.hidden_router())),
            ("other-ethertype", frame(0x8100, &vlan(IPV4, &honest4))),
            ("other-ethertype", frame(0x88a8, &vlan(IPV6, &honest6))),
            ("other-ethertype", frame(0x88cc, FORGED)),
            ("other-ethertype", frame(0x0026, &[&[0x42, 0x42, 3, 0, 0, 0, 0][..], FORGED].concat())),
        ]
    }
}

/// Counted by this name, wherever the rules are.
pub(crate) fn count(name: &str) -> u64 {
    let counters = |family| nft::counters(family, "selvedge-ports").unwrap();
    Family::ALL.map(|family| counters(family).get(name).map_or(0, |counter| counter.packets)).iter().sum()
}

#[test]
fn no_forged_frame_gets_past_a_port_without_bridge() {
    selvedge_lab::isolated!(|| {
        let node = node_in(Datapath::Routed);
        let (attacker, victim) = (node.add("attacker"), node.add("victim"));
        let cast = Cast::new(&node, &attacker, &victim);
        let wire = Wire::open(&attacker.netns, "eth0").unwrap();
        let other = Wire::open(&victim.netns, "eth0").unwrap();
        for (number, (counter, frame)) in cast.forged().into_iter().enumerate() {
            let before = count(counter);
            wire.send(&frame).unwrap();
            assert_eq!(count(counter), before + 1, "frame {number} is not in {counter}: {frame:x?}");
        }
        for honest in [
            cast.frame(IPV4, &cast.udp(cast.own.1, cast.victim.1, HONEST)),
            cast.frame(IPV6, &cast.udp(cast.own.2, cast.victim.2, HONEST)),
        ] {
            wire.send(&honest).unwrap();
            only_honest(&other);
        }
        for ipv6 in [false, true] {
            assert_eq!(tcp(&victim.netns, &attacker.netns, attacker.address(ipv6)), victim.address(ipv6));
        }
    });
}

#[test]
fn no_forged_frame_gets_past_the_port() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (attacker, victim) = (node.add("attacker"), node.add("victim"));
        let cast = Cast::new(&node, &attacker, &victim);
        let wire = Wire::open(&attacker.netns, "eth0").unwrap();
        // What the node's IP stack is handed, and what the victim gets.
        let stack = Wire::open(&NetNs::current().unwrap(), "selvedge-br").unwrap();
        let other = Wire::open(&victim.netns, "eth0").unwrap();
        for (number, (counter, frame)) in cast.forged().into_iter().enumerate() {
            let before = count(counter);
            wire.send(&frame).unwrap();
            assert_eq!(count(counter), before + 1, "frame {number} is not in {counter}: {frame:x?}");
        }
        let honest4 = cast.frame(IPV4, &cast.udp(cast.own.1, cast.victim.1, HONEST));
        let honest6 = cast.frame(IPV6, &cast.udp(cast.own.2, cast.victim.2, HONEST));
        for honest in [honest4, honest6] {
            wire.send(&honest).unwrap();
            for seen in [&stack, &other] {
                only_honest(seen);
            }
        }
        for ipv6 in [false, true] {
            assert_eq!(tcp(&victim.netns, &attacker.netns, attacker.address(ipv6)), victim.address(ipv6));
        }
    });
}

/// Frames arrive in order, so what was forged would come before this honest one.
pub(crate) fn only_honest(wire: &Wire) {
    let deadline = soon();
    loop {
        let frame = wire.receive(deadline).unwrap().expect("the honest frame did not arrive");
        assert!(!frame.windows(FORGED.len()).any(|part| part == FORGED), "a forged frame passed: {frame:x?}");
        if frame.ends_with(HONEST) {
            return;
        }
    }
}

#[test]
fn what_a_pod_says_of_itself_passes() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let (own, other) = (node.add("own"), node.add("other"));
        let cast = Cast::new(&node, &own, &other);
        let wire = Wire::open(&own.netns, "eth0").unwrap();
        let stack = Wire::open(&NetNs::current().unwrap(), "selvedge-br").unwrap();
        let link_local = cast.own.0.link_local();
        for (what, frame) in [
            ("ARP request", cast.frame(ARP, &cast.arp((cast.own.0, cast.own.1), 1))),
            ("ARP reply", cast.frame(ARP, &cast.arp((cast.own.0, cast.own.1), 2))),
            ("advertisement", cast.frame(IPV6, &cast.claim(cast.own.2, cast.own.2))),
            ("link-local advertisement", cast.frame(IPV6, &cast.claim(link_local, link_local))),
            ("IPv4", cast.frame(IPV4, &cast.udp(cast.own.1, cast.gateway.1, FORGED))),
            ("IPv6", cast.frame(IPV6, &cast.udp(cast.own.2, cast.gateway.2, FORGED))),
        ] {
            wire.send(&frame).unwrap();
            let same = |seen: &[u8]| seen == frame;
            assert!(stack.find(soon(), same).unwrap().is_some(), "{what} did not pass");
        }
    });
}

#[test]
fn the_rules_are_there_before_the_port_forwards() {
    selvedge_lab::isolated!(|| {
        let node = node();
        let victim = node.add("victim");
        let attacker = Pod::unconnected("attacker");
        let stack = Wire::open(&NetNs::current().unwrap(), "selvedge-br").unwrap();
        let cast = Cast::new(&node, &node.add("model"), &victim);
        // It sends forged frames from before its interface is there, and until ADD is done.
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (done, attacker, cast) = (&done, &attacker, &cast);
            let stop = StopOnDrop(done);
            let sender = scope.spawn(move || {
                let mut sent = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let Ok(wire) = Wire::open(&attacker.netns, "eth0") else { continue };
                    let lie = cast.udp(cast.victim.1, cast.gateway.1, FORGED);
                    let frame = packet::ethernet(BRIDGE_MAC.0, attacker.ethernet_address().0, IPV4, &lie);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        sent += u64::from(wire.send(&frame).is_ok());
                    }
                }
                sent
            });
            let said = node.call("ADD", attacker, &node.config);
            assert!(said.success, "{said:?}");
            let before = count("spoofed-ipv4");
            let deadline = soon();
            while count("spoofed-ipv4") < before + 10 {
                assert!(std::time::Instant::now() < deadline, "no forged frame was sent and counted");
            }
            drop(stop);
            assert!(sender.join().unwrap() > 0);
        });
        let wire = Wire::open(&victim.netns, "eth0").unwrap();
        wire.send(&packet::ethernet(
            BRIDGE_MAC.0,
            victim.ethernet_address().0,
            IPV4,
            &cast.udp(cast.victim.1, cast.gateway.1, HONEST),
        ))
        .unwrap();
        only_honest(&stack);
    });
}

in_both!(an_add_after_a_flush_cuts_off_no_other_pod, |node: Node| {
    let (a, b) = (node.add("a"), node.add("b"));
    for family in FAMILIES {
        nft::delete(family, "selvedge-ports").unwrap();
    }
    let c = node.add("c");
    for pods in [[&a, &b], [&b, &c], [&c, &a]] {
        for ipv6 in [false, true] {
            assert_eq!(tcp(&pods[0].netns, &pods[1].netns, pods[1].address(ipv6)), pods[0].address(ipv6));
        }
    }
    for pod in [&a, &b, &c] {
        assert!(node.check(pod).success, "{:?}", node.check(pod));
    }
});

in_both!(a_port_without_rules_passes_nothing, |node: Node| {
    let (pod, other) = (node.add("a"), node.add("b"));
    let patience = Duration::from_millis(300);
    let sends = || [false, true].map(|ipv6| udp(&pod.netns, &other.netns, other.address(ipv6), patience));
    assert_eq!(sends(), [true, true]);
    for family in FAMILIES {
        if nft::chain_names(family, "selvedge-ports").unwrap().contains(&pod.port()) {
            let mut update = nft::Update::new(family, "selvedge-ports");
            update.delete("ports", nft::padded(&pod.port()));
            nft::Connection::open().unwrap().update(&update).unwrap();
        }
    }
    let before = count("unknown-port");
    assert_eq!(sends(), [false, false]);
    assert!(count("unknown-port") >= before + 2);
    block_on(async { repair(&Netlink::new().unwrap(), &node.paths, &node.info).await.unwrap() });
    assert_eq!(sends(), [true, true]);
});
