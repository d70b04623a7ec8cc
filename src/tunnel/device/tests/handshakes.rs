//! Sessions come about, and only as they should.

use super::net::{Flight, packet6};
use super::*;

#[test]
fn a_packet_waits_for_the_handshake_and_arrives() {
    let mut net = mesh(2);
    assert_eq!(net.send(0, &packet(0, 1, 1, 100)), Sealed::Queued);
    net.run(SECOND);
    assert_eq!(net.received(1), [packet(0, 1, 1, 100)]);
    assert!(matches!(net.send(0, &packet6(0, 1, 77)), Sealed::Data(_)));
    assert!(matches!(net.send(1, &packet6(1, 0, 0)), Sealed::Data(_)));
    net.run(SECOND);
    assert_eq!((net.received(0), net.received(1)), (vec![packet6(1, 0, 0)], vec![packet6(0, 1, 77)]));
}

#[test]
fn both_ends_know_at_once_that_a_session_works() {
    let mut net = mesh(2);
    net.restart(1); // it only answers
    net.apply(
        1,
        &Config {
            identities: vec![identity(1, 1)],
            peers: vec![Peer { endpoints: vec![], ..peer(0) }],
            ..Config::default()
        },
    );
    let took = net.run_until(SECOND, |net| net.is_established(0, 1) && net.is_established(1, 0));
    assert!(took.unwrap() <= 25 * MILLISECOND, "four flights of 5 ms, not {took:?}");
    assert_eq!((net.confirmed(0), net.confirmed(1)), (1, 1));
    let kinds: Vec<u8> = net.log.iter().map(|flight| flight.bytes[0]).collect();
    assert_eq!(kinds, [1, 2, 4, 4], "initiation, response, keepalive, keepalive");
}

#[test]
fn the_initiator_sends_at_once_after_the_response() {
    let mut net = mesh(2);
    net.drop = Some(Box::new(|flight| flight.from == address(1) && !flight.is_response()));
    net.run(SECOND); // node 1 answers handshakes, and is never heard otherwise
    assert!(!net.is_established(0, 1));
    assert!(matches!(net.send(0, &packet(0, 1, 1, 0)), Sealed::Data(_)));
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn the_responder_sends_nothing_on_a_session_that_is_not_confirmed() {
    let mut net = mesh(2);
    net.drop =
        Some(Box::new(|flight| flight.is_initiation() && flight.from == address(1) || flight.bytes[0] == 4));
    net.run(100 * MILLISECOND);
    assert_eq!(net.send(1, &packet(1, 0, 1, 0)), Sealed::Queued);
    net.drop = None;
    net.send(0, &packet(0, 1, 2, 0));
    net.run(SECOND);
    assert_eq!(net.received(0).len(), 1, "flushed once data confirmed the session");
}

#[test]
fn both_may_begin_at_the_same_moment() {
    let mut net = mesh(2);
    for node in [0, 1] {
        net.send(node, &packet(u8::try_from(node).unwrap(), u8::try_from(1 - node).unwrap(), 1, 0));
    }
    assert_eq!(net.initiations(), 2);
    for _ in 0..200 {
        net.run(SECOND);
        for node in [0, 1] {
            net.send(node, &packet(u8::try_from(node).unwrap(), u8::try_from(1 - node).unwrap(), 1, 0));
        }
    }
    net.run(SECOND);
    assert_eq!((net.received(0).len(), net.received(1).len()), (201, 201));
    assert!(net.initiations() <= 2 + 2, "{} handshakes in 200 s", net.initiations());
}

#[test]
fn packets_are_padded_on_the_wire_and_cut_again() {
    let mut net = pair();
    let sizes: Vec<usize> = (24..=usize::from(MTU)).collect();
    for size in &sizes {
        net.send(0, &packet(0, 1, 0, size - 24));
    }
    net.run(SECOND);
    let received: Vec<usize> = net.received(1).iter().map(Vec::len).collect();
    assert_eq!(received, sizes);
    let most = usize::from(MTU) + 32;
    for flight in net.log.iter().filter(|flight| flight.carries()) {
        assert!(flight.bytes.len() % 16 == 0 || flight.bytes.len() == most, "{}", flight.bytes.len());
        assert!(flight.bytes.len() <= most);
    }
}

#[test]
fn a_replayed_initiation_is_refused() {
    let mut net = pair();
    net.send(0, &packet(0, 1, 1, 0));
    net.run(200 * SECOND);
    net.send(0, &packet(0, 1, 1, 0));
    net.run(SECOND);
    let initiation =
        net.log.iter().rfind(|flight| flight.is_initiation() && flight.from == address(0)).unwrap().clone();
    let before = net.counters(1).replayed;
    let responses = responses(&net);
    for _ in 0..20 {
        net.run(50 * MILLISECOND);
        net.deliver(1, address(9), &initiation.bytes);
    }
    assert_eq!(net.counters(1).replayed, before + 20);
    assert_eq!(self::responses(&net), responses);
}

fn responses(net: &Net) -> usize {
    net.log.iter().filter(|flight| flight.is_response()).count()
}

#[test]
fn replays_to_a_restarted_node_do_not_evict_its_session() {
    let mut net = mesh(2);
    net.cut.insert(1);
    net.send(0, &packet(0, 1, 0, 0));
    net.run(80 * SECOND);
    let old: Vec<Flight> = net.log.iter().filter(|flight| flight.from == address(0)).cloned().collect();
    assert!(old.len() > 12 && old.iter().all(Flight::is_initiation));
    net.cut.clear();
    net.drop = Some(Box::new(|flight| flight.is_initiation() && flight.from == address(0)));
    net.restart(1); // node 1 begins: it has never seen a timestamp of node 0
    net.apply(1, &config(1, 2));
    net.run(SECOND);
    assert!(net.is_established(1, 0));
    for initiation in &old {
        net.run(30 * MILLISECOND);
        net.deliver(1, address(9), &initiation.bytes);
    }
    net.received(1);
    for number in 0..10 {
        assert!(matches!(net.send(0, &packet(0, 1, number, 0)), Sealed::Data(_)));
        assert!(matches!(net.send(1, &packet(1, 0, number, 0)), Sealed::Data(_)));
    }
    net.run(SECOND);
    assert_eq!((net.received(0).len(), net.received(1).len()), (10, 10));
}

#[test]
fn a_response_to_an_initiation_before_the_last_is_void() {
    let mut net = mesh(2);
    net.drop = Some(Box::new(|flight| flight.is_response() || flight.from == address(1)));
    net.send(0, &packet(0, 1, 0, 0));
    net.run(SECOND);
    let response = net.log.iter().find(|flight| flight.is_response()).unwrap().clone();
    net.run(6 * SECOND);
    assert_eq!(
        net.log.iter().filter(|flight| flight.is_initiation() && flight.from == address(0)).count(),
        2
    );
    let unknown = net.counters(0).unknown_datagram;
    net.deliver(0, address(1), &response.bytes);
    assert_eq!(net.counters(0).unknown_datagram, unknown + 1);
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Queued);
}

#[test]
fn another_preshared_key_gives_no_session() {
    let mut net = mesh(2);
    let mut other = config(1, 2);
    other.peers[0].keys[0].preshared_key = Some(PresharedKey::from_bytes([9; 32]));
    net.apply(1, &other);
    net.run(20 * SECOND);
    assert_eq!((net.confirmed(0), net.confirmed(1)), (0, 0));
    let mut same = config(0, 2);
    same.peers[0].keys[0].preshared_key = Some(PresharedKey::from_bytes([9; 32]));
    net.apply(0, &same);
    net.run(10 * SECOND);
    assert!(net.is_established(0, 1) && net.is_established(1, 0));
    assert!(net.peer(0, 1).preshared_key);
}

#[test]
fn a_changed_preshared_key_loses_no_packet() {
    let mut net = pair();
    let mut sent = 0;
    for step in 0..400 {
        for node in [0, 1] {
            if step == 50 + 80 * node {
                let mut changed = config(u8::try_from(node).unwrap(), 2);
                changed.peers[0].keys[0].preshared_key = Some(PresharedKey::from_bytes([9; 32]));
                net.apply(node, &changed);
            }
        }
        net.send(0, &packet(0, 1, step.try_into().unwrap(), 0));
        net.send(1, &packet(1, 0, step.try_into().unwrap(), 0));
        net.run(100 * MILLISECOND);
        sent += 1;
    }
    net.run(SECOND);
    assert_eq!((net.received(0).len(), net.received(1).len()), (sent, sent));
    assert!(net.confirmed(0) > 0 && net.confirmed(1) > 0, "a session with the new key at both ends");
}

#[test]
fn strangers_get_no_answer() {
    let mut net = mesh(2);
    net.apply(1, &Config { identities: vec![identity(1, 1)], ..Config::default() });
    net.run(SECOND);
    assert_eq!(net.counters(1).unknown_datagram, 1, "a key that nobody has");
    net.apply(1, &Config { identities: vec![identity(1, 2)], peers: vec![peer(0)], ..Config::default() });
    net.run(6 * SECOND);
    assert!(net.counters(1).bad_mac >= 1, "addressed to a key that we do not have");
    assert_eq!(responses(&net), 0);
}

#[test]
fn under_load_a_peer_gets_through_by_a_cookie() {
    let mut net = mesh(2);
    net.restart(1); // node 1 only answers
    net.apply(1, &Config { peers: vec![Peer { endpoints: vec![], ..peer(0) }], ..config(1, 2) });
    net.drop = Some(Box::new(|flight| flight.from == address(0)));
    let initiation = |net: &mut Net, number: usize| {
        net.run_until(6 * SECOND, |net| net.initiations() == number).expect("an initiation");
        net.log.iter().rfind(|flight| flight.is_initiation()).unwrap().bytes.clone()
    };
    // A flood of one message, which spends the budget, and then `bytes` from node 0 at the same moment.
    let behind_flood = |net: &mut Net, flood: &[u8], bytes: &[u8]| {
        for _ in 0..400 {
            net.deliver(1, "198.51.100.7:9".parse().unwrap(), flood);
        }
        net.log.clear();
        net.deliver(1, address(0), bytes);
        net.log.clone()
    };
    let first = initiation(&mut net, 1);
    assert_eq!(first[132..], [0; 16], "no cookie yet");
    let mut forged = first.clone();
    forged[40] ^= 1;
    behind_flood(&mut net, &forged, &forged);
    assert_eq!(
        (net.counters(1).bad_mac, net.counters(1).under_load),
        (401, 0),
        "a MAC1 that does not fit costs nothing"
    );
    let old = first.clone();
    let answers = behind_flood(&mut net, &old, &old);
    assert!(answers[0].is_cookie() && answers[0].to == address(0) && answers[0].bytes.len() < first.len());
    assert!(net.counters(1).under_load > 100);
    net.run(SECOND);
    let second = initiation(&mut net, 1);
    assert_ne!(second[132..], [0; 16], "carries the cookie");
    let answers = behind_flood(&mut net, &old, &second);
    assert!(answers[0].is_response(), "a proven address gets through");
    net.drop = None;
    net.run(SECOND);
    assert!(net.is_established(0, 1));
}

#[test]
fn indices_are_not_to_be_foreseen() {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..8 {
        let mut net = mesh(2);
        net.run(MILLISECOND);
        for flight in net.log.iter().filter(|flight| flight.is_initiation()) {
            seen.insert(super::super::message::sender(&flight.bytes) >> 8);
        }
    }
    assert_eq!(seen.len(), 16, "none comes twice");
}
