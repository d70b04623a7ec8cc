use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::tunnel::io::packet::{TCP, UDP, put_word};
use crate::tunnel::io::segment::Segments;
use crate::tunnel::io::testing::{Flow, naive_cut, transport_of};
use crate::tunnel::io::vnet::Gso;

/// A packet or super-packet with its offload header.
type Written = (VnetHeader, Vec<u8>);

/// What a coalescer wrote.
fn join(packets: &[Vec<u8>]) -> Vec<Written> {
    let mut written = Vec::new();
    let mut coalescer = Coalescer::new(true, true);
    let mut sink = |bytes: &[u8]| written.push(decode(bytes));
    for packet in packets {
        let open = |out: &mut [u8]| {
            out[..packet.len()].copy_from_slice(packet);
            // As boringtun does it: the tag and the padding are left behind the packet.
            out[packet.len()..packet.len() + 31].fill(0xee);
            Some(packet.len())
        };
        coalescer.take(open, &mut sink);
    }
    coalescer.flush(&mut sink);
    written
}

fn decode(bytes: &[u8]) -> Written {
    let (header, packet) = bytes.split_first_chunk().unwrap();
    (VnetHeader::decode(header).unwrap(), packet.to_vec())
}

/// What the kernel, or the plain model of it, makes of it again.
fn cut(written: &[Written]) -> Vec<Vec<u8>> {
    written.iter().flat_map(|(header, packet)| naive_cut(header, packet)).collect()
}

#[test]
fn a_run_of_one_flow_becomes_one_write() {
    for v6 in [false, true] {
        for udp in [false, true] {
            let mut flow = Flow::new(v6, udp, 1);
            let packets: Vec<_> = (0..40).map(|_| flow.packet(1300)).collect();
            let written = join(&packets);
            assert_eq!(written.len(), 1, "v6 {v6}, udp {udp}");
            let expected = match (udp, v6) {
                (true, _) => Gso::Udp,
                (false, false) => Gso::TcpV4,
                (false, true) => Gso::TcpV6,
            };
            assert_eq!((written[0].0.gso, written[0].0.gso_size), (expected, 1300));
            assert_eq!(cut(&written), packets);
        }
    }
}

#[test]
fn flows_that_alternate_are_joined_side_by_side() {
    let mut flows: Vec<_> = (0..4).map(|port| Flow::new(false, false, port)).collect();
    let packets: Vec<_> = (0..40).map(|at| flows[at % 4].packet(1000)).collect();
    assert_eq!(join(&packets).len(), 4);
}

#[test]
fn a_full_super_packet_is_followed_by_the_next() {
    let mut flow = Flow::new(false, false, 1);
    let packets: Vec<_> = (0..100).map(|_| flow.packet(1368)).collect();
    let written = join(&packets);
    assert_eq!(written.len(), 3, "47 of 1368 bytes fit in one, 6 are left");
    assert_eq!(cut(&written), packets);
}

#[test]
fn a_short_packet_and_a_push_end_a_super_packet() {
    let mut flow = Flow::new(false, false, 1);
    let mut packets = vec![flow.packet(1000), flow.packet(999), flow.packet(1000), flow.packet(1000)];
    flow.set_flags(&mut packets[3], 0x18);
    packets.push(flow.packet(1000));
    let written = join(&packets);
    assert_eq!(written.len(), 3);
    assert_eq!(cut(&written), packets);
}

#[test]
fn what_differs_is_not_joined() {
    type Change = (&'static str, fn(&mut Vec<u8>));
    let changes: [Change; 12] = [
        ("TOS", |packet| packet[1] = 2),
        ("ID", |packet| packet[5] ^= 1),
        ("fragmentation", |packet| packet[6] ^= 0x40),
        ("TTL", |packet| packet[8] -= 1),
        ("source", |packet| packet[15] ^= 1),
        ("source port", |packet| packet[21] ^= 1),
        ("sequence", |packet| packet[27] ^= 1),
        ("acknowledgement", |packet| packet[31] ^= 1),
        ("window", |packet| packet[35] ^= 1),
        ("SYN", |packet| packet[33] |= 2),
        ("urgent pointer", |packet| packet[39] = 1),
        ("an option", |packet| packet[51] ^= 1),
    ];
    for (what, change) in changes {
        let mut flow = Flow::new(false, false, 1);
        let mut packets = vec![flow.packet(500), flow.packet(500)];
        change(&mut packets[1]);
        Flow::put_checksums(&mut packets[1]);
        assert_eq!(join(&packets).len(), 2, "{what}");
    }
}

#[test]
fn damage_is_passed_on_and_not_healed() {
    for at in [11, 36, 200] {
        for which in [0, 1] {
            let mut flow = Flow::new(false, false, 1);
            let mut packets = vec![flow.packet(500), flow.packet(500)];
            packets[which][at] ^= 0x10;
            let written = join(&packets);
            assert_eq!(written.len(), 2, "byte {at} of packet {which}");
            assert_eq!(cut(&written), packets);
        }
    }
}

#[test]
fn without_udp_offload_datagrams_stay_single() {
    let mut flow = Flow::new(false, true, 1);
    let packets = [flow.packet(500), flow.packet(500)];
    let mut coalescer = Coalescer::new(true, false);
    let mut count = 0;
    for packet in &packets {
        let open = |out: &mut [u8]| {
            out[..packet.len()].copy_from_slice(packet);
            Some(packet.len())
        };
        coalescer.take(open, &mut |_| count += 1);
    }
    coalescer.flush(&mut |_| count += 1);
    assert_eq!(count, 2);
}

/// Something that arrives.
#[derive(Debug, Clone)]
enum Arrival {
    /// The next packet of a flow: flow, payload, TCP flags.
    Next(usize, usize, u8),
    /// Bytes of anything.
    Odd(Vec<u8>),
    /// A packet that does not show its ports, of one of the flows: see [`blind`].
    Blind(usize, Hidden),
    /// One of the packets before, with a byte changed and its checksums put right or left wrong.
    Changed(Index, Index, u8, bool),
    /// Nothing that could be opened, but the buffer is written to.
    Refused(usize),
}

/// Why a packet does not show its ports.
#[derive(Debug, Clone, Copy)]
enum Hidden {
    Fragment,
    Options,
}

/// A packet between the addresses of all flows, whose ports cannot be seen.
fn blind(v6: bool, udp: bool, hidden: Hidden, number: u16) -> Vec<u8> {
    let mut packet = Flow::new(v6, udp, 1).packet(64);
    match (v6, hidden) {
        (false, Hidden::Fragment) => put_word(&mut packet, 6, 0x2000 | number & 0x1fff),
        (false, Hidden::Options) => {
            packet[0] = 0x46;
            packet.splice(20..20, [1, 1, 1, 1]);
            let len = u16::try_from(packet.len()).unwrap();
            put_word(&mut packet, 2, len);
        }
        (true, Hidden::Fragment) => packet[6] = 44,
        (true, Hidden::Options) => packet[6] = 60,
    }
    let end = packet.len() - 2;
    put_word(&mut packet, end, number);
    packet
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let size = prop_oneof![4 => Just(1368_usize), 1 => 1..1400_usize];
    let flags = prop_oneof![8 => Just(0x10_u8), 1 => Just(0x18), 1 => any::<u8>()];
    prop_oneof![
        12 => (0..12_usize, size, flags).prop_map(|(flow, size, flags)| Arrival::Next(flow, size, flags)),
        1 => prop::collection::vec(any::<u8>(), 20..200).prop_map(Arrival::Odd),
        2 => (0..12_usize, prop_oneof![Just(Hidden::Fragment), Just(Hidden::Options)])
            .prop_map(|(flow, hidden)| Arrival::Blind(flow, hidden)),
        2 => (any::<Index>(), any::<Index>(), any::<u8>(), any::<bool>())
            .prop_map(|(which, at, byte, right)| Arrival::Changed(which, at, byte, right)),
        1 => (0..1500_usize).prop_map(Arrival::Refused),
    ]
}

/// Feeds the arrivals; gives the packets taken, and what was written.
fn run(arrivals: &[Arrival]) -> (Vec<Vec<u8>>, Vec<Written>) {
    let kind = |at: usize| (at.is_multiple_of(3), at % 4 == 3);
    let mut flows: Vec<_> =
        (0..12).map(|at| Flow::new(kind(at).0, kind(at).1, u16::try_from(at).unwrap())).collect();
    let (mut taken, mut written): (Vec<Vec<u8>>, Vec<_>) = (Vec::new(), Vec::new());
    let mut coalescer = Coalescer::new(true, true);
    let mut sink = |bytes: &[u8]| written.push(decode(bytes));
    for arrival in arrivals {
        let packet = match arrival {
            Arrival::Next(flow, size, flags) => {
                let mut packet = flows[*flow].packet(*size);
                flows[*flow].set_flags(&mut packet, *flags);
                Some(packet)
            }
            Arrival::Odd(bytes) => Some(bytes.clone()),
            Arrival::Blind(flow, hidden) => {
                let (v6, udp) = kind(*flow);
                Some(blind(v6, udp, *hidden, u16::try_from(taken.len()).unwrap()))
            }
            Arrival::Changed(which, at, byte, right) => (!taken.is_empty()).then(|| {
                let mut packet = taken[which.index(taken.len())].clone();
                let at = at.index(packet.len());
                packet[at] = *byte;
                if *right && transport_of(&packet).is_some() {
                    Flow::put_checksums(&mut packet);
                }
                packet
            }),
            Arrival::Refused(_) => None,
        };
        let open = |out: &mut [u8]| {
            if let Arrival::Refused(len) = arrival {
                out[..*len].fill(0xdd);
            }
            let packet = packet.as_ref()?;
            out[..packet.len()].copy_from_slice(packet);
            out[packet.len()..packet.len() + 31].fill(0xee);
            Some(packet.len())
        };
        coalescer.take(open, &mut sink);
        taken.extend(packet);
    }
    coalescer.flush(&mut sink);
    (taken, written)
}

/// What a packet shows of its flow: addresses, protocol and ports.
struct Shown<'a> {
    addresses: &'a [u8],
    protocol: Option<u8>,
    ports: Option<&'a [u8]>,
}

impl<'a> Shown<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let (addresses, protocol) = match packet.first()? >> 4 {
            4 => (packet.get(12..20)?, Some(packet[9])),
            6 => (packet.get(8..40)?, Some(packet[6]).filter(|protocol| matches!(*protocol, TCP | UDP))),
            _ => return None,
        };
        let ports = transport_of(packet).and_then(|at| packet.get(at..at + 4));
        Some(Self { addresses, protocol, ports })
    }

    /// Whether both may be of one flow.
    fn may_be(&self, other: &Self) -> bool {
        let same =
            |one: Option<&[u8]>, other: Option<&[u8]>| one.is_none() || other.is_none() || one == other;
        let protocol = |shown: &Self| shown.protocol.map(|protocol| vec![protocol]);
        self.addresses == other.addresses
            && same(protocol(self).as_deref(), protocol(other).as_deref())
            && same(self.ports, other.ports)
    }
}

/// Where in `after` each packet of `before` is; the same packets are in both.
fn places(before: &[Vec<u8>], after: &[Vec<u8>]) -> Vec<usize> {
    let mut left: HashMap<&[u8], VecDeque<usize>> = HashMap::new();
    for (at, packet) in after.iter().enumerate() {
        left.entry(packet).or_default().push_back(at);
    }
    before.iter().map(|packet| left.get_mut(&packet[..]).unwrap().pop_front().unwrap()).collect()
}

#[test]
fn a_fragment_overtakes_no_flow_between_its_addresses() {
    for v6 in [false, true] {
        for hidden in [Hidden::Fragment, Hidden::Options] {
            let mut flows = [1, 2, 3].map(|port| Flow::new(v6, false, port));
            let mut packets: Vec<_> = (0..6).map(|at| flows[at % 3].packet(500)).collect();
            packets.push(blind(v6, false, hidden, 7));
            packets.extend((0..6).map(|at| flows[at % 3].packet(500)));
            let written = join(&packets);
            assert_eq!(written.len(), 7, "v6 {v6}, {hidden:?}: joined before it and after it");
            assert_eq!(written[3].1, packets[6], "v6 {v6}, {hidden:?}");
            let first: Vec<_> =
                written.iter().map(|(header, packet)| naive_cut(header, packet)[0].clone()).collect();
            assert_eq!(first[..3], packets[..3], "in the order in which they were begun");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_joined_is_cut_into_the_same_packets(arrivals in prop::collection::vec(arrival(), 0..100)) {
        let (taken, written) = run(&arrivals);
        let again = cut(&written);
        let (mut sorted, mut sorted_again) = (taken.clone(), again.clone());
        sorted.sort();
        sorted_again.sort();
        prop_assert_eq!(sorted, sorted_again);
        let places = places(&taken, &again);
        for (at, earlier) in taken.iter().enumerate() {
            let Some(shown) = Shown::of(earlier) else { continue };
            for later in at + 1..taken.len() {
                let ordered = Shown::of(&taken[later]).is_some_and(|other| shown.may_be(&other));
                prop_assert!(!ordered || places[at] < places[later], "packet {} before {}", later, at);
            }
        }
    }

    #[test]
    fn cutting_and_joining_undo_each_other(
        v6 in any::<bool>(), udp in any::<bool>(), size in 100..1400_usize, count in 2..40_usize, rest in 0..100_usize,
    ) {
        let mut flow = Flow::new(v6, udp, 7);
        let (header, whole) = flow.super_packet(size, size * count + rest);
        let mut buffer = whole.clone();
        let mut segments = Segments::new(&header, &mut buffer).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = segments.next() {
            packets.push(packet.to_vec());
        }
        prop_assert_eq!(&packets, &naive_cut(&header, &whole));
        let written = join(&packets);
        prop_assert_eq!(&written, &vec![(header, whole)]);
    }
}
