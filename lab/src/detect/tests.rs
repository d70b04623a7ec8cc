//! Every way to hide an address that we know, nested at random, has to be found; random frames must not be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{Detector, What};

const CANARY: &[u8] = b"canary-0123456789abcdef";

fn detector() -> Detector {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
    Detector::new(
        &nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        &nets(&["10.96.0.0/16", "fd00:10:96::/112"]),
        CANARY,
    )
}

/// A packet and the EtherType and IP protocol that announce it.
#[derive(Clone, Debug)]
struct Packet {
    bytes: Vec<u8>,
    ether: u16,
    protocol: u8,
}

/// The layers, from [`crate::packet`], as this test needs them.
mod build {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::Packet;
    use crate::packet;

    pub(super) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Packet {
        let bytes = packet::ipv4(source, destination, protocol, payload);
        Packet { bytes, ether: packet::IPV4, protocol: 4 }
    }

    pub(super) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Packet {
        let bytes = packet::ipv6(source, destination, protocol, 64, payload);
        Packet { bytes, ether: packet::IPV6, protocol: 41 }
    }

    pub(super) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let fields = [from, to, length, 0];
        fields.iter().flat_map(|field| field.to_be_bytes()).chain(payload.iter().copied()).collect()
    }

    pub(super) fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
        packet::ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], kind, payload)
    }
}

const NODE4: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 31, 1, 2), Ipv4Addr::new(172, 31, 2, 2)];
const NODE6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x172, 0x31, 1, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 0x172, 0x31, 2, 0, 0, 0, 2)];

/// Wraps `inner` in one more encapsulation between nodes, chosen by `how`.
fn wrap(how: u8, inner: &Packet) -> Packet {
    let over = |v6: bool, protocol: u8, payload: &[u8]| match v6 {
        true => build::ipv6(NODE6[0], NODE6[1], protocol, payload),
        false => build::ipv4(NODE4[0], NODE4[1], protocol, payload),
    };
    let frame = build::ethernet(inner.ether, &inner.bytes);
    let behind = |head: &[u8], rest: &[u8]| [head, rest].concat();
    let v6 = how & 1 == 1;
    match how / 2 % 12 {
        0 => over(v6, inner.protocol, &inner.bytes),
        1 => over(v6, 47, &behind(&[&[0, 0], &inner.ether.to_be_bytes()[..]].concat(), &inner.bytes)),
        2 => over(v6, 47, &behind(&[0xb0, 0, 0x65, 0x58, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2], &frame)),
        3 => over(v6, 17, &build::udp(40000, 4789, &behind(&[8, 0, 0, 0, 0, 0, 1, 0], &frame))),
        4 => over(
            v6,
            17,
            &build::udp(40000, 6081, &behind(&[1, 0, 0x65, 0x58, 0, 0, 1, 0, 0, 0, 0, 0], &frame)),
        ),
        5 if v6 => over(true, 58, &behind(&[1, 4, 0, 0, 0, 0, 0, 0], &inner.bytes)),
        5 => over(false, 1, &behind(&[3, 4, 0, 0, 0, 0, 5, 0xdc], &inner.bytes)),
        6 => over(true, 0, &behind(&[inner.protocol, 0, 1, 4, 0, 0, 0, 0], &inner.bytes)),
        7 => over(true, 44, &behind(&[inner.protocol, 0, 0, 1, 0, 0, 0, 9], &inner.bytes)),
        8 => over(v6, 17, &build::udp(40000, 8472, &behind(&[8, 0, 0, 0, 0, 0, 1, 0], &frame))),
        9 => over(v6, 97, &behind(&[0x30, 0], &frame)),
        10 => over(v6, 51, &behind(&[inner.protocol, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &inner.bytes)),
        // An encapsulation that nobody knows: only the search at any offset sees through it.
        _ => over(v6, 17, &build::udp(40000, 7, &behind(&[0xde, 0xad, 0xbe], &inner.bytes))),
    }
}

fn on_wire(vlans: u8, packet: &Packet) -> Vec<u8> {
    let mut payload = packet.bytes.clone();
    let mut kind = packet.ether;
    for tag in 0..vlans {
        payload = [&[0, tag][..], &kind.to_be_bytes(), &payload].concat();
        kind = 0x8100;
    }
    build::ethernet(kind, &payload)
}

fn clean_payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

fn cluster_address(v6: bool, service: bool) -> BoxedStrategy<IpAddr> {
    match (v6, service) {
        (false, false) => any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([10, 244, a, b])).boxed(),
        (false, true) => any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([10, 96, a, b])).boxed(),
        (true, false) => (any::<u8>(), any::<u64>())
            .prop_map(|(net, host)| {
                let mut octets = [0xfd, 0, 0, 0x10, 2, 0x44, 0, net, 0, 0, 0, 0, 0, 0, 0, 0];
                octets[8..].copy_from_slice(&host.to_be_bytes());
                IpAddr::from(octets)
            })
            .boxed(),
        (true, true) => {
            any::<u16>().prop_map(|n| IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, n))).boxed()
        }
    }
}

/// A packet with `address` as its source or destination, the other end being a node.
fn leaked(address: IpAddr, as_source: bool, payload: &[u8]) -> Packet {
    let datagram = build::udp(1000, 2000, payload);
    match (address, as_source) {
        (IpAddr::V4(a), true) => build::ipv4(a, NODE4[1], 17, &datagram),
        (IpAddr::V4(a), false) => build::ipv4(NODE4[0], a, 17, &datagram),
        (IpAddr::V6(a), true) => build::ipv6(a, NODE6[1], 17, &datagram),
        (IpAddr::V6(a), false) => build::ipv6(NODE6[0], a, 17, &datagram),
    }
}

proptest! {
    #[test]
    fn a_cluster_address_is_found_behind_any_nesting(
        (v6, service, address) in any::<(bool, bool)>()
            .prop_flat_map(|(v6, service)| (Just(v6), Just(service), cluster_address(v6, service))),
        as_source: bool,
        payload in clean_payload(),
        layers in prop::collection::vec(any::<u8>(), 0..4),
        vlans in 0..3_u8,
    ) {
        let packet = layers.iter().fold(leaked(address, as_source, &payload), |inner, how| wrap(*how, &inner));
        let found = detector().inspect(&on_wire(vlans, &packet));
        let found = found.ok_or_else(|| TestCaseError::fail(format!("missed {address} (v6 {v6}) behind {layers:?}")))?;
        prop_assert_eq!(found.what, if service { What::Service } else { What::Pod });
        prop_assert_eq!(found.address, Some(address));
    }

    #[test]
    fn the_canary_is_found_at_any_offset(before in clean_payload(), after in clean_payload()) {
        let payload = [&before[..], CANARY, &after].concat();
        let packet = build::ipv4(NODE4[0], NODE4[1], 17, &build::udp(1, 2, &payload));
        prop_assert_eq!(detector().inspect(&on_wire(0, &packet)).map(|f| f.what), Some(What::Canary));
    }

    #[test]
    fn frames_between_nodes_are_clean(payload in clean_payload(), layers in prop::collection::vec(any::<u8>(), 0..5)) {
        let plain = build::ipv4(NODE4[0], NODE4[1], 17, &build::udp(51830, 51830, &payload));
        let packet = layers.iter().fold(plain, |inner, how| wrap(*how, &inner));
        prop_assert_eq!(detector().inspect(&on_wire(0, &packet)), None);
    }

    #[test]
    fn any_bytes_are_survived(frame in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = detector().inspect(&frame);
    }

    /// Cut or damaged frames take every branch with short input.
    #[test]
    fn damaged_frames_are_survived(
        layers in prop::collection::vec(any::<u8>(), 0..5),
        cut in 0..400_usize,
        damage in prop::collection::vec((0..400_usize, any::<u8>()), 0..4),
    ) {
        let plain = build::ipv6(NODE6[0], NODE6[1], 58, &[135, 0, 0, 0, 0, 0, 0, 0]);
        let mut frame = on_wire(1, &layers.iter().fold(plain, |inner, how| wrap(*how, &inner)));
        frame.truncate(cut);
        for (at, byte) in damage {
            if let Some(there) = frame.get_mut(at) {
                *there = byte;
            }
        }
        let _ = detector().inspect(&frame);
    }
}

fn place_of(frame: &[u8]) -> String {
    detector().inspect(frame).expect("found").to_string()
}

#[test]
fn arp_for_a_pod_is_found() {
    let mut arp =
        vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 172, 31, 1, 2, 0, 0, 0, 0, 0, 0, 10, 244, 1, 9];
    let place = place_of(&build::ethernet(0x0806, &arp));
    assert_eq!(place, "pod address 10.244.1.9 in ARP target");
    arp[24..28].copy_from_slice(&[172, 31, 1, 1]);
    assert_eq!(detector().inspect(&build::ethernet(0x0806, &arp)), None);
}

#[test]
fn neighbour_discovery_for_a_pod_is_found() {
    let pod = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 9);
    for kind in [135, 136] {
        let message = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &pod.octets()].concat();
        let packet = build::ipv6(NODE6[0], NODE6[1], 58, &message);
        assert_eq!(place_of(&on_wire(0, &packet)), format!("pod address {pod} in IPv6 > ICMPv6 neighbour"));
    }
}

#[test]
fn a_router_advertisement_of_pod_prefixes_is_found() {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    message.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    message.extend([3, 4, 64, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    message.extend(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 0).octets());
    let place = place_of(&on_wire(0, &build::ipv6(NODE6[0], NODE6[1], 58, &message)));
    assert!(place.ends_with("announced prefix"), "{place}");
}

#[test]
fn a_source_route_through_a_pod_is_found() {
    let mut packet = build::ipv4(NODE4[0], NODE4[1], 17, &[131, 7, 4, 10, 244, 1, 9, 0]);
    packet.bytes[0] = 0x47;
    assert_eq!(place_of(&on_wire(0, &packet)), "pod address 10.244.1.9 in IPv4 option");
}

#[test]
fn a_quote_whose_header_is_damaged_is_still_found() {
    let mut quoted = build::ipv4(Ipv4Addr::new(10, 244, 1, 9), NODE4[1], 6, &[0; 8]).bytes;
    quoted[10] ^= 0xff;
    let message = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    let packet = build::ipv4(NODE4[0], NODE4[1], 1, &message);
    assert_eq!(place_of(&on_wire(0, &packet)), "pod address 10.244.1.9 in IPv4 > ICMP > quote > IPv4 source");
}

/// WireGuard datagrams are random bytes: 64 MiB of them must not look like a leak.
#[test]
fn random_bytes_are_no_leak() {
    let detector = detector();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut payload = vec![0_u8; 1 << 20];
    for _ in 0..16 {
        for chunk in payload.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        assert_eq!(detector.inspect(&build::ethernet(0x88b5, &payload)), None);
    }
}

#[test]
fn only_plain_packets_between_pods_and_trusted_addresses_pass() {
    let (trusted, other) = (Ipv4Addr::new(172, 31, 251, 2), NODE4[0]);
    let (pod, service) = (Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 96, 0, 1));
    let detector = detector().trusting(vec![trusted.into()]);
    let seen = |from, to| {
        let packet = build::ipv4(from, to, 17, &build::udp(1, 2, b"anything"));
        detector.inspect(&build::ethernet(packet.ether, &packet.bytes)).is_some()
    };
    assert!(!seen(trusted, pod) && !seen(pod, trusted));
    assert!(seen(other, pod) && seen(pod, other) && seen(pod, pod));
    assert!(seen(trusted, service), "a Service's address is nobody's outside");
    let inner = build::ipv4(pod, trusted, 17, &build::udp(1, 2, b"anything"));
    let outer = build::ipv4(trusted, other, inner.protocol, &inner.bytes);
    assert!(detector.inspect(&build::ethernet(outer.ether, &outer.bytes)).is_some(), "nothing around it");
}
