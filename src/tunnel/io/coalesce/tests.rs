use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
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
    /// One of the packets before, with a byte changed and its checksums put right or left wrong.
    Changed(Index, Index, u8, bool),
    /// Nothing that could be opened, but the buffer is written to.
    Refused(usize),
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let size = prop_oneof![4 => Just(1368_usize), 1 => 1..1400_usize];
    let flags = prop_oneof![8 => Just(0x10_u8), 1 => Just(0x18), 1 => any::<u8>()];
    prop_oneof![
        12 => (0..12_usize, size, flags).prop_map(|(flow, size, flags)| Arrival::Next(flow, size, flags)),
        1 => prop::collection::vec(any::<u8>(), 20..200).prop_map(Arrival::Odd),
        2 => (any::<Index>(), any::<Index>(), any::<u8>(), any::<bool>())
            .prop_map(|(which, at, byte, right)| Arrival::Changed(which, at, byte, right)),
        1 => (0..1500_usize).prop_map(Arrival::Refused),
    ]
}

/// Feeds the arrivals; gives the packets taken, and what was written.
fn run(arrivals: &[Arrival]) -> (Vec<Vec<u8>>, Vec<Written>) {
    let mut flows: Vec<_> =
        (0..12).map(|at| Flow::new(at % 3 == 0, at % 4 == 3, u16::try_from(at).unwrap())).collect();
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

/// Addresses, protocol and ports: what keeps its order.
fn flow_of(packet: &[u8]) -> Vec<u8> {
    match transport_of(packet) {
        Some(at) if packet.len() >= at + 4 => {
            let addresses = if at == 20 { &packet[12..20] } else { &packet[8..40] };
            let protocol = packet[if at == 20 { 9 } else { 6 }];
            [addresses, &[protocol], &packet[at..at + 4]].concat()
        }
        _ => packet.to_vec(),
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
        for flow in taken.iter().map(|packet| flow_of(packet)) {
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| flow_of(packet) == flow).cloned().collect()
            };
            prop_assert_eq!(of(&taken), of(&again), "order within a flow");
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
