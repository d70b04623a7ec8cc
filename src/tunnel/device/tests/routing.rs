//! Cryptokey routing.

use super::net::packet6;
use super::*;

#[test]
fn a_source_of_another_peer_or_of_nobody_is_refused() {
    let mut net = mesh(3);
    net.run(SECOND);
    let mut wide = config(1, 3);
    wide.peers[0].allowed_ips.push("0.0.0.0/0".parse().unwrap()); // node 1 sends all of it to node 0
    net.apply(1, &wide);
    for source in [2, 0, 77] {
        assert!(matches!(net.send(1, &packet(source, 0, 0, 0)), Sealed::Data(_)));
    }
    net.send(1, &packet6(2, 0, 8));
    net.run(SECOND);
    assert!(net.received(0).is_empty());
    assert_eq!(net.counters(0).wrong_source, 4);
    net.send(1, &packet(1, 0, 0, 0));
    net.run(SECOND);
    assert_eq!(net.received(0).len(), 1);
}

#[test]
fn a_wider_prefix_does_not_cover_the_narrower_one_of_another_peer() {
    let mut net = mesh(3);
    net.run(SECOND);
    let mut config = config(0, 3);
    config.peers[0].allowed_ips = vec!["10.0.0.0/8".parse().unwrap()]; // node 1 has everything but 10.2/16
    net.apply(0, &config);
    net.send(1, &packet(9, 0, 0, 0));
    assert_eq!(net.received(0).len(), 0);
    net.run(SECOND);
    assert_eq!(net.received(0).len(), 1, "10.9 is node 1's");
    net.send(1, &packet(2, 0, 0, 0));
    net.run(SECOND);
    assert_eq!((net.received(0).len(), net.counters(0).wrong_source), (0, 1), "10.2 is node 2's");
}

#[test]
fn what_is_no_packet_is_refused() {
    let mut net = pair();
    for junk in [vec![0x45; 8], vec![0; 40], packet(1, 0, 0, 400)[..60].to_vec()] {
        let (device, now) = (&mut net.nodes[1].device, net.now);
        let mut out = [0; 128];
        let peer = device.route([10, 0, 0, 1].into()).unwrap();
        let Sealed::Data(length) = device.seal(peer, &junk, &mut out, now) else { panic!("no session") };
        net.deliver(0, address(1), &out[..length]);
    }
    assert!(net.received(0).is_empty());
    assert_eq!(net.counters(0).wrong_source, 3);
}
