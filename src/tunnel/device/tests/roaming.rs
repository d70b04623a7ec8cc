//! Where peers are.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn elsewhere() -> SocketAddr {
    "198.51.100.9:4500".parse().unwrap()
}

fn roamed(net: &Net, node: usize) -> usize {
    net.nodes[node].events.iter().filter(|event| matches!(event, DeviceEvent::Roamed { .. })).count()
}

#[test]
fn authenticated_data_from_elsewhere_moves_the_peer_and_the_configuration_does_not_move_it_back() {
    let mut net = pair();
    net.relocate(1, elsewhere());
    net.send(1, &packet(1, 0, 1, 0));
    net.run(SECOND);
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
    assert_eq!(roamed(&net, 0), 1);
    assert_eq!(net.apply(0, &config(0, 2)), PeerChanges::default());
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
    net.received(1);
    net.send(0, &packet(0, 1, 2, 0));
    net.run(SECOND);
    assert_eq!(net.received(1), [packet(0, 1, 2, 0)]);
}

#[test]
fn neither_replays_nor_forgeries_nor_stragglers_nor_handshakes_move_a_peer() {
    let mut net = pair();
    net.drop = Some(Box::new(|_| true));
    net.send(1, &packet(1, 0, 1, 0));
    net.send(1, &packet(1, 0, 2, 0));
    let [first, second] = [net.log[0].clone(), net.log[1].clone()];
    net.deliver(0, address(1), &second.bytes);
    net.deliver(0, elsewhere(), &second.bytes);
    assert_eq!(net.counters(0).replayed, 1);
    let mut forged = second.bytes.clone();
    forged[8] += 1;
    net.deliver(0, elsewhere(), &forged);
    assert_eq!(net.counters(0).bad_mac, 1);
    net.deliver(0, elsewhere(), &first.bytes);
    assert_eq!(net.received(0).len(), 2, "the straggler itself is good");
    net.restart(1);
    net.apply(1, &config(1, 2));
    net.run(MILLISECOND);
    let initiation = net.log.iter().rfind(|flight| flight.is_initiation()).unwrap().clone();
    net.deliver(0, elsewhere(), &initiation.bytes);
    assert_eq!(net.log.last().unwrap().to, elsewhere(), "answered to where it came from");
    assert_eq!((net.peer(0, 1).endpoint, roamed(&net, 0)), (Some(address(1)), 0));
}

#[test]
fn a_peer_without_endpoint_is_found_when_it_speaks() {
    let mut net = mesh(2);
    net.restart(0);
    net.apply(0, &Config { peers: vec![Peer { endpoints: vec![], ..peer(1) }], ..config(0, 2) });
    net.relocate(1, elsewhere());
    net.run(SECOND);
    assert_eq!((net.peer(0, 1).endpoint, roamed(&net, 0)), (Some(elsewhere()), 1));
    assert!(matches!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Data(_)));
}

/// What node 0 sends goes on while node 1 moves without a word: it is found again at the next candidate.
#[test]
fn unanswered_attempts_try_the_next_candidate() {
    let mut net = Net::new(Wire::default());
    let dead = ["203.0.113.1:1", "203.0.113.2:1"].map(|text| text.parse().unwrap());
    for node in 0..2 {
        net.add();
        let mut config = config(node, 2);
        config.peers[0].endpoints = vec![dead[0], dead[1], address(1 - usize::from(node))];
        net.apply(node.into(), &config);
    }
    let took = net.run_until(20 * SECOND, |net| net.is_established(0, 1)).expect("found");
    assert!(took >= 10 * SECOND && took <= 12 * SECOND, "two retries: {took:?}");
    assert_eq!(net.peer(0, 1).endpoint, Some(address(1)));
}

#[test]
fn a_peer_that_moved_silently_to_another_candidate_is_found_again() {
    let mut net = mesh(2);
    let mut config = config(0, 2);
    config.peers[0].endpoints.push(elsewhere());
    net.apply(0, &config);
    net.run(SECOND);
    net.relocate(1, elsewhere());
    let start = net.now;
    for number in 0..60 {
        net.send(0, &packet(0, 1, number, 0));
        net.run(SECOND);
    }
    let first = net.received(1)[0].clone();
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
    let number = u32::from_be_bytes(first[20..24].try_into().unwrap());
    assert!(number <= 22, "15 s without answer, 5 s for the retry; first heard {number} s after {start:?}");
}

#[test]
fn where_a_peer_was_heard_stays_among_the_places_to_try() {
    let mut net = pair();
    net.relocate(1, elsewhere());
    net.send(1, &packet(1, 0, 1, 0));
    net.run(SECOND);
    net.cut.insert(1);
    for number in 0..100 {
        net.send(0, &packet(0, 1, number, 0));
        net.run(SECOND);
    }
    let tried: std::collections::HashSet<_> = net
        .log
        .iter()
        .filter(|flight| flight.is_initiation() && flight.from == address(0))
        .map(|flight| flight.to)
        .collect();
    assert_eq!(tried, [address(1), elsewhere()].into());
    let attempts = net.log.iter().filter(|flight| flight.is_initiation() && flight.to == elsewhere()).count();
    assert!(attempts >= 5, "in turn, not {attempts} times");
    net.cut.clear();
    net.run(11 * SECOND);
    assert!(net.is_established(0, 1));
}

#[test]
fn another_first_choice_is_used_at_once() {
    let mut net = pair();
    let mut config = config(0, 2);
    config.peers[0].endpoints = vec![elsewhere()];
    assert_eq!(net.apply(0, &config).changed, ["node-1"]);
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
    config.peers[0].endpoints = vec![address(1), elsewhere()];
    net.apply(0, &config);
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()), "still a candidate, so kept");
}

#[test]
fn a_straggler_on_a_session_that_was_renewed_does_not_move_a_peer() {
    let mut net = pair();
    net.drop = Some(Box::new(|flight| flight.carries()));
    net.send(1, &packet(1, 0, 1, 0));
    let held_back = net.log[0].clone();
    net.drop = None;
    for _ in 0..130 {
        net.send(0, &packet(0, 1, 0, 0));
        net.send(1, &packet(1, 0, 0, 0));
        net.run(SECOND);
    }
    assert!(net.initiations() > 0, "renewed");
    // The newest of its session that node 0 gets, all later ones having been lost:
    let peer = net.nodes[0].device.peers[0].as_mut().unwrap();
    let index = u32::from_le_bytes(held_back.bytes[4..8].try_into().unwrap());
    peer.slots[0].find(index).expect("still there").1.forget_received();
    net.received(0);
    net.deliver(0, elsewhere(), &held_back.bytes);
    assert_eq!(net.received(0).len(), 1);
    assert_eq!(net.peer(0, 1).endpoint, Some(address(1)));
}

#[test]
fn lost_handshakes_do_not_send_a_live_peers_data_elsewhere() {
    let mut net = mesh(2);
    let mut config = config(0, 2);
    config.peers[0].endpoints.push(elsewhere());
    net.apply(0, &config);
    net.run(SECOND);
    net.drop = Some(Box::new(|flight| flight.is_initiation()));
    for number in 0..150 {
        net.send(0, &packet(0, 1, number, 0));
        net.send(1, &packet(1, 0, number, 0));
        net.run(SECOND);
    }
    assert!(net.initiations() > 5);
    assert_eq!(net.received(1).len(), 150);
}

#[test]
fn a_candidate_that_is_withdrawn_is_left() {
    let mut net = mesh(2);
    let mut config = config(0, 2);
    config.peers[0].endpoints = vec![address(1), elsewhere()];
    net.apply(0, &config);
    net.cut.insert(1);
    net.run_until(10 * SECOND, |net| net.peer(0, 1).endpoint == Some(elsewhere())).expect("tried");
    config.peers[0].endpoints.pop();
    net.apply(0, &config);
    assert_eq!(net.peer(0, 1).endpoint, Some(address(1)));
}

#[test]
fn a_new_endpoint_of_a_silent_peer_is_tried_without_traffic() {
    let mut net = mesh(2);
    net.restart(1);
    net.apply(1, &Config { peers: vec![Peer { endpoints: vec![], ..peer(0) }], ..config(1, 2) });
    net.relocate(1, elsewhere());
    net.run(200 * SECOND);
    assert!(!net.is_established(0, 1));
    let mut moved = config(0, 2);
    moved.peers[0].endpoints = vec![elsewhere()];
    net.apply(0, &moved);
    net.run(SECOND);
    assert!(net.is_established(0, 1));
}

/// A place where nobody is.
fn nowhere() -> SocketAddr {
    "10.1.1.1:51830".parse().unwrap()
}

/// Node 0's configuration that proposes these endpoints of node 1.
fn proposing(endpoints: &[SocketAddr]) -> Config {
    let peer = Peer { endpoints: endpoints.to_vec(), ..peer(1) };
    Config { peers: vec![peer], proposes: true, ..config(0, 2) }
}

/// Node 0 heard node 1 from behind a NAT, and was told of `endpoints`.
fn behind_nat(idle: Duration, endpoints: &[SocketAddr]) -> Net {
    let mut net = mesh(2);
    net.apply(0, &proposing(&[]));
    net.relocate(1, elsewhere());
    net.run(SECOND);
    net.send(1, &packet(1, 0, 1, 0));
    net.run(idle);
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
    net.received(1);
    net.log.clear();
    net.apply(0, &proposing(endpoints));
    net
}

fn asked(net: &Net, place: SocketAddr) -> usize {
    net.log.iter().filter(|flight| flight.is_initiation() && flight.to == place).count()
}

#[test]
fn where_a_peer_was_heard_stays_until_it_answers_elsewhere() {
    // In use; idle, but with a session; without one.
    for idle in [SECOND, 100 * SECOND, 400 * SECOND] {
        let mut net = behind_nat(idle, &[nowhere()]);
        assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
        for number in 0..150 {
            net.send(0, &packet(0, 1, number, 0));
            net.run(SECOND);
        }
        assert_eq!(net.received(1).len(), 150, "idle for {idle:?}: nothing is sent to where nobody is");
        assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
        let attempts = asked(&net, nowhere());
        assert!(attempts <= 4 && (attempts > 0 || idle > 180 * SECOND), "{attempts} after {idle:?}");
    }
}

#[test]
fn a_peer_that_answers_at_a_new_candidate_is_there() {
    let there: SocketAddr = "203.0.113.7:51830".parse().unwrap();
    for candidates in [vec![there], vec![nowhere(), there]] {
        let mut net = behind_nat(SECOND, &[]);
        // It moved without a word, and what is sent to where it was is lost.
        net.relocate(1, there);
        net.apply(0, &proposing(&candidates));
        // Five seconds, and jitter, after the initiation before.
        let limit = 6 * SECOND * u32::try_from(candidates.len()).unwrap();
        net.run_until(limit, |net| net.peer(0, 1).endpoint == Some(there)).expect("found");
        let event = DeviceEvent::Roamed { peer: "node-1".into(), endpoint: there };
        assert!(net.nodes[0].events.contains(&event));
        net.send(0, &packet(0, 1, 2, 0));
        net.run(SECOND);
        assert_eq!(net.received(1), [packet(0, 1, 2, 0)]);
        let attempts = asked(&net, there);
        net.run(60 * SECOND);
        assert_eq!(asked(&net, there), attempts, "once it has answered it is not asked any more");
    }
}

#[test]
fn a_peer_that_is_gone_from_where_it_was_heard_is_looked_for_everywhere() {
    let there: SocketAddr = "203.0.113.7:51830".parse().unwrap();
    let nobody = (1..=4).map(|number| SocketAddr::from(([10, 1, 1, number], 51830)));
    let mut net = behind_nat(SECOND, &[]);
    net.relocate(1, there);
    net.apply(0, &proposing(&nobody.chain([there]).collect::<Vec<_>>()));
    for number in 0..60 {
        net.send(0, &packet(0, 1, number, 0));
        net.run(SECOND);
    }
    assert_eq!(net.peer(0, 1).endpoint, Some(there), "the last of five");
    assert!(!net.received(1).is_empty());
}

#[test]
fn another_node_of_the_same_name_is_not_where_the_one_before_was() {
    let mut net = behind_nat(SECOND, &[]);
    let mut other = proposing(&[nowhere()]);
    other.peers[0].keys = vec![key(9, 1, None)];
    net.apply(0, &other);
    assert_eq!(net.peer(0, 1).endpoint, Some(nowhere()));
}

#[test]
fn a_device_that_starts_again_knows_where_peers_were_heard() {
    let mut net = behind_nat(SECOND, &[nowhere()]);
    net.restart(0);
    let heard = [("node-1".to_owned(), elsewhere())].into();
    net.apply(0, &Config { heard, ..proposing(&[nowhere()]) });
    net.run(SECOND);
    assert!(net.is_established(0, 1));
    net.apply(0, &proposing(&["10.1.1.2:51830".parse().unwrap()]));
    assert_eq!(net.peer(0, 1).endpoint, Some(elsewhere()));
}

/// What node 1 sends reaches node 0 from `from`.
fn heard_from(net: &mut Net, from: SocketAddr) {
    let now = net.now;
    let device = &mut net.nodes[1].device;
    let peer = device.route([10, 0, 0, 1].into()).unwrap();
    let mut out = [0; 128];
    let Sealed::Data(length) = device.seal(peer, &packet(1, 0, 0, 0), &mut out, now) else {
        panic!("no session")
    };
    net.deliver(0, from, &out[..length]);
}

fn places(net: &Net) -> Vec<SocketAddr> {
    let places = net.nodes[0].events.iter().filter_map(|event| match event {
        DeviceEvent::Roamed { endpoint, .. } => Some(*endpoint),
        _ => None,
    });
    places.collect()
}

#[test]
fn a_storm_of_moves_is_reported_once_a_second_and_the_last_one_is_reported() {
    let mut net = pair();
    let start = net.now;
    for number in 0..10_000_u16 {
        heard_from(&mut net, SocketAddr::from(([198, 51, 100, 9], 1 + number % 2)));
        net.run(MILLISECOND);
    }
    let last: SocketAddr = "198.51.100.9:77".parse().unwrap();
    heard_from(&mut net, last);
    net.run(2 * SECOND);
    let places = places(&net);
    assert!(places.len() <= 13, "{} events in {:?}", places.len(), net.now - start);
    assert_eq!(places.last(), Some(&last));
    assert_eq!(net.peer(0, 1).endpoint, Some(last));
}

#[test]
fn moves_are_reported_late_rather_than_never_while_many_events_wait() {
    let mut net = pair();
    for _ in 0..4096 {
        net.nodes[0].device.shared.event(DeviceEvent::Silent { peer: "another".into() });
    }
    heard_from(&mut net, elsewhere());
    assert_eq!((net.silent(0), places(&net)), (4096, vec![]), "no event is dropped");
    net.run(SECOND);
    assert_eq!(places(&net), [elsewhere()]);
}

#[test]
fn where_a_peer_stays_is_reported_when_the_configuration_proposes_another_place() {
    let mut net = pair();
    net.apply(0, &proposing(&[nowhere()]));
    net.run(SECOND);
    assert_eq!(net.peer(0, 1).endpoint, Some(address(1)));
    assert_eq!(places(&net), [address(1)], "a new device would begin where nobody is");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the moves, the last event says where the peer is at last.
    #[test]
    fn the_last_place_is_what_is_reported(moves in proptest::collection::vec((0_u16..4, 0_u64..1500), 1..40)) {
        let mut net = pair();
        let place = |number| if number == 0 { address(1) } else { SocketAddr::from(([198, 51, 100, 9], number)) };
        let start = net.now;
        for (number, gap) in &moves {
            heard_from(&mut net, place(*number));
            net.run(Duration::from_millis(*gap));
        }
        net.run(2 * SECOND);
        let places = places(&net);
        let expected = places.last().copied().unwrap_or(address(1));
        prop_assert_eq!(Some(expected), net.peer(0, 1).endpoint); // keepalives come from node 1's own address
        prop_assert!(places.len() as u64 <= (net.now - start).as_secs() + 1);
    }
}
