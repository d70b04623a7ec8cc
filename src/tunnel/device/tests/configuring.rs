//! Configurations: refused whole, taken whole, and the same again is nothing.

use super::*;
use crate::tunnel::device::config::ConfigError;

#[test]
fn the_same_again_changes_nothing() {
    let mut net = pair();
    let before = net.report(0);
    assert_eq!(net.apply(0, &config(0, 2)), PeerChanges::default());
    net.run(SECOND);
    assert_eq!(net.log.len(), 0);
    assert_eq!(net.report(0).peers[0].sessions[0].confirmed, before.peers[0].sessions[0].confirmed);
}

#[test]
fn what_contradicts_itself_is_refused_and_changes_nothing() {
    let mut net = pair();
    let twice = |change: fn(&mut Config)| {
        let mut wrong = config(0, 3);
        wrong.peers[0].name = "other".to_owned();
        change(&mut wrong);
        wrong
    };
    let refuse = |net: &mut Net, wrong: &Config| net.nodes[0].device.apply(wrong, net.now).unwrap_err();
    let wrong = twice(|config| config.peers[1].allowed_ips = vec!["10.1.7.7/16".parse().unwrap()]);
    let error = refuse(&mut net, &wrong);
    assert!(
        matches!(&error, ConfigError::OverlappingAllowedIps { prefix, .. } if prefix.to_string() == "10.1.0.0/16")
    );
    let wrong = twice(|config| config.peers[1].keys[0].public_key = config.peers[0].keys[0].public_key);
    assert!(
        matches!(refuse(&mut net, &wrong), ConfigError::DuplicateKey { holder, .. } if holder == "other")
    );
    let wrong = twice(|config| config.peers[1].keys[0].public_key = private(0, 1).public_key());
    assert!(
        matches!(refuse(&mut net, &wrong), ConfigError::DuplicateKey { holder, .. } if holder == "this device")
    );
    for wrong in [
        twice(|config| config.peers[1].name = "other".to_owned()),
        twice(|config| config.identities.push(identity(1, 1))),
        twice(|config| config.identities.push(Identity { epoch: 9, ..identity(0, 1) })),
        twice(|config| config.peers[1].keys.push(PeerKey { epoch: 1, ..key(2, 2, None) })),
    ] {
        assert!(matches!(refuse(&mut net, &wrong), ConfigError::Duplicate { .. }));
    }
    assert_eq!(net.report(0).peers.len(), 1);
    assert!(net.is_established(0, 1));
}

#[test]
fn peers_come_change_and_go_and_the_others_do_not_notice() {
    let mut net = mesh(3);
    net.run(SECOND);
    net.log.clear();
    let mut without = config(0, 3);
    without.peers.remove(0);
    assert_eq!(net.apply(0, &without).removed, ["node-1"]);
    assert_eq!(net.nodes[0].device.route([10, 1, 0, 1].into()), None);
    assert!(matches!(net.send(0, &packet(0, 2, 0, 0)), Sealed::Data(_)));
    net.send(1, &packet(1, 0, 0, 0));
    net.run(SECOND);
    assert_eq!(net.counters(0).unknown_datagram, 1, "its sessions are gone");
    let again = net.apply(0, &config(0, 3));
    assert_eq!((again.added, again.changed.len()), (vec!["node-1".to_owned()], 0));
    net.run(SECOND);
    assert!(net.is_established(0, 1) && net.is_established(0, 2));
    let mut moved = config(0, 3);
    let net_of_1 = moved.peers[0].allowed_ips.remove(0);
    moved.peers[1].allowed_ips.push(net_of_1);
    assert_eq!(net.apply(0, &moved).changed, ["node-1", "node-2"]);
    let device = &net.nodes[0].device;
    assert_eq!(device.name(device.route([10, 1, 0, 1].into()).unwrap()), Some("node-2"));
    assert!(net.is_established(0, 1) && net.is_established(0, 2), "sessions stay");
}

#[test]
fn another_own_key_ends_the_sessions_of_the_old() {
    let mut net = pair();
    net.apply(0, &Config { identities: vec![identity(0, 2)], ..config(0, 2) });
    assert!(!net.is_established(0, 1));
    let mut other = config(1, 2);
    other.peers[0].keys = vec![key(0, 2, None)];
    net.apply(1, &other);
    net.run(SECOND);
    assert!(net.is_established(0, 1) && net.is_established(1, 0));
    assert_eq!(net.report(0).identities[0].epoch, 2);
}

#[test]
fn a_device_without_identity_stays_quiet() {
    let mut net = mesh(2);
    net.apply(0, &Config { identities: vec![], ..config(0, 2) });
    assert_eq!(net.send(0, &packet(0, 1, 0, 0)), Sealed::Dropped);
    net.run(10 * SECOND);
    assert!(net.log.iter().all(|flight| flight.from != address(0)));
    net.apply(0, &Config::default());
    assert!(net.report(0).peers.is_empty());
}
