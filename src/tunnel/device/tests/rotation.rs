//! Keys rotate under traffic without losing a packet.

use super::net::Flight;
use super::*;

/// A short wire, and a long one on which packets overtake each other.
fn wires() -> [Wire; 2] {
    [Wire::default(), Wire { latency: 40 * MILLISECOND, jitter: 5 * MILLISECOND, ..Wire::default() }]
}

fn with(node: u8, own: &[u8], other: u8, keys: &[u8]) -> Config {
    let mut peer = peer(other);
    peer.keys = keys.iter().map(|epoch| key(other, *epoch, None)).collect();
    Config {
        identities: own.iter().map(|epoch| identity(node, *epoch)).collect(),
        peers: vec![peer],
        ..Config::default()
    }
}

/// The pair (own epoch, peer epoch) that `node` sends by.
fn sending(net: &Net, node: usize) -> Option<(u64, u64)> {
    let sessions = net.peer(node, 1 - node).sessions;
    sessions
        .into_iter()
        .find(|session| session.sending)
        .map(|session| (session.own_epoch, session.peer_epoch))
}

/// Sends a packet each way every 10 ms while each `(when, node, configuration)` (in steps) is applied.
fn under_traffic(net: &mut Net, steps: u32, changes: &[(u32, usize, Config)]) {
    for step in 0..steps {
        for (_, node, config) in changes.iter().filter(|(when, ..)| *when == step) {
            net.apply(*node, config);
        }
        net.send(0, &packet(0, 1, step, 64));
        net.send(1, &packet(1, 0, step, 64));
        net.run(10 * MILLISECOND);
    }
    net.run(SECOND);
}

fn assert_all_arrived(net: &mut Net, steps: u32) {
    for node in [0, 1] {
        let received = net.received(node);
        assert_eq!(received.len(), steps as usize, "packets at node {node}");
    }
}

#[test]
fn a_node_takes_a_new_key_without_losing_a_packet() {
    for wire in wires() {
        let mut net = pair();
        net.wire = wire;
        under_traffic(
            &mut net,
            2000,
            &[
                (100, 0, with(0, &[1, 2], 1, &[1])), // prepared; nobody knows the new key yet
                (300, 1, with(1, &[1], 0, &[1, 2])), // published
                (1500, 0, with(0, &[2], 1, &[1])),   // promoted and the old one retired
                (1600, 1, with(1, &[1], 0, &[2])),
            ],
        );
        assert_all_arrived(&mut net, 2000);
        assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((2, 1)), Some((1, 2))));
        let told = |node: usize, event: DeviceEvent| net.nodes[node].events.contains(&event);
        assert!(told(0, DeviceEvent::Confirmed { peer: "node-1".into(), own_epoch: 2, peer_epoch: 1 }));
        assert!(told(1, DeviceEvent::Confirmed { peer: "node-0".into(), own_epoch: 1, peer_epoch: 2 }));
    }
}

#[test]
fn both_nodes_rotate_at_once_without_losing_a_packet() {
    let mut net = pair();
    under_traffic(
        &mut net,
        3000,
        &[
            (100, 0, with(0, &[1, 2], 1, &[1])),
            (110, 1, with(1, &[1, 2], 0, &[1])),
            (300, 0, with(0, &[1, 2], 1, &[1, 2])),
            (330, 1, with(1, &[1, 2], 0, &[1, 2])),
            (2000, 1, with(1, &[2], 0, &[1, 2])),
            (2050, 0, with(0, &[1, 2], 1, &[2])),
            (2100, 0, with(0, &[2], 1, &[2])),
            (2200, 1, with(1, &[2], 0, &[2])),
        ],
    );
    assert_all_arrived(&mut net, 3000);
    assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((2, 2)), Some((2, 2))));
}

/// `config` with the peer's key of `epoch` retired.
fn retired(mut config: Config, epoch: u64) -> Config {
    let key = config.peers[0].keys.iter_mut().find(|key| key.epoch == epoch).unwrap();
    key.is_retired = true;
    config
}

/// `config` with the own key of `epoch` withdrawn.
fn withdrawn(mut config: Config, epoch: u64) -> Config {
    let key = config.identities.iter_mut().find(|key| key.epoch == epoch).unwrap();
    key.is_withdrawn = true;
    config
}

/// As when the agent of node 1 was away for the whole rotation of node 0: it learns of the new key when that is in use already.
#[test]
fn sessions_of_a_retired_key_carry_packets_until_the_new_key_is_confirmed() {
    for wire in wires() {
        let mut net = pair();
        net.wire = wire;
        under_traffic(
            &mut net,
            2000,
            &[
                (100, 0, with(0, &[1, 2], 1, &[1])), // prepared, and promoted at a deadline
                (500, 1, retired(with(1, &[1], 0, &[1, 2]), 1)),
                (1500, 0, with(0, &[2], 1, &[1])),
                (1600, 1, with(1, &[1], 0, &[2])),
            ],
        );
        assert_all_arrived(&mut net, 2000);
        assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((2, 1)), Some((1, 2))));
    }
}

#[test]
fn a_retired_key_begins_and_answers_no_handshake_and_ends_with_its_sessions() {
    // Either end may have begun the session, and so be the one to renew it.
    for (retiring, other) in [(1, 0), (0, 1)] {
        let mut net = pair();
        let config = retired(with(retiring, &[1], other, &[1, 2]), 1);
        let (retiring, other) = (usize::from(retiring), usize::from(other));
        net.apply(retiring, &config); // the other node has no key of epoch 2
        assert_eq!(sending(&net, retiring), Some((1, 1)), "the only session there is");
        net.log.clear();
        let [there, back] = [(other, retiring), (retiring, other)].map(|(from, to)| {
            move |step| packet(u8::try_from(from).unwrap(), u8::try_from(to).unwrap(), step, 64)
        });
        for step in 0..300 {
            net.send(other, &there(step));
            net.send(retiring, &back(step));
            net.run(SECOND);
        }
        assert!(
            net.log.iter().any(|flight| flight.is_initiation() && flight.from == address(other)),
            "it asks"
        );
        assert!(!net.log.iter().any(Flight::is_response), "nobody gets an answer");
        let received = net.received(retiring).len();
        assert!((100..=180).contains(&received), "{received} packets: as long as the session lives");
        assert_eq!(net.peer(retiring, other).sessions.len(), 1, "the slot ended with its session");
        // One that never had a session is not even tried.
        let plain = with(u8::try_from(retiring).unwrap(), &[1], u8::try_from(other).unwrap(), &[2]);
        net.apply(retiring, &plain);
        net.apply(retiring, &config);
        assert_eq!(net.peer(retiring, other).sessions.len(), 1);
    }
}

#[test]
fn an_aborted_rotation_goes_back_without_losing_a_packet() {
    for wire in wires() {
        let mut net = pair();
        net.wire = wire;
        under_traffic(
            &mut net,
            2500,
            &[
                (100, 0, with(0, &[1, 2], 1, &[1])),
                (300, 1, with(1, &[1], 0, &[1, 2])),
                (1000, 0, withdrawn(with(0, &[1, 2], 1, &[1]), 2)), // aborted
                (1500, 1, with(1, &[1], 0, &[1])),                  // no longer published
                (2000, 0, with(0, &[1], 1, &[1])),                  // dropped
            ],
        );
        assert_all_arrived(&mut net, 2500);
        assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((1, 1)), Some((1, 1))));
    }
}

/// It begins with the key that is withdrawn, while the other end goes by a session that was lost.
#[test]
fn a_peer_that_restarts_during_an_abort_is_reached_by_the_old_key_soon() {
    let mut net = pair();
    net.apply(0, &with(0, &[1, 2], 1, &[1]));
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    net.run(20 * SECOND);
    net.apply(0, &withdrawn(with(0, &[1, 2], 1, &[1]), 2));
    net.run(SECOND);
    assert_eq!(sending(&net, 0), Some((1, 1)));
    net.restart(1);
    // It knows the new key alone at first, so that no handshake on the old one comes in between.
    net.apply(1, &with(1, &[1], 0, &[2]));
    net.run(SECOND);
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    for step in 0..300 {
        net.send(0, &packet(0, 1, step, 64));
        net.send(1, &packet(1, 0, step, 64));
        net.run(10 * MILLISECOND);
    }
    net.run(SECOND);
    assert!(net.received(1).len() >= 250, "{} of 300 packets", net.received(1).len());
}

/// Its agent is away: it does not know that the key is withdrawn.
#[test]
fn a_withdrawn_key_still_answers_peers_that_know_no_better() {
    let mut net = pair();
    net.apply(0, &with(0, &[1, 2], 1, &[1]));
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    net.run(SECOND);
    net.apply(0, &withdrawn(with(0, &[1, 2], 1, &[1]), 2));
    let steps = 400;
    for step in 0..steps {
        net.send(0, &packet(0, 1, step, 64));
        net.send(1, &packet(1, 0, step, 64));
        net.run(SECOND);
    }
    assert_all_arrived(&mut net, steps);
    assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((1, 1)), Some((1, 2))));
}

#[test]
fn packets_go_by_the_old_key_until_the_new_is_confirmed() {
    let mut net = pair();
    // The new session's handshake is answered, but none of its data gets through to node 0.
    net.apply(0, &with(0, &[1, 2], 1, &[1]));
    let mut old = None;
    net.drop = Some(Box::new(move |flight| {
        let receiver = <[u8; 4]>::try_from(&flight.bytes[4..8]).unwrap();
        let data = flight.bytes[0] == 4 && flight.to == address(0);
        data && *old.get_or_insert(receiver) != receiver
    }));
    net.send(1, &packet(1, 0, 0, 0)); // names the old session
    net.run(SECOND);
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    net.log.clear();
    for number in 0..300 {
        net.send(0, &packet(0, 1, number, 0));
        net.run(100 * MILLISECOND);
    }
    assert!(net.log.iter().any(|flight| flight.is_response()), "the new session exists");
    assert!(net.initiations() <= 2 * 7, "{} handshakes in 30 s", net.initiations());
    assert_eq!(sending(&net, 0), Some((1, 1)));
    assert_eq!(net.received(1).len(), 300);
    net.drop = None;
    net.run(10 * SECOND);
    assert_eq!(sending(&net, 0), Some((2, 1)), "tried again until both ends know");
}

#[test]
fn a_lossy_wire_delays_a_rotation_but_no_more() {
    let mut net = pair();
    net.wire = Wire { lose: 20, duplicate: 10, jitter: 30 * MILLISECOND, corrupt: 2, ..Wire::default() };
    net.apply(0, &with(0, &[1, 2], 1, &[1]));
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    net.send(0, &packet(0, 1, 0, 0));
    let took =
        net.run_until(60 * SECOND, |net| sending(net, 0) == Some((2, 1)) && sending(net, 1) == Some((1, 2)));
    assert!(took.is_some(), "{:?} {:?}", sending(&net, 0), sending(&net, 1));
}

#[test]
fn an_idle_peer_is_reached_by_whatever_key_it_knows() {
    let mut net = Net::new(Wire::default());
    net.add();
    net.add();
    net.apply(0, &with(0, &[1, 2], 1, &[1, 2]));
    net.apply(1, &with(1, &[1], 0, &[1]));
    net.send(0, &packet(0, 1, 0, 0));
    net.run(SECOND);
    assert_eq!(net.received(1).len(), 1);
    assert_eq!((sending(&net, 0), sending(&net, 1)), (Some((1, 1)), Some((1, 1))));
}

#[test]
fn three_nodes_and_one_rotates() {
    let mut net = mesh(3);
    net.run(SECOND);
    let two = Config { identities: vec![identity(0, 1), identity(0, 2)], ..config(0, 3) };
    let new = Config { identities: vec![identity(0, 2)], ..config(0, 3) };
    for step in 0..600 {
        match step {
            100 => drop(net.apply(0, &two)),
            150 | 200 => {
                let node = if step == 150 { 1 } else { 2 };
                let mut config = config(node, 3);
                config.peers[0].keys.push(key(0, 2, None));
                net.apply(node.into(), &config);
            }
            400 => drop(net.apply(0, &new)),
            _ => {}
        }
        for (from, to) in [(0, 1), (0, 2), (1, 0), (2, 0), (1, 2)] {
            net.send(from, &packet(u8::try_from(from).unwrap(), to, step, 0));
        }
        net.run(50 * MILLISECOND);
    }
    net.run(SECOND);
    let received: Vec<usize> = (0..3).map(|node| net.received(node).len()).collect();
    assert_eq!(received, [1200, 600, 1200]);
}

#[test]
fn the_first_session_too_is_tried_until_both_ends_know() {
    let mut net = Net::new(Wire::default());
    net.add();
    net.add();
    let (mut quiet, both) = (with(1, &[1], 0, &[1, 2]), with(0, &[1, 2], 1, &[1]));
    quiet.peers[0].endpoints.clear();
    net.apply(0, &both);
    net.apply(1, &quiet);
    net.drop = Some(Box::new(|flight| flight.from == address(1) && flight.bytes[0] == 4));
    net.run(3 * SECOND);
    assert!(!net.is_established(0, 1));
    net.drop = None;
    net.run(4 * SECOND);
    assert!(net.is_established(0, 1));
}

#[test]
fn once_a_preferred_key_works_the_others_are_left_alone() {
    let mut net = Net::new(Wire::default());
    net.add();
    net.add();
    net.apply(0, &with(0, &[1], 1, &[1, 2])); // node 1 has no key of epoch 1 any more
    net.apply(1, &with(1, &[2], 0, &[1]));
    net.run(SECOND);
    assert_eq!(sending(&net, 0), Some((1, 2)));
    net.log.clear();
    net.run(100 * SECOND);
    assert_eq!(net.initiations(), 0);
}

#[test]
fn packets_fall_back_to_the_older_key_at_once() {
    let mut net = pair();
    net.apply(0, &with(0, &[1, 2], 1, &[1]));
    net.apply(1, &with(1, &[1], 0, &[1, 2]));
    net.run(SECOND);
    assert_eq!(sending(&net, 0), Some((2, 1)));
    let peer = net.nodes[0].device.peers[0].as_mut().unwrap();
    peer.slots[0].current.as_mut().unwrap().sent = super::super::timing::REJECT_AFTER_MESSAGES;
    assert!(matches!(net.send(0, &packet(0, 1, 7, 0)), Sealed::Data(_)));
    net.run(SECOND);
    assert_eq!(net.received(1), [packet(0, 1, 7, 0)]);
}
