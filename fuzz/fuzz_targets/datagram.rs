//! Any datagram against a device that has a session, a handshake of its own and one it answered.
//!
//! The input is handed over as it is, and again addressed to each index that the device uses, which random
//! bytes would never guess. Nothing may panic, no packet may come out, and the session has to go on working.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use selvedge::tunnel::device::config::{Config, Identity, Peer, PeerKey};
use selvedge::tunnel::device::{Device, Opened, Sealed};
use selvedge_keys::PrivateKey;

/// Packet from 10.1.0.1 to 10.0.0.1.
const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 0, 0, 1];

fn private(node: u8) -> PrivateKey {
    let mut bytes = [7; 32];
    (bytes[1], bytes[2]) = (node, 1);
    PrivateKey::from_bytes(bytes)
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node + 1], 51830))
}

fn device(node: u8, peers: &[u8], now: Instant) -> Device {
    let peers = peers.iter().map(|other| Peer {
        name: format!("node-{other}"),
        keys: vec![PeerKey { public_key: private(*other).public_key(), epoch: 1, preshared_key: None }],
        endpoints: vec![address(*other)],
        allowed_ips: vec![format!("10.{other}.0.0/16").parse().expect("a prefix")],
        persistent_keepalive: None,
    });
    let mut device = Device::new(1420, now);
    let identities = vec![Identity { epoch: 1, private_key: private(node) }];
    device
        .apply(&Config { identities, peers: peers.collect(), ..Config::default() }, now)
        .expect("a good configuration");
    device
}

/// Carries what each has to send to the other until both are quiet; the sender indices of what `a` sent.
fn exchange(a: &mut Device, b: &mut Device, now: Instant) -> Vec<[u8; 4]> {
    let mut indices = Vec::new();
    loop {
        let (from_a, from_b) = (a.poll_transmit(), b.poll_transmit());
        if from_a.is_none() && from_b.is_none() {
            return indices;
        }
        if let Some(sent) = from_a {
            if sent.bytes[0] < 3 {
                indices.push(sent.bytes[4..8].try_into().expect("four bytes"));
            }
            if sent.to.address == address(1) {
                b.open(address(0).into(), &sent.bytes, &mut [0; 256], now);
            }
        }
        if let Some(sent) = from_b {
            a.open(address(1).into(), &sent.bytes, &mut [0; 256], now);
        }
    }
}

fuzz_target!(|datagram: &[u8]| {
    let now = Instant::now();
    // Node 2 never answers: that handshake stays open.
    let (mut a, mut b) = (device(0, &[1, 2], now), device(1, &[0], now));
    a.handle_timeout(now);
    b.handle_timeout(now);
    let indices = exchange(&mut a, &mut b, now);

    let mut out = vec![0; datagram.len()];
    assert_eq!(a.open(address(7).into(), datagram, &mut out, now), Opened::Nothing);
    for index in indices {
        for at in [4, 8] {
            let mut aimed = datagram.to_vec();
            if let Some(place) = aimed.get_mut(at..at + 4) {
                place.copy_from_slice(&index);
            }
            assert_eq!(a.open(address(7).into(), &aimed, &mut out, now), Opened::Nothing);
        }
    }
    a.handle_timeout(now + Duration::from_secs(6));

    let peer = b.route([10, 0, 0, 1].into()).expect("a route");
    let mut sealed = [0; 64];
    let Sealed::Data(length) = b.seal(peer, &PACKET, &mut sealed, now) else { panic!("the session is gone") };
    let mut out = [0; 64];
    let opened = a.open(address(1).into(), &sealed[..length], &mut out, now);
    assert!(matches!(opened, Opened::Packet { packet, .. } if packet == PACKET));
});
