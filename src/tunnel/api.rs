//! Shapes of the tunnel's control API: HTTP/1.1 and JSON on a unix socket (`Paths::tunnel_socket`).
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/config` | | [`DeviceConfig`] as last accepted |
//! | `PUT /v1/config` | [`DeviceConfig`] | [`Applied`]; putting the same again changes nothing |
//! | `GET /v1/peers/NAME` | | [`PeerConfig`] as last accepted; 404 when there is none |
//! | `PUT /v1/peers/NAME` | [`PeerConfig`] | [`Applied`]; adds or replaces one peer |
//! | `DELETE /v1/peers/NAME` | | [`Applied`] |
//! | `GET /v1/status` | | [`DeviceStatus`] |
//! | `GET /v1/events` | | a stream of [`Event`], one JSON object a line |
//!
//! Both ends may be of different versions. A form grows by fields that may be absent, so a report is read as far as it is
//! known; a configuration with a field that is not known is refused, because nothing of it may be left out.
//!
//! Errors are [`ApiError`] with status 400 (the request), 409 (not in this state) or 500 (ours). A refused
//! configuration changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use jiff::Timestamp;
use selvedge_keys::PublicKey;
use serde::{Deserialize, Serialize};

pub use crate::local::ApiError;

/// The whole wanted state of one tunnel device. Holds no private key: the tunnel reads those from the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceConfig {
    /// The key store whose epochs `identities` names.
    pub key_store: PathBuf,
    /// Own identities, by epoch; more than one only while keys rotate.
    pub identities: Vec<IdentityConfig>,
    /// UDP port to listen on; 0 takes any free one.
    pub listen_port: u16,
    /// MTU of the TUN device, in bytes.
    pub mtu: u16,
    /// Mark (`SO_MARK`) of the encrypted datagrams; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall_mark: Option<u32>,
    /// All peers.
    pub peers: Vec<PeerConfig>,
}

/// An own static key, named by its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityConfig {
    /// Epoch of the key in the store.
    pub epoch: u64,
    /// A rotation to this key was aborted. Handshakes on it are still answered, but sending prefers every other own key. Needs the capability [`RETIRED_KEYS`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// One peer: another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerConfig {
    /// The peer's name, unique in the device: the node's name, or the public key of a peer set over UAPI.
    pub name: String,
    /// The peer's public keys, by epoch; more than one only while it rotates.
    pub keys: Vec<PeerKeyConfig>,
    /// Candidates in order of preference. Used until the peer is heard from elsewhere; putting the same list
    /// again never overwrites an endpoint that roamed.
    pub endpoints: Vec<SocketAddr>,
    /// What the peer may send from and what is sent to it; longest prefix over all peers wins. A prefix that
    /// two peers of one configuration hold is refused.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives while nothing is sent; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
}

/// One public key of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerKeyConfig {
    /// The key.
    pub public_key: PublicKey,
    /// The peer's epoch of that key; sending prefers the highest whose session is confirmed.
    pub epoch: u64,
    /// The peer no longer uses this key. Its sessions stay until they expire; the device neither starts nor answers handshakes
    /// with it. Needs the capability [`RETIRED_KEYS`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// Capability of a tunnel that understands `withdrawn` own keys and `retired` keys of peers.
pub const RETIRED_KEYS: &str = "retiredKeys";

/// What a configuration changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Names of peers added.
    pub added: Vec<String>,
    /// Names of peers changed.
    pub changed: Vec<String>,
    /// Names of peers removed.
    pub removed: Vec<String>,
}

/// State of the whole device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    /// Name of the network device.
    pub device: String,
    /// True when configured over this API; UAPI `set` is then refused.
    pub managed: bool,
    /// UDP port in use.
    pub listen_port: u16,
    /// Own identities.
    pub identities: Vec<IdentityStatus>,
    /// What the kernel offers and the device uses.
    pub features: Features,
    /// All peers.
    pub peers: Vec<PeerStatus>,
    /// Device-wide counters.
    pub counters: Counters,
    /// What this tunnel understands beyond the first version, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// An own identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityStatus {
    /// Its epoch.
    pub epoch: u64,
    /// Its public key.
    pub public_key: PublicKey,
}

/// Offloads in use, each probed at start and given up one by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// TUN carries TCP segments of up to 64 KiB (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tun_tso: bool,
    /// TUN carries UDP super-datagrams (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub tun_uso: bool,
    /// One send takes many datagrams (`UDP_SEGMENT`).
    pub udp_gso: bool,
    /// One receive brings many datagrams (`UDP_GRO`).
    pub udp_gro: bool,
    /// How packets are joined for the TUN. Absent when the tunnel is of a version that did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<JoinStatus>,
}

/// How far packets are joined for the TUN, by kind: less than the kernel offers once it refused too many super-packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinStatus {
    /// TCP over IPv4.
    pub tcp_v4: JoinState,
    /// TCP over IPv6.
    pub tcp_v6: JoinState,
    /// UDP over either.
    pub udp: JoinState,
    /// Super-packets that the kernel refused; their packets were written one by one.
    pub refused: u64,
}

/// How far packets of one kind are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JoinState {
    /// Not at all.
    Nothing,
    /// Those of one size.
    Equal,
    /// Those of one size, and a last one that may be shorter.
    All,
    /// Something that a later version tells.
    #[serde(other)]
    Unknown,
}

/// How a peer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerState {
    /// A session is confirmed: transport data was received on it and it has not expired.
    Established,
    /// A handshake is under way.
    Handshaking,
    /// No session, and nothing asks for one.
    Idle,
    /// No session, and no endpoint is known to reach the peer at.
    NoEndpoint,
    /// Something that a later version tells.
    #[serde(other)]
    Unknown,
}

/// State of one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// The peer's name.
    pub name: String,
    /// How it is doing.
    pub state: PeerState,
    /// Where datagrams go now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The own address that they leave from: the one that the peer sends to. Absent when the kernel chooses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Allowed IPs.
    pub allowed_ips: Vec<IpNet>,
    /// Persistent keepalive, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// Newest completed handshake over all sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Timestamp>,
    /// Bytes received from the peer: whole WireGuard messages, as `wg show` counts.
    pub rx_bytes: u64,
    /// Bytes sent to the peer: whole WireGuard messages.
    pub tx_bytes: u64,
    /// True when a preshared key is set.
    pub preshared_key: bool,
    /// Each (own epoch, peer key) the peer has a session for, preferred first.
    pub sessions: Vec<SessionStatus>,
}

/// State of one session slot of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Epoch of the own key.
    pub own_epoch: u64,
    /// Epoch of the peer's key.
    pub peer_epoch: u64,
    /// The peer's key.
    pub public_key: PublicKey,
    /// True once transport data was received on it.
    pub confirmed: bool,
    /// True for the one that sending uses.
    pub sending: bool,
    /// Its newest completed handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Timestamp>,
}

/// Device-wide counters, since the worker process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Packets from the TUN for whose destination no peer exists.
    pub no_peer: u64,
    /// Packets dropped for lack of a session and room to wait.
    pub no_session: u64,
    /// Packets from the TUN that are no valid IP.
    pub invalid_packet: u64,
    /// Datagrams that are no WireGuard message, or for no known index.
    pub unknown_datagram: u64,
    /// Messages that failed authentication.
    pub bad_mac: u64,
    /// Replayed or too old messages.
    pub replayed: u64,
    /// Decrypted packets whose source belongs to another peer or to none.
    pub wrong_source: u64,
    /// Handshake messages put off or answered with a cookie under load.
    pub under_load: u64,
    /// Sends that the kernel refused.
    pub send_errors: u64,
    /// Times the worker was respawned by its parent.
    pub worker_restarts: u64,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Event {
    /// A session with the peer was confirmed: transport data was received on it.
    #[serde(rename_all = "camelCase")]
    Confirmed {
        /// The peer.
        peer: String,
        /// Epoch of the own key.
        own_epoch: u64,
        /// Epoch of the peer's key.
        peer_epoch: u64,
    },
    /// The peer's endpoint changed, on authenticated data. At most once a second for each peer, with the newest endpoint.
    #[serde(rename_all = "camelCase")]
    Roamed {
        /// The peer.
        peer: String,
        /// Where it is now.
        endpoint: SocketAddr,
    },
    /// The peer has not answered for 90 s; handshakes go on.
    #[serde(rename_all = "camelCase")]
    Silent {
        /// The peer.
        peer: String,
    },
    /// The listener was too slow and missed this many events.
    #[serde(rename_all = "camelCase")]
    Missed {
        /// How many.
        count: u64,
    },
    /// Something that a later version tells.
    #[serde(other)]
    Unknown,
}
