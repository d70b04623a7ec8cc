//! The answer to `get`. That of a standalone device holds the keys that its user gave it, as the protocol says: `wg-quick`
//! saves a configuration by it. That of a managed device holds no private and no preshared key.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use selvedge_keys::{PresharedKey, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::settings::{PeerSettings, Settings, hex};
use super::zone::{self, Zones};
use crate::tunnel::device::{DeviceReport, PeerReport};

/// What `get` shows of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// The device's key; never of a managed device.
    pub private_key: Option<PrivateKey>,
    /// UDP port in use.
    pub listen_port: u16,
    /// Mark of sent datagrams; 0 for none.
    pub fwmark: u32,
    /// All peers.
    pub peers: Vec<ShownPeer>,
}

/// What `get` shows of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPeer {
    /// The key that sending uses, or that of the highest epoch.
    pub public_key: PublicKey,
    /// The preshared key; never of a managed device.
    pub preshared_key: Option<PresharedKey>,
    /// Where datagrams go.
    pub endpoint: Option<SocketAddr>,
    /// Newest completed handshake over all sessions.
    pub last_handshake: Option<Timestamp>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Seconds; 0 for none.
    pub persistent_keepalive: u16,
    /// Allowed IPs.
    pub allowed_ips: Vec<IpNet>,
}

impl Shown {
    /// A managed device. Folds the sessions of each peer into one. A peer of which no key is known is left out.
    #[must_use]
    pub fn managed(report: &DeviceReport, listen_port: u16, fwmark: u32) -> Self {
        let peers = report.peers.iter().filter_map(ShownPeer::managed).collect();
        Self { private_key: None, listen_port, fwmark, peers }
    }

    /// A standalone device: all that `settings` has, with the keys, and the state of each peer.
    #[must_use]
    pub fn standalone(report: &DeviceReport, listen_port: u16, settings: &Settings) -> Self {
        let states: HashMap<&str, &PeerReport> =
            report.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect();
        let peers = settings.peers.iter().map(|peer| {
            let state = states.get(peer.public_key.to_string().as_str());
            ShownPeer::standalone(peer, state.copied())
        });
        Self {
            private_key: settings.private_key.clone(),
            listen_port,
            fwmark: settings.fwmark,
            peers: peers.collect(),
        }
    }
}

impl ShownPeer {
    fn managed(peer: &PeerReport) -> Option<Self> {
        let sending = peer.sessions.iter().find(|session| session.sending);
        let highest = || peer.sessions.iter().max_by_key(|session| (session.peer_epoch, session.own_epoch));
        Some(Self {
            public_key: sending.or_else(highest)?.public_key,
            preshared_key: None,
            endpoint: peer.endpoint,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
            allowed_ips: peer.allowed_ips.clone(),
        })
    }

    fn standalone(peer: &PeerSettings, state: Option<&PeerReport>) -> Self {
        Self {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: state.and_then(|state| state.endpoint).or(peer.endpoint),
            last_handshake: state.and_then(|state| state.last_handshake),
            rx_bytes: state.map_or(0, |state| state.rx_bytes),
            tx_bytes: state.map_or(0, |state| state.tx_bytes),
            persistent_keepalive: peer.persistent_keepalive,
            allowed_ips: peer.allowed_ips.clone(),
        }
    }
}

/// The answer to `get`, without its `errno` line. Endpoints name the devices of `zones`.
#[must_use]
pub fn render(shown: &Shown, zones: &impl Zones) -> Zeroizing<String> {
    // Room for all of it and the `errno` line, because a string that grows leaves copies of the keys behind.
    let prefixes: usize = shown.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(256 + 640 * shown.peers.len() + 64 * prefixes));
    if let Some(key) = &shown.private_key {
        line(&mut text, "private_key", hex(key.as_bytes()).as_str());
    }
    line(&mut text, "listen_port", shown.listen_port);
    if shown.fwmark != 0 {
        line(&mut text, "fwmark", shown.fwmark);
    }
    for peer in &shown.peers {
        render_peer(&mut text, peer, zones);
    }
    text
}

fn render_peer(text: &mut String, peer: &ShownPeer, zones: &impl Zones) {
    line(text, "public_key", hex(peer.public_key.as_bytes()).as_str());
    if let Some(key) = &peer.preshared_key {
        line(text, "preshared_key", hex(key.as_bytes()).as_str());
    }
    line(text, "protocol_version", 1);
    if let Some(endpoint) = peer.endpoint {
        line(text, "endpoint", zone::render(endpoint, zones));
    }
    let (seconds, nanoseconds) =
        peer.last_handshake.map_or((0, 0), |time| (time.as_second(), time.subsec_nanosecond()));
    line(text, "last_handshake_time_sec", seconds);
    line(text, "last_handshake_time_nsec", nanoseconds);
    line(text, "tx_bytes", peer.tx_bytes);
    line(text, "rx_bytes", peer.rx_bytes);
    line(text, "persistent_keepalive_interval", peer.persistent_keepalive);
    for prefix in &peer.allowed_ips {
        line(text, "allowed_ip", prefix);
    }
}

fn line(text: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}={value}");
}

#[cfg(test)]
mod tests {
    use super::super::zone::Numbers;
    use super::*;
    use crate::tunnel::device::{DeviceCounters, PeerCondition, SessionReport};

    fn session(own_epoch: u64, peer_epoch: u64, sending: bool) -> SessionReport {
        let number = u8::try_from(peer_epoch).unwrap();
        let public_key = PublicKey::from_bytes([number; 32]);
        SessionReport { own_epoch, peer_epoch, public_key, confirmed: sending, sending, last_handshake: None }
    }

    fn peer(sessions: Vec<SessionReport>) -> PeerReport {
        PeerReport {
            name: "node-b".into(),
            condition: PeerCondition::Established,
            endpoint: Some("[fd00::1]:51830".parse().unwrap()),
            source: None,
            allowed_ips: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            persistent_keepalive: Some(25),
            last_handshake: Some(Timestamp::new(1_700_000_000, 5).unwrap()),
            rx_bytes: 1,
            tx_bytes: 2,
            preshared_key: true,
            sessions,
        }
    }

    fn report(peers: Vec<PeerReport>) -> DeviceReport {
        DeviceReport { identities: vec![], peers, counters: DeviceCounters::default() }
    }

    #[test]
    fn a_managed_peer_is_shown_whole_and_without_secrets() {
        let report = report(vec![peer(vec![session(1, 1, true)])]);
        let text = render(&Shown::managed(&report, 51830, 7), &Numbers);
        let expected = format!(
            "listen_port=51830\nfwmark=7\npublic_key={}\nprotocol_version=1\nendpoint=[fd00::1]:51830\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=2\nrx_bytes=1\n\
             persistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16\nallowed_ip=fd00:1::/64\n",
            "01".repeat(32)
        );
        assert_eq!(*text, expected);
    }

    #[test]
    fn a_standalone_device_is_shown_as_it_was_set() {
        let (known, other) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let settings = |public_key, preshared_key| PeerSettings {
            public_key,
            preshared_key,
            endpoint: Some("192.0.2.9:9".parse().unwrap()),
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let settings = Settings {
            private_key: Some(PrivateKey::from_bytes([3; 32])),
            fwmark: 7,
            peers: vec![settings(known, Some(PresharedKey::from_bytes([4; 32]))), settings(other, None)],
            ..Settings::default()
        };
        let state = PeerReport { name: known.to_string(), ..peer(vec![]) };
        let report = report(vec![state]);
        let text = render(&Shown::standalone(&report, 51820, &settings), &Numbers);
        let own = hex(PrivateKey::from_bytes([3; 32]).as_bytes());
        assert!(
            text.starts_with(&format!("private_key={}\nlisten_port=51820\nfwmark=7\n", *own)),
            "{}",
            *text
        );
        let first = format!(
            "public_key={}\npreshared_key={}\nprotocol_version=1\n",
            "01".repeat(32),
            "04".repeat(32)
        );
        assert!(text.contains(&(first + "endpoint=[fd00::1]:51830\n")), "where it is now: {}", *text);
        let second = format!("public_key={}\nprotocol_version=1\nendpoint=192.0.2.9:9\n", "02".repeat(32));
        assert!(text.contains(&second), "also without a session: {}", *text);
    }

    #[test]
    fn a_rotating_peer_is_shown_once_by_its_sending_key() {
        let number = |sessions| ShownPeer::managed(&peer(sessions)).map(|peer| peer.public_key.as_bytes()[0]);
        assert_eq!(number(vec![session(1, 2, false), session(1, 1, true)]), Some(1));
        assert_eq!(number(vec![session(1, 1, false), session(1, 2, false)]), Some(2));
        assert_eq!(number(vec![]), None);
    }
}
