//! The configuration of a device, with the secrets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use selvedge_keys::{PresharedKey, PrivateKey, PublicKey};

/// The desired identities and peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Own identities.
    pub identities: Vec<Identity>,
    /// All peers.
    pub peers: Vec<Peer>,
    /// Whether endpoints are proposals: a peer that was heard somewhere is sent to there until it answers at a new one.
    /// Otherwise a new first endpoint is used at once, which is what `wg set` means.
    pub proposes: bool,
    /// Where another device heard peers, by name. Counts for peers that this device does not have yet.
    pub heard: BTreeMap<String, SocketAddr>,
}

/// An own static key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its epoch; sending prefers the highest whose session is confirmed.
    pub epoch: u64,
    /// The key.
    pub private_key: PrivateKey,
    /// A rotation to this key was aborted. Handshakes on it are still answered, but sending prefers every other own key.
    pub is_withdrawn: bool,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Unique name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<PeerKey>,
    /// Candidates in order of preference.
    pub endpoints: Vec<SocketAddr>,
    /// Allowed IPs.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds.
    pub persistent_keepalive: Option<u16>,
}

/// One public key of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerKey {
    /// The key.
    pub public_key: PublicKey,
    /// The peer's epoch of it.
    pub epoch: u64,
    /// Preshared key of the pair.
    pub preshared_key: Option<PresharedKey>,
    /// The peer no longer uses this key. Its sessions stay until they expire; the device neither starts nor answers handshakes
    /// with it.
    pub is_retired: bool,
}

/// The peers that a configuration changed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// Peers added.
    pub added: Vec<String>,
    /// Peers changed.
    pub changed: Vec<String>,
    /// Peers removed.
    pub removed: Vec<String>,
}

/// Why a configuration was refused; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Two peers hold one prefix.
    #[error("allowed IPs {prefix} belong to both {first} and {second}; give them to one of them")]
    OverlappingAllowedIps {
        /// The prefix.
        prefix: IpNet,
        /// One peer.
        first: String,
        /// The other.
        second: String,
    },
    /// Two peers hold one key, or a peer holds ours.
    #[error("public key {key} of peer {peer} is already that of {holder}")]
    DuplicateKey {
        /// The key.
        key: PublicKey,
        /// The peer that repeats it.
        peer: String,
        /// Who has it: another peer, or `this device`.
        holder: String,
    },
    /// Two peers, two identities or two keys of a peer go by one name or epoch.
    #[error("{what} is given twice; name each once")]
    Duplicate {
        /// What is.
        what: String,
    },
}
