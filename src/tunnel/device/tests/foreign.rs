//! A peer that is no Selvedge: boringtun's `Tunn`, whole, with its own habits.

use boringtun::noise::{Tunn, TunnResult};

use super::*;

/// Node 1 as a bare `Tunn`, facing node 0.
struct Foreign {
    tunn: Tunn,
    received: Vec<Vec<u8>>,
}

impl Foreign {
    fn new() -> Self {
        let peer = private(0, 1).public_key().to_dalek();
        Self { tunn: Tunn::new(private(1, 1).to_dalek(), peer, None, None, 7, None), received: Vec::new() }
    }

    fn initiate(&mut self) -> Vec<u8> {
        match self.tunn.format_handshake_initiation(&mut [0; 148], true) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        match self.tunn.encapsulate(packet, &mut [0; 2048]) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Takes a datagram; what it has to say to it.
    fn take(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        match self.tunn.decapsulate(None, datagram, &mut [0; 2048]) {
            TunnResult::WriteToNetwork(bytes) => Some(bytes.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) => {
                self.received.push(packet.to_vec());
                None
            }
            TunnResult::Done => None,
            other => panic!("{other:?}"),
        }
    }
}

/// Node 0, which knows node 1, or has to be found by it.
fn node(endpoint: bool) -> Net {
    let mut net = Net::new(Wire::default());
    net.add();
    let mut config = config(0, 2);
    if !endpoint {
        config.peers[0].endpoints.clear();
    }
    net.apply(0, &config);
    net.run(MILLISECOND);
    net
}

/// Carries what was sent and not carried yet to the foreign peer, and its answers back.
fn carry(net: &mut Net, foreign: &mut Foreign) {
    while let Some(flight) = (!net.log.is_empty()).then(|| net.log.remove(0)) {
        if let Some(answer) = foreign.take(&flight.bytes) {
            net.deliver(0, address(1), &answer);
        }
    }
}

#[test]
fn a_foreign_initiator_is_answered_and_known_after_its_keepalive() {
    let (mut net, mut foreign) = (node(false), Foreign::new());
    let initiation = foreign.initiate();
    net.deliver(0, address(1), &initiation);
    assert_eq!(net.peer(0, 1).condition, PeerCondition::Handshaking);
    assert_eq!(net.peer(0, 1).endpoint, None, "not by a handshake");
    carry(&mut net, &mut foreign);
    assert!(net.is_established(0, 1));
    assert_eq!(net.peer(0, 1).endpoint, Some(address(1)));
    let odd = packet(1, 0, 5, 3); // not padded
    let message = foreign.seal(&odd);
    net.deliver(0, address(1), &message);
    assert_eq!(net.received(0), [odd]);
    net.send(0, &packet(0, 1, 6, 3));
    carry(&mut net, &mut foreign);
    assert_eq!(foreign.received, [packet(0, 1, 6, 3)]);
}

#[test]
fn a_foreign_responder_gets_data_at_once() {
    let (mut net, mut foreign) = (node(true), Foreign::new());
    for number in 0..3 {
        assert_eq!(net.send(0, &packet(0, 1, number, 0)), Sealed::Queued);
    }
    carry(&mut net, &mut foreign);
    assert_eq!(foreign.received.len(), 3);
    assert!(!net.is_established(0, 1), "it has said nothing yet");
    assert!(matches!(net.send(0, &packet(0, 1, 9, 0)), Sealed::Data(_)));
    let message = foreign.seal(&packet(1, 0, 0, 0));
    net.deliver(0, address(1), &message);
    assert!(net.is_established(0, 1));
}

#[test]
fn a_peer_that_initiates_without_pause_is_answered_now_and_then() {
    let (mut net, mut foreign) = (node(false), Foreign::new());
    for _ in 0..10 {
        let initiation = foreign.initiate();
        net.deliver(0, address(1), &initiation);
    }
    assert_eq!((net.log.len(), net.counters(0).under_load), (1, 9));
    net.run(25 * MILLISECOND);
    let initiation = foreign.initiate();
    net.deliver(0, address(1), &initiation);
    assert_eq!(net.log.len(), 2);
    net.check();
}

#[test]
fn the_newest_of_several_answered_initiations_is_the_session() {
    let (mut net, mut foreign) = (node(false), Foreign::new());
    for _ in 0..12 {
        let initiation = foreign.initiate();
        net.deliver(0, address(1), &initiation);
        net.run(25 * MILLISECOND);
    }
    assert_eq!(net.nodes[0].device.shared.indices.len(), 1, "made anew, not heaped up");
    net.log.drain(..11);
    carry(&mut net, &mut foreign);
    assert!(net.is_established(0, 1));
}
