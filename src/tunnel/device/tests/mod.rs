//! Devices against each other on simulated time, over a wire that can do what the internet does.
//!
//! boringtun's clock only stamps initiations, which grow in real time as they do in simulated time; all else
//! that time decides is the device's, and so all of it runs here.

mod configuring;
mod foreign;
mod handover;
mod handshakes;
mod hostile;
mod load;
mod net;
mod roaming;
mod rotation;
mod routing;
mod time;

use std::time::Duration;

use selvedge_keys::{PresharedKey, PrivateKey};

use super::config::{Config, Identity, Peer, PeerChanges, PeerKey};
use super::{
    Device, DeviceCounters, DeviceEvent, DeviceReport, Opened, PeerCondition, PeerReport, Sealed, Transmit,
};
use net::{Net, Wire, address, packet};

const MTU: u16 = 1420;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The key of node `node`'s epoch `epoch`.
fn private(node: u8, epoch: u8) -> PrivateKey {
    let mut bytes = [7; 32]; // the first and the last byte are clamped
    (bytes[1], bytes[2]) = (node, epoch);
    PrivateKey::from_bytes(bytes)
}

fn identity(node: u8, epoch: u8) -> Identity {
    Identity { epoch: epoch.into(), private_key: private(node, epoch), is_withdrawn: false }
}

fn key(node: u8, epoch: u8, psk: Option<u8>) -> PeerKey {
    let preshared_key = psk.map(|byte| PresharedKey::from_bytes([byte; 32]));
    PeerKey {
        public_key: private(node, epoch).public_key(),
        epoch: epoch.into(),
        preshared_key,
        is_retired: false,
    }
}

/// Node `node` as its peers see it: pods in 10.NODE.0.0/16 and fd00:NODE::/32.
fn peer(node: u8) -> Peer {
    Peer {
        name: format!("node-{node}"),
        keys: vec![key(node, 1, None)],
        endpoints: vec![address(node.into())],
        allowed_ips: vec![
            format!("10.{node}.0.0/16").parse().unwrap(),
            format!("fd00:{node}::/32").parse().unwrap(),
        ],
        persistent_keepalive: None,
    }
}

/// The configuration of `node` in a mesh of so many.
fn config(node: u8, count: u8) -> Config {
    let peers = (0..count).filter(|other| *other != node).map(peer).collect();
    Config { identities: vec![identity(node, 1)], peers, ..Config::default() }
}

/// So many nodes that know each other, silent: nothing sent yet, not even the first handshakes.
fn mesh(count: u8) -> Net {
    let mut net = Net::new(Wire::default());
    for node in 0..count {
        net.add();
        net.apply(node.into(), &config(node, count));
    }
    net
}

/// Two nodes with a session between them.
fn pair() -> Net {
    let mut net = mesh(2);
    net.run(SECOND);
    assert!(net.is_established(0, 1) && net.is_established(1, 0), "no session after a second");
    net.log.clear();
    net.nodes.iter_mut().for_each(|node| node.events.clear());
    net
}
