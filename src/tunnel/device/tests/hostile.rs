//! Datagrams that mean no good.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[test]
fn replayed_data_is_refused() {
    let mut net = pair();
    for number in 0..3000 {
        net.send(0, &packet(0, 1, number, 0));
    }
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 3000);
    let sent = net.log.clone();
    for flight in sent.iter().filter(|flight| flight.carries()) {
        net.deliver(1, flight.from, &flight.bytes);
    }
    assert!(net.received(1).is_empty());
    assert_eq!(net.counters(1).replayed, 3000);
}

#[test]
fn a_bad_wire_loses_but_never_doubles_or_changes_a_packet() {
    let mut net = mesh(2);
    net.wire = Wire { lose: 5, duplicate: 5, corrupt: 5, jitter: 50 * MILLISECOND, ..Wire::default() };
    let mut sent = HashSet::new();
    for number in 0..8000 {
        let length = usize::try_from(net.below(1390)).unwrap();
        let packet = packet(0, 1, number, length);
        net.send(0, &packet);
        sent.insert(packet);
        net.run(50 * MILLISECOND); // 400 s in all: over several renewals
    }
    net.run(SECOND);
    let received = net.received(1);
    let distinct: HashSet<_> = received.iter().cloned().collect();
    assert_eq!(received.len(), distinct.len(), "doubled");
    assert!(distinct.is_subset(&sent), "changed");
    assert!(received.len() >= 7000, "{} of 8000 arrived", received.len());
    assert!(net.counters(1).replayed > 100 && net.counters(1).bad_mac > 100);
}

#[test]
fn a_counter_at_the_end_of_its_range_is_refused_before_anybody_computes_with_it() {
    let mut net = pair();
    net.drop = Some(Box::new(|_| true));
    net.send(1, &packet(1, 0, 0, 0));
    let mut bytes = net.log[0].bytes.clone();
    for counter in [u64::MAX, u64::MAX - 1024, u64::MAX - 8192] {
        bytes[8..16].copy_from_slice(&counter.to_le_bytes());
        let (mut out, now) = ([0; 128], net.now);
        net.nodes[0].device.open(address(1).into(), &bytes, &mut out, now);
        assert_eq!(out, [0; 128], "boringtun copies what it opens");
    }
    assert_eq!(net.counters(0).bad_mac, 3);
}

#[test]
fn too_little_room_is_survived() {
    let mut net = pair();
    let peer = net.nodes[0].device.route([10, 1, 0, 1].into()).unwrap();
    let packet = packet(0, 1, 0, 0);
    let (device, now) = (&mut net.nodes[0].device, net.now);
    assert_eq!(device.seal(peer, &packet, &mut [0; 60], now), Sealed::Dropped);
    let mut out = [0; 128];
    let Sealed::Data(length) = device.seal(peer, &packet, &mut out, now) else { panic!("no session") };
    assert_eq!(
        net.nodes[1].device.open(address(0).into(), &out[..length], &mut [0; 8], now),
        Opened::Nothing
    );
}

/// Feeds `datagrams` to a device amid sessions and handshakes; also each cut to where it may be known.
fn survive(datagrams: &[Vec<u8>]) {
    let mut net = mesh(3);
    net.send(0, &packet(0, 2, 0, 0));
    net.cut.insert(2);
    net.run(100 * MILLISECOND);
    let indices: Vec<u32> = net
        .log
        .iter()
        .filter(|flight| flight.bytes[0] < 3)
        .map(|flight| super::super::message::sender(&flight.bytes))
        .collect();
    for datagram in datagrams {
        net.deliver(0, address(7), datagram);
        for index in &indices {
            let mut aimed = datagram.clone();
            for at in [4, 8] {
                if let Some(place) = aimed.get_mut(at..at + 4) {
                    place.copy_from_slice(&index.to_le_bytes());
                }
                net.deliver(0, address(7), &aimed);
            }
        }
    }
    net.check();
    assert!(net.received(0).is_empty());
    assert!(net.is_established(0, 1), "the session is as it was");
}

/// Bytes that begin and are as long as a message of WireGuard, or not quite.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![Just(148_usize), Just(92), Just(64), Just(32), Just(48), 0_usize..200];
    (0_u8..6, lengths, any::<u64>()).prop_map(|(kind, length, seed)| {
        let mut bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(length).collect();
        bytes.iter_mut().zip([kind, 0, 0, 0]).for_each(|(place, byte)| *place = byte);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_datagram_is_survived(
        shaped in proptest::collection::vec(datagram(), 0..20),
        wild in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..10),
    ) {
        survive(&shaped);
        survive(&wild);
    }
}

#[test]
fn real_messages_with_a_byte_changed_are_refused() {
    let mut net = mesh(2);
    net.run(SECOND);
    net.send(1, &packet(1, 0, 0, 0));
    let messages: Vec<_> = net.log.iter().filter(|flight| flight.to == address(0)).cloned().collect();
    net.run(SECOND);
    net.received(0);
    let before = net.report(0).peers[0].sessions.clone();
    for message in &messages {
        for at in 0..message.bytes.len() {
            let mut changed = message.bytes.clone();
            changed[at] ^= 0x40;
            net.deliver(0, address(7), &changed);
        }
    }
    assert!(net.received(0).is_empty());
    let after = &net.report(0).peers[0];
    assert_eq!((before[0].confirmed, after.endpoint), (after.sessions[0].confirmed, Some(address(1))));
}

/// What fuzzing found, and a few good inputs, stay good.
#[test]
fn the_corpus_is_survived() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/datagram");
    let files = std::fs::read_dir(&corpus).expect("fuzz/corpus/datagram is part of the repository");
    let datagrams: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(datagrams.len() >= 5, "the corpus is not empty");
    survive(&datagrams);
}
