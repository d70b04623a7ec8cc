//! The state of a device at one moment.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use selvedge_keys::PublicKey;

use super::Device;
use super::counters::DeviceCounters;
use super::peer::Peer;

/// The state of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceReport {
    /// Own identities, newest first.
    pub identities: Vec<IdentityReport>,
    /// All peers.
    pub peers: Vec<PeerReport>,
    /// Device-wide counters.
    pub counters: DeviceCounters,
}

/// An own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityReport {
    /// Epoch of the key.
    pub epoch: u64,
    /// The public key.
    pub public_key: PublicKey,
}

/// Whether a peer can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerCondition {
    /// A session is confirmed: transport data was received on it and it has not expired.
    Established,
    /// A handshake is under way.
    Handshaking,
    /// There is no session, and nothing asks for one.
    Idle,
    /// There is no session, and no endpoint is known.
    NoEndpoint,
}

/// The state of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerReport {
    /// The peer's name.
    pub name: String,
    /// Whether it can be reached.
    pub condition: PeerCondition,
    /// Where datagrams go now.
    pub endpoint: Option<SocketAddr>,
    /// The own address that they leave from; none when the kernel chooses it.
    pub source: Option<IpAddr>,
    /// Allowed IPs.
    pub allowed_ips: Vec<IpNet>,
    /// Persistent keepalive in seconds.
    pub persistent_keepalive: Option<u16>,
    /// Newest completed handshake over all sessions.
    pub last_handshake: Option<Timestamp>,
    /// Bytes received from the peer: whole WireGuard messages, as `wg show` counts.
    pub rx_bytes: u64,
    /// Bytes sent to the peer: whole WireGuard messages.
    pub tx_bytes: u64,
    /// True when a preshared key is set.
    pub preshared_key: bool,
    /// Each (own epoch, peer key) the peer has a session for, preferred first.
    pub sessions: Vec<SessionReport>,
}

/// The state of one session slot of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionReport {
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
    pub last_handshake: Option<Timestamp>,
}

/// Converts an instant to the wall clock's time.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    wall: Timestamp,
}

impl Clock {
    fn wall(self, at: Instant) -> Option<Timestamp> {
        let ago = SignedDuration::try_from(self.now.saturating_duration_since(at)).ok()?;
        self.wall.checked_sub(ago).ok()
    }
}

impl Device {
    /// The state of the device. `wall` is the wall clock's time at `now`.
    #[must_use]
    pub fn report(&self, now: Instant, wall: Timestamp) -> DeviceReport {
        let clock = Clock { now, wall };
        let identities = self.identities.iter();
        DeviceReport {
            identities: identities
                .map(|own| IdentityReport { epoch: own.epoch, public_key: own.identity.public() })
                .collect(),
            peers: self.peers().map(|peer| peer.report(clock)).collect(),
            counters: self.shared.counters.clone(),
        }
    }
}

impl Peer {
    fn report(&self, clock: Clock) -> PeerReport {
        PeerReport {
            name: self.config.name.clone(),
            condition: self.condition(clock.now),
            endpoint: self.endpoint.map(|endpoint| endpoint.address),
            source: self.endpoint.and_then(|endpoint| endpoint.source),
            allowed_ips: self.config.allowed_ips.clone(),
            persistent_keepalive: self.config.persistent_keepalive.filter(|seconds| *seconds > 0),
            last_handshake: self
                .slots
                .iter()
                .filter_map(|slot| slot.last_handshake)
                .max()
                .and_then(|at| clock.wall(at)),
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            preshared_key: self.slots.iter().any(super::slot::Slot::has_psk),
            sessions: (0..self.slots.len()).map(|at| self.session_report(at, clock)).collect(),
        }
    }

    fn condition(&self, now: Instant) -> PeerCondition {
        if self.slots.iter().any(|slot| slot.is_confirmed(now)) {
            PeerCondition::Established
        } else if self.slots.iter().any(super::slot::Slot::is_active) || self.wanted_since.is_some() {
            PeerCondition::Handshaking
        } else if self.endpoint.is_none() {
            PeerCondition::NoEndpoint
        } else {
            PeerCondition::Idle
        }
    }

    fn session_report(&self, at: usize, clock: Clock) -> SessionReport {
        let slot = &self.slots[at];
        SessionReport {
            own_epoch: slot.own_epoch,
            peer_epoch: slot.peer_epoch,
            public_key: slot.peer_key,
            confirmed: slot.is_confirmed(clock.now),
            sending: self.sending == Some(at) && slot.is_usable(clock.now),
            last_handshake: slot.last_handshake.and_then(|at| clock.wall(at)),
        }
    }
}
