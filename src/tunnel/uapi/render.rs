//! The answer to `get`. Shows no secret: the protocol has room for private and preshared keys, and they stay out.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use selvedge_keys::PublicKey;

use super::settings::hex;
use super::zone::{self, Zones};
use crate::tunnel::device::{DeviceReport, PeerReport};

/// What `get` shows of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
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
    /// Folds the sessions of each peer into one. A peer of which no key is known is left out.
    #[must_use]
    pub fn new(report: &DeviceReport, listen_port: u16, fwmark: u32) -> Self {
        let peers = report.peers.iter().filter_map(ShownPeer::new).collect();
        Self { listen_port, fwmark, peers }
    }
}

impl ShownPeer {
    fn new(peer: &PeerReport) -> Option<Self> {
        let sending = peer.sessions.iter().find(|session| session.sending);
        let highest = || peer.sessions.iter().max_by_key(|session| (session.peer_epoch, session.own_epoch));
        Some(Self {
            public_key: sending.or_else(highest)?.public_key,
            endpoint: peer.endpoint,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            persistent_keepalive: peer.persistent_keepalive.unwrap_or(0),
            allowed_ips: peer.allowed_ips.clone(),
        })
    }
}

/// The answer to `get`, without its `errno` line. Endpoints name the devices of `zones`.
#[must_use]
pub fn render(shown: &Shown, zones: &impl Zones) -> String {
    let mut text = String::new();
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
    use crate::tunnel::device::{PeerCondition, SessionReport};

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
            allowed_ips: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            persistent_keepalive: Some(25),
            last_handshake: Some(Timestamp::new(1_700_000_000, 5).unwrap()),
            rx_bytes: 1,
            tx_bytes: 2,
            preshared_key: true,
            sessions,
        }
    }

    #[test]
    fn a_peer_is_shown_whole_and_without_secrets() {
        let shown = ShownPeer::new(&peer(vec![session(1, 1, true)])).unwrap();
        let text = render(&Shown { listen_port: 51830, fwmark: 7, peers: vec![shown] }, &Numbers);
        let expected = format!(
            "listen_port=51830\nfwmark=7\npublic_key={}\nprotocol_version=1\nendpoint=[fd00::1]:51830\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=2\nrx_bytes=1\n\
             persistent_keepalive_interval=25\nallowed_ip=10.1.0.0/16\nallowed_ip=fd00:1::/64\n",
            "01".repeat(32)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_rotating_peer_is_shown_once_by_its_sending_key() {
        let number = |sessions| ShownPeer::new(&peer(sessions)).map(|peer| peer.public_key.as_bytes()[0]);
        assert_eq!(number(vec![session(1, 2, false), session(1, 1, true)]), Some(1));
        assert_eq!(number(vec![session(1, 1, false), session(1, 2, false)]), Some(2));
        assert_eq!(number(vec![]), None);
    }
}
