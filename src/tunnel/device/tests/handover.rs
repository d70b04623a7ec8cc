//! One device succeeds another: what each does and does not do meanwhile.

use tokio::sync::oneshot;

use super::*;
use crate::tunnel::device::LivePeer;
use crate::tunnel::handover::{
    DRAIN, Inheritance, Link, Message, Predecessor, QUIET, Received, Role, SESSIONS_WAIT, Signal, Successor,
};

/// Node 0 of `net` as it was, and in its place a device of the same configuration; also returns the handover state of the first.
fn replace(net: &mut Net) -> (Device, Vec<LivePeer>, Vec<u32>) {
    let now = net.now;
    let live = net.nodes[0].device.retire(now);
    let indices = net.nodes[0].device.indices();
    let before = std::mem::replace(&mut net.nodes[0].device, Device::new(MTU, now));
    net.apply(0, &config(0, 2));
    (before, live, indices)
}

/// The same, and the second succeeds the first.
fn succeed(net: &mut Net) -> Device {
    let (before, live, indices) = replace(net);
    let now = net.now;
    net.nodes[0].device.succeed(&live, &indices, now);
    before
}

fn established() -> Net {
    let mut net = pair();
    net.send(0, &packet(0, 1, 0, 64));
    net.run(SECOND);
    net.send(1, &packet(1, 0, 0, 64));
    net.run(SECOND);
    net
}

#[test]
fn a_successor_meets_the_peers_that_were_heard_lately_where_they_are() {
    let mut net = established();
    let moved: std::net::SocketAddr = "198.51.100.7:9".parse().unwrap();
    net.relocate(1, moved);
    net.send(1, &packet(1, 0, 1, 64));
    net.run(SECOND);
    let before = net.initiations();
    let now = net.now;
    let live = net.nodes[0].device.retire(now);
    assert_eq!(
        live.iter().map(|peer| (peer.name.as_str(), peer.endpoint)).collect::<Vec<_>>(),
        [("node-1", moved.into())]
    );
    let old = succeed(&mut net);
    assert!(!net.nodes[0].device.reaches("node-1", now));
    assert!(net.nodes[0].device.reaches("of no such name", now), "nobody waits for a peer that is not");
    net.run(200 * MILLISECOND);
    let now = net.now;
    assert!(net.nodes[0].device.reaches("node-1", now));
    assert_eq!(net.initiations(), before + 1, "to the right place at once");
    // What the peer sealed for the session before is not the successor's, and still opens there.
    let session = old.indices()[0];
    let foreign = [&[4, 0, 0, 0][..], &(session << 8).to_le_bytes(), &[0; 24]].concat();
    assert!(!net.nodes[0].device.expects(&foreign));
    assert!(old.expects(&foreign));
}

#[test]
fn a_retired_device_begins_no_handshake_and_gives_away_what_waits() {
    let mut net = mesh(2);
    net.cut.insert(1);
    let now = net.now;
    net.nodes[0].device.retire(now);
    net.send(0, &packet(0, 1, 7, 64));
    net.run(10 * SECOND);
    assert!(!net.log.iter().any(|flight| flight.from == address(0)), "it is silent");
    assert_eq!(net.nodes[0].device.take_waiting(), [packet(0, 1, 7, 64)]);
    assert!(net.nodes[0].device.take_waiting().is_empty());
}

#[test]
fn a_revived_device_renews_its_sessions_even_when_the_first_try_is_lost() {
    let mut net = established();
    let now = net.now;
    net.nodes[0].device.retire(now);
    let before = net.initiations();
    let mut lost = 0;
    net.drop = Some(Box::new(move |flight| {
        lost += u32::from(flight.is_initiation());
        flight.is_initiation() && lost == 1
    }));
    net.nodes[0].device.revive(now);
    net.run(SECOND);
    assert_eq!(net.initiations(), before + 2);
    assert_eq!(net.peer(0, 1).condition, PeerCondition::Established);
}

fn next_signal(link: &mut Link) -> Option<Signal> {
    match link.receive() {
        Received::Message(Message::Signal(signal)) => Some(signal),
        _ => None,
    }
}

/// What node 0 does as a successor whose predecessor is at the other end of the link.
struct Succession {
    role: Role,
    predecessor: Link,
    peers: Vec<LivePeer>,
}

impl Succession {
    fn begin(net: &mut Net) -> Self {
        let (_, peers, _) = replace(net);
        let (ours, theirs) = Link::pair().unwrap();
        let mut successor = Successor::new(Inheritance { link: ours, taken: oneshot::channel().0 }, net.now);
        successor.is_configured = true;
        let mut predecessor = Link::new(theirs);
        assert_eq!(next_signal(&mut predecessor), Some(Signal::TakeUdp));
        Self { role: Role::Successor(successor), predecessor, peers }
    }

    fn take(&mut self, net: &mut Net, signal: Signal) {
        let role = std::mem::replace(&mut self.role, Role::Alone);
        self.role = role.take(signal, &mut net.nodes[0].device, net.now);
    }

    /// Lets time pass until it sends a signal.
    fn until_it_asks(&mut self, net: &mut Net) -> (Signal, Duration) {
        let begun = net.now;
        loop {
            self.role.advance(&mut net.nodes[0].device, true, net.now);
            if let Some(signal) = next_signal(&mut self.predecessor) {
                return (signal, net.now - begun);
            }
            assert!(net.now < begun + 2 * DRAIN, "it asks for nothing");
            net.run(10 * MILLISECOND);
        }
    }
}

/// Otherwise packets from the TUN would wait for a session, or be dropped, while the predecessor can still send them.
#[test]
fn a_successor_asks_for_the_tun_once_it_has_the_sessions_or_has_waited_for_them() {
    for is_reachable in [true, false] {
        let mut net = established();
        let mut succession = Succession::begin(&mut net);
        assert!(succession.role.must_wait(), "the predecessor would get the responses");
        let peers = Signal::Peers(succession.peers.clone());
        succession.take(&mut net, peers);
        succession.take(&mut net, Signal::UdpTaken);
        assert!(succession.role.must_wait(), "the device does not know yet where its peers are");
        if !is_reachable {
            net.cut.insert(1);
        }
        let (signal, waited) = succession.until_it_asks(&mut net);
        assert_eq!(signal, Signal::TakeTun);
        assert!(!succession.role.must_wait());
        assert_eq!(net.nodes[0].device.reaches("node-1", net.now), is_reachable, "{waited:?}");
        assert_eq!(waited >= SESSIONS_WAIT, !is_reachable, "{waited:?}");
    }
}

#[test]
fn a_predecessor_is_released_once_nothing_was_handed_back_for_a_while() {
    let mut net = established();
    let mut succession = Succession::begin(&mut net);
    for signal in [Signal::UdpTaken, Signal::TunTaken] {
        succession.take(&mut net, signal.clone());
        let (asked, waited) = succession.until_it_asks(&mut net);
        match signal {
            Signal::UdpTaken => assert_eq!(asked, Signal::TakeTun),
            _ => assert!(asked == Signal::Done && waited >= QUIET, "{asked:?} after {waited:?}"),
        }
    }
}

#[test]
fn a_predecessor_passes_on_what_has_no_session_and_leaves_the_tun_when_all_else_is_sent() {
    let mut net = mesh(2);
    net.cut.insert(1);
    net.send(0, &packet(0, 1, 7, 64));
    let (ours, theirs) = Link::pair().unwrap();
    let mut successor = Link::new(theirs);
    let (device, now) = (&mut net.nodes[0].device, net.now);
    let mut role = Role::Predecessor(Predecessor::new(ours, oneshot::channel().0));
    for signal in [Signal::TakeUdp, Signal::TakeTun] {
        role = role.take(signal, device, now);
    }
    while next_signal(&mut successor) != Some(Signal::UdpTaken) {}
    role.advance(device, false, now);
    assert!(role.reads().tun && matches!(successor.receive(), Received::Nothing), "a batch waits for room");
    role.advance(device, true, now);
    assert!(!role.reads().tun);
    let waiting = packet(0, 1, 7, 64);
    assert!(matches!(successor.receive(), Received::Message(Message::Packet(bytes)) if bytes == waiting));
    assert_eq!(next_signal(&mut successor), Some(Signal::TunTaken));
}
