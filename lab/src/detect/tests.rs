//! Every way to hide an address that we know, nested at random, has to be found; random frames must not be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::search::{self, Filter};
use super::{Detector, Finding, Given, Sighting, What};

const CANARY: &[u8] = b"canary-0123456789abcdef";

fn detector() -> Detector {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>();
    Detector::new(
        &nets(&["10.244.0.0/16", "fd00:10:244::/56"]),
        &nets(&["10.96.0.0/16", "fd00:10:96::/112"]),
        CANARY,
    )
}

/// A leak that needs no second look.
fn leak(frame: &[u8]) -> Option<Finding> {
    match detector().inspect(frame) {
        Some(Sighting::Leak(finding)) => Some(finding),
        _ => None,
    }
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
        let found = leak(&on_wire(vlans, &packet));
        let found = found.ok_or_else(|| TestCaseError::fail(format!("missed {address} (v6 {v6}) behind {layers:?}")))?;
        prop_assert_eq!(found.what, if service { What::Service } else { What::Pod });
        prop_assert_eq!(found.address, Some(address));
    }

    #[test]
    fn the_canary_is_found_at_any_offset(before in clean_payload(), after in clean_payload()) {
        let payload = [&before[..], CANARY, &after].concat();
        let packet = build::ipv4(NODE4[0], NODE4[1], 17, &build::udp(1, 2, &payload));
        prop_assert_eq!(leak(&on_wire(0, &packet)).map(|found| found.what), Some(What::Canary));
    }

    #[test]
    fn a_packet_in_a_message_is_found_at_any_offset(
        address in any::<bool>().prop_flat_map(|v6| cluster_address(v6, false)),
        outer_v6: bool,
        as_source: bool,
        payload in clean_payload(),
        before in prop::collection::vec(0x80..0xff_u8, 0..40),
        after in prop::collection::vec(0x80..0xff_u8, 0..40),
    ) {
        let inner = leaked(address, as_source, &payload);
        let content = [&before[..], &inner.bytes, &after].concat();
        let sighting = detector().inspect(&on_wire(0, &tunnelled(outer_v6, &message(&content))));
        let given = Given::default();
        given.add([address]);
        prop_assert!(sighting.as_ref().is_some_and(|sighting| sighting.is_leak(&given)), "{sighting:?}");
    }

    #[test]
    fn the_canary_is_found_in_a_message(before in clean_payload(), after in clean_payload()) {
        let content = [&before[..], CANARY, &after].concat();
        let found = leak(&on_wire(0, &tunnelled(false, &message(&content))));
        prop_assert_eq!(found.map(|found| found.what), Some(What::Canary));
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
    leak(frame).expect("found").to_string()
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

/// Random bytes that are the same in every run (xorshift).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

/// 16 MiB of random bytes must not look like a leak, wherever they are.
#[test]
fn random_bytes_are_no_leak() {
    let (detector, mut noise) = (detector(), Noise(0x9e37_79b9_7f4a_7c15));
    let mut payload = vec![0_u8; 1 << 20];
    for _ in 0..16 {
        noise.fill(&mut payload);
        assert_eq!(detector.inspect(&build::ethernet(0x88b5, &payload)), None);
    }
}

/// The formula of the false alarms, with conditions so relaxed that chance meets them often enough to be counted.
#[test]
fn chance_meets_the_filter_as_often_as_predicted() {
    const BYTES: usize = 24 << 20;
    let mut bytes = vec![0; BYTES];
    Noise(0x2545_f491_4f6c_dd1d).fill(&mut bytes);
    let used = Filter::USED;
    let any = Filter { protocols: Vec::leak((0..=255).collect()), longest: u16::MAX, checksum: 0 };
    // Each condition of the filter in use is in one of these as it is, and each bit of the checksum.
    let relaxed = [
        (Filter { checksum: 0x0001, ..used }, "0.0.0.0/0"),
        (Filter { checksum: 0x001f, longest: u16::MAX, ..used }, "0.0.0.0/2"),
        (Filter { checksum: 0xf80f, ..any }, "0.0.0.0/0"),
        (Filter { checksum: 0x0ff0, ..any }, "0.0.0.0/0"),
        (any, "10.0.0.0/9"),
    ];
    for (filter, range) in relaxed {
        let range: ipnet::IpNet = range.parse().unwrap();
        let ranges = super::Ranges { pods: vec![range], services: vec![] };
        let found = search::ipv4(&bytes, &ranges, &filter);
        let found = found.filter(|header| header.fits(BYTES, &filter)).count() as f64;
        let addresses = 1_u64 << (32 - range.prefix_len());
        let predicted = filter.chance(addresses) * BYTES as f64;
        println!("addresses of {range}: {found} found, {predicted:.1} predicted");
        assert!(predicted > 50.0, "too few to tell: {predicted}");
        assert!((found - predicted).abs() < 5.0 * predicted.sqrt(), "{found} found, {predicted} predicted");
    }
}

#[test]
fn false_alarms_are_below_one_run_in_a_million() {
    const OFFSETS: f64 = 1e10;
    let somebody = |addresses| Filter::USED.chance(addresses) * OFFSETS;
    assert!(somebody(1700) < 1e-6, "{}", somebody(1700));
    // A real Kubernetes counts all addresses of its nodes' pod CIDRs as somebody's.
    assert!(somebody(3 * 256 + 16) < 5e-7, "{}", somebody(3 * 256 + 16));
    // Two of nobody's, and the ICMP error that quotes one of them.
    let nobody = Filter::USED.chance(2 << 16) * OFFSETS;
    assert!(nobody < 1e-4 && nobody * nobody / 2.0 < 1e-8, "{nobody}");
}

/// A UDP datagram between tunnels.
fn tunnelled(v6: bool, payload: &[u8]) -> Packet {
    let datagram = build::udp(51830, 51830, payload);
    match v6 {
        true => build::ipv6(NODE6[0], NODE6[1], 17, &datagram),
        false => build::ipv4(NODE4[0], NODE4[1], 17, &datagram),
    }
}

/// A WireGuard transport message that has `content` for its ciphertext.
fn message(content: &[u8]) -> Vec<u8> {
    [&[4, 0, 0, 0, 0xa1, 0xb2, 0xc3, 0xd4, 9, 0, 0, 0, 0, 0, 0, 0][..], content].concat()
}

fn names(sighting: Option<Sighting>) -> Vec<IpAddr> {
    match sighting {
        Some(Sighting::Lookalike(named)) => named.into_iter().filter_map(|finding| finding.address).collect(),
        other => panic!("no look-alike: {other:?}"),
    }
}

/// As it was met on a link: the ciphertext holds a header at its end, which announces more than there is.
#[test]
fn ciphertext_that_looks_like_a_header_is_no_leak() {
    let mut header = build::ipv4(Ipv4Addr::new(10, 244, 244, 61), NODE4[1], 17, &[0; 200]).bytes;
    header.truncate(20);
    let content = [vec![0xee; 1402], header].concat();
    let frame = on_wire(0, &tunnelled(false, &message(&content)));
    assert!(frame.windows(2).skip(1460).any(|pair| pair == [0x45, 0]));
    assert_eq!(detector().inspect(&frame), None);
    // In the clear the same is a leak.
    let clear = on_wire(0, &tunnelled(false, &[&[9; 16][..], &content].concat()));
    assert_eq!(leak(&clear).map(|found| found.what), Some(What::Pod));
}

#[test]
fn a_packet_where_ciphertext_should_be_is_judged_by_whom_it_names() {
    let (pod, nobody) = (Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 200, 5));
    let inner = build::ipv4(nobody, pod, 17, &build::udp(1, 2, b"anything"));
    let sighting = detector().inspect(&on_wire(0, &tunnelled(false, &message(&inner.bytes)))).unwrap();
    let given = Given::default();
    assert!(!sighting.is_leak(&given));
    given.add([IpAddr::from(pod)]);
    assert!(sighting.is_leak(&given));
    let finding = sighting.into_finding(&given).unwrap();
    assert_eq!(finding.address, Some(pod.into()), "whoever it was given to");
    assert!(finding.place.contains("where ciphertext should be"), "{finding}");
}

/// A device that segments hands the capture many messages in one frame. Each has an end of its own.
#[test]
fn a_header_has_to_fit_into_its_own_message() {
    let pod = Ipv4Addr::new(10, 244, 1, 2);
    let inner = build::ipv4(pod, NODE4[1], 17, &[0; 100]).bytes;
    let whole = [message(&[1; 64]), message(&inner), message(&[2; 64])].concat();
    assert_eq!(names(detector().inspect(&on_wire(0, &tunnelled(false, &whole)))), [IpAddr::from(pod)]);
    let cut = [message(&[1; 64]), message(&inner[..60]), message(&[2; 64])].concat();
    assert_eq!(detector().inspect(&on_wire(0, &tunnelled(false, &cut))), None);
}

/// Where only ciphertext is, whatever stands around it: chance finds headers there too.
#[test]
fn streams_fragments_and_quotes_of_messages_count_as_ciphertext() {
    let pod = Ipv4Addr::new(10, 244, 1, 2);
    let inner = build::ipv4(pod, NODE4[1], 17, &build::udp(1, 2, b"anything")).bytes;
    let tcp = [&[0x9c, 0x40, 0x19, 0x2b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0][..], &inner]
        .concat();
    let mut later = build::ipv4(NODE4[0], NODE4[1], 17, &inner);
    later.bytes[6..8].copy_from_slice(&[0, 185]);
    let later6 = [&[17, 0, 0x05, 0xc8, 0, 0, 0, 9][..], &inner].concat();
    let quoted = tunnelled(false, &message(&inner)).bytes;
    for packet in [
        build::ipv4(NODE4[0], NODE4[1], 6, &tcp),
        build::ipv6(NODE6[0], NODE6[1], 6, &tcp),
        build::ipv6(NODE6[0], NODE6[1], 44, &later6),
        later,
        build::ipv4(NODE4[1], NODE4[0], 1, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat()),
    ] {
        assert_eq!(names(detector().inspect(&on_wire(1, &packet))), [IpAddr::from(pod)], "{packet:x?}");
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
