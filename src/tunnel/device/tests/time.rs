//! What time does to sessions.

use super::super::timing::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};
use super::*;

/// As [`all_arrives`], and no packet has to wait for a handshake: sessions are renewed before they end.
fn never_deaf(pattern: impl Fn(u32) -> Vec<usize>) {
    assert_eq!(all_arrives(pattern), 0, "packets waited for a handshake");
}

/// Sends by `pattern` (step -> who sends) every 100 ms for ten minutes over a wire of 20 ms; all has to arrive, and
/// handshakes have to be rare. Returns how many packets had to wait for one.
///
/// This is the test that boringtun's issue 495 asks for (sessions of 0.7.1 said to go deaf in one direction
/// 15 to 30 s after each handshake): its `noise` differs from 0.6.0 in nothing that a session does, and none
/// of its timers run here.
fn all_arrives(pattern: impl Fn(u32) -> Vec<usize>) -> usize {
    let mut net = Net::new(Wire { latency: 20 * MILLISECOND, ..Wire::default() });
    for node in 0..2 {
        net.add();
        net.apply(node.into(), &config(node, 2));
    }
    net.run(SECOND);
    let (mut sent, mut waited) = ([0; 2], 0);
    for step in 0..6000 {
        for from in pattern(step) {
            let ends = [u8::try_from(from).unwrap(), u8::try_from(1 - from).unwrap()];
            let sealed = net.send(from, &packet(ends[0], ends[1], step, 0));
            waited += usize::from(!matches!(sealed, Sealed::Data(_)));
            sent[1 - from] += 1;
        }
        net.run(100 * MILLISECOND);
    }
    net.run(SECOND);
    assert_eq!([net.received(0).len(), net.received(1).len()], sent);
    // Both begin at the start; then one renewal every 120 s, or by both at once.
    assert!(net.initiations() <= 2 + 2 * 5, "{} handshakes in 600 s", net.initiations());
    waited
}

#[test]
fn a_session_in_use_is_renewed_without_loss() {
    never_deaf(|_| vec![0, 1]);
}

#[test]
fn traffic_in_one_direction_is_never_deaf() {
    never_deaf(|_| vec![0]);
    never_deaf(|_| vec![1]);
}

#[test]
fn a_request_every_three_seconds_is_never_deaf() {
    never_deaf(|step| match step % 30 {
        0 => vec![0],
        1 => vec![1],
        _ => vec![],
    });
}

#[test]
fn request_and_response_in_one_moment_are_never_deaf() {
    never_deaf(|step| if step % 40 == 0 { vec![0, 1] } else { vec![] });
}

#[test]
fn a_quiet_tunnel_makes_no_handshakes_for_each_first_packet() {
    // Between two packets a session may end.
    all_arrives(|step| if step % 200 == 0 { vec![0] } else { vec![] });
}

#[test]
fn data_is_answered_within_ten_seconds() {
    let mut net = pair();
    net.send(0, &packet(0, 1, 0, 0));
    net.run(9 * SECOND);
    assert_eq!(net.log.len(), 1);
    net.run(2 * SECOND);
    assert_eq!(net.log.len(), 2);
    assert!(net.log[1].is_keepalive() && net.log[1].from == address(1));
    net.run(60 * SECOND);
    assert_eq!(net.log.len(), 2, "a keepalive is not answered");
}

#[test]
fn data_without_answer_leads_to_a_handshake_after_fifteen_seconds() {
    let mut net = pair();
    net.cut.insert(1);
    net.send(0, &packet(0, 1, 0, 0));
    net.run(14 * SECOND);
    assert_eq!(net.initiations(), 0);
    net.run(2 * SECOND);
    assert_eq!(net.initiations(), 1);
}

#[test]
fn an_idle_session_is_dropped_after_180_seconds_and_comes_back_with_traffic() {
    let mut net = pair();
    net.run(181 * SECOND);
    assert_eq!(net.peer(0, 1).condition, PeerCondition::Idle);
    assert_eq!(net.nodes[0].device.shared.indices.len(), 0);
    assert_eq!(net.nodes[0].device.poll_timeout(), None, "nothing to time");
    assert_eq!(net.log.len(), 0);
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Queued);
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn data_on_an_expired_session_is_refused() {
    let mut net = pair();
    net.cut.insert(0);
    net.send(0, &packet(0, 1, 0, 0));
    let late = net.log.last().unwrap().clone();
    net.run(181 * SECOND);
    let before = net.counters(1).unknown_datagram;
    net.deliver(1, late.from, &late.bytes);
    assert_eq!(net.counters(1).unknown_datagram, before + 1);
    assert!(net.received(1).is_empty());
}

#[test]
fn expiry_does_not_wait_for_a_tick() {
    let mut net = pair();
    net.drop = Some(Box::new(|_| true));
    net.send(0, &packet(0, 1, 0, 0));
    let late = net.log.last().unwrap().clone();
    net.now += 181 * SECOND;
    net.deliver(1, late.from, &late.bytes);
    assert!(net.received(1).is_empty());
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Queued);
}

/// Only node 0 begins, as node 1 doesn't know where it is.
fn pair_begun_by_node_0() -> Net {
    let mut net = mesh(2);
    net.restart(1);
    net.apply(1, &Config { peers: vec![Peer { endpoints: vec![], ..peer(0) }], ..config(1, 2) });
    net.run(SECOND);
    assert!(net.is_established(0, 1) && net.is_established(1, 0));
    net.log.clear();
    net
}

#[test]
fn who_began_renews() {
    let mut net = pair_begun_by_node_0();
    for _ in 0..600 {
        net.send(0, &packet(0, 1, 0, 0));
        net.send(1, &packet(1, 0, 0, 0));
        net.run(SECOND);
    }
    let begun: Vec<_> =
        net.log.iter().filter(|flight| flight.is_initiation()).map(|flight| flight.from).collect();
    assert_eq!(begun, [address(0); 4], "every 120 to 125 s, and never by node 1");
}

#[test]
fn who_began_and_only_receives_renews_in_time() {
    let mut net = pair_begun_by_node_0();
    for second in 0..178 {
        assert!(matches!(net.send(1, &packet(1, 0, 0, 0)), Sealed::Data(_)));
        net.run(SECOND);
        assert_eq!(net.initiations(), usize::from(second >= 165), "at {second} s");
    }
}

#[test]
fn packets_under_way_outlive_a_renewal_that_both_begin() {
    for _ in 0..8 {
        let mut net = pair();
        net.run(10 * SECOND);
        net.wire = Wire { latency: 30 * MILLISECOND, jitter: 400 * MILLISECOND, ..Wire::default() };
        for node in &mut net.nodes {
            node.device.peers[0].as_mut().unwrap().slots[0].current.as_mut().unwrap().sent =
                REKEY_AFTER_MESSAGES;
        }
        for step in 0..100 {
            net.send(0, &packet(0, 1, step, 0));
            net.send(1, &packet(1, 0, step, 0));
            net.run(10 * MILLISECOND);
        }
        net.run(2 * SECOND);
        assert_eq!((net.received(0).len(), net.received(1).len()), (100, 100));
    }
}

#[test]
fn attempts_to_reach_a_peer_that_has_gone_end() {
    let mut net = pair();
    net.cut.insert(1);
    net.send(0, &packet(0, 1, 0, 0));
    let start = net.now;
    net.run(400 * SECOND);
    let last = net.log.iter().rfind(|flight| flight.is_initiation()).unwrap().at - start;
    assert!(
        last >= 95 * SECOND && last <= 106 * SECOND,
        "15 s without answer and 90 s of attempts, not {last:?}"
    );
    assert_eq!(net.silent(0), 1);
}

#[test]
fn a_peer_silent_for_long_is_reached_again_by_the_next_packet() {
    let mut net = pair();
    net.cut.insert(1);
    for _ in 0..600 {
        net.send(0, &packet(0, 1, 0, 0));
        net.run(SECOND);
    }
    assert_eq!(net.silent(0), 1, "said once");
    net.run(200 * SECOND); // everybody has given up
    net.cut.clear();
    net.log.clear();
    net.run(100 * SECOND);
    assert_eq!(net.log.len(), 0);
    net.send(0, &packet(0, 1, 7, 0));
    net.run(SECOND);
    assert_eq!(net.received(1), [packet(0, 1, 7, 0)]);
}

#[test]
fn a_peer_silent_for_long_is_heard_again() {
    let mut net = pair();
    net.cut.insert(1);
    net.send(0, &packet(0, 1, 0, 0));
    net.run(600 * SECOND);
    net.cut.clear();
    net.send(1, &packet(1, 0, 7, 0));
    net.run(SECOND);
    assert_eq!(net.received(0), [packet(1, 0, 7, 0)]);
    assert!(matches!(net.send(0, &packet(0, 1, 8, 0)), Sealed::Data(_)));
}

#[test]
fn while_traffic_goes_on_a_silent_peer_is_back_within_a_retry() {
    let mut net = pair();
    net.cut.insert(1);
    for second in 0..400 {
        if second == 300 {
            net.cut.clear();
        }
        net.send(0, &packet(0, 1, second, 0));
        net.run(SECOND);
        if net.received(1).contains(&packet(0, 1, second, 0)) {
            assert!((300..=306).contains(&second), "back in second {second}");
            return;
        }
    }
    panic!("never back");
}

#[test]
fn a_persistent_keepalive_brings_a_silent_peer_back_without_traffic() {
    let mut net = pair();
    let mut config = config(0, 2);
    config.peers[0].persistent_keepalive = Some(25);
    net.apply(0, &config);
    net.run(60 * SECOND);
    assert!(net.log.iter().filter(|flight| flight.is_keepalive()).count() >= 3);
    net.cut.insert(1);
    net.run(600 * SECOND);
    assert_eq!(net.silent(0), 1);
    net.cut.clear();
    let back = net.run_until(40 * SECOND, |net| net.is_established(0, 1)).expect("back");
    assert!(back <= 31 * SECOND, "{back:?}");
}

#[test]
fn a_restarted_node_is_back_at_once() {
    let mut net = pair();
    for round in 0..3 {
        net.restart(1);
        net.apply(1, &config(1, 2));
        net.send(0, &packet(0, 1, round, 0)); // on a session that is gone
        net.run(50 * MILLISECOND);
        net.received(1);
        assert!(matches!(net.send(0, &packet(0, 1, 100 + round, 0)), Sealed::Data(_)));
        net.run(50 * MILLISECOND);
        assert_eq!(net.received(1), [packet(0, 1, 100 + round, 0)]);
        net.run(SECOND);
    }
}

#[test]
fn a_session_is_renewed_before_its_counter_runs_out() {
    let mut net = pair();
    let session = |net: &mut Net, sent: u64| {
        let peer = net.nodes[0].device.peers[0].as_mut().unwrap();
        peer.slots[0].current.as_mut().unwrap().sent = sent;
    };
    session(&mut net, REKEY_AFTER_MESSAGES);
    net.run(5 * SECOND);
    assert_eq!(net.initiations(), 1);
    session(&mut net, REJECT_AFTER_MESSAGES);
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Queued);
}

#[test]
fn what_waits_is_bounded_and_dropped_after_90_seconds() {
    let mut net = mesh(2);
    net.cut.insert(1);
    for number in 0..1000 {
        net.send(0, &packet(0, 1, number, 1000));
    }
    assert_eq!(net.counters(0).no_session, 1000 - 128, "the oldest made room");
    assert!(net.nodes[0].device.shared.waiting_bytes() <= 128 * 1024);
    net.run(100 * SECOND);
    assert_eq!(net.counters(0).no_session, 1000);
    assert_eq!(net.nodes[0].device.shared.waiting_bytes(), 0);
    assert_eq!(net.silent(0), 1);
}

#[test]
fn a_peer_without_endpoint_drops_packets_and_says_so() {
    let mut net = mesh(2);
    net.apply(0, &Config { peers: vec![Peer { endpoints: vec![], ..peer(1) }], ..config(0, 2) });
    net.restart(0);
    net.apply(0, &Config { peers: vec![Peer { endpoints: vec![], ..peer(1) }], ..config(0, 2) });
    assert_eq!(net.peer(0, 1).condition, PeerCondition::NoEndpoint);
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Dropped);
    assert_eq!(net.counters(0).no_session, 1);
}

#[test]
fn a_thousand_new_peers_are_begun_with_in_ticks() {
    let mut net = Net::new(Wire::default());
    net.add();
    let peers = (0..300_u16).map(|n| {
        let secret = PrivateKey::from_bytes(
            [[1; 16].as_slice(), &n.to_be_bytes(), &[7; 14]].concat().try_into().unwrap(),
        );
        let keys = vec![PeerKey {
            public_key: secret.public_key(),
            epoch: 1,
            preshared_key: None,
            is_retired: false,
        }];
        Peer { name: format!("p{n}"), keys, allowed_ips: vec![], ..peer(9) }
    });
    net.apply(0, &Config { identities: vec![identity(0, 1)], peers: peers.collect(), ..Config::default() });
    net.run(MILLISECOND);
    assert_eq!(net.initiations(), 32);
    net.run(SECOND);
    assert_eq!(net.initiations(), 300);
}
