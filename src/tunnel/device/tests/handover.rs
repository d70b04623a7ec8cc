//! One device succeeds another: what each does and does not do meanwhile.

use super::*;

/// Node 0 of `net` as it was, and in its place a device of the same configuration that succeeds it.
fn succeed(net: &mut Net) -> Device {
    let now = net.now;
    let live = net.nodes[0].device.retire(now);
    let indices = net.nodes[0].device.indices();
    let before = std::mem::replace(&mut net.nodes[0].device, Device::new(MTU, now));
    net.apply(0, &config(0, 2));
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
