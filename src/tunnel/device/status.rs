//! What the device knows, in the shapes of the control API.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use super::Device;
use super::peer::Peer;
use crate::tunnel::api::{DeviceStatus, Features, IdentityStatus, PeerState, PeerStatus, SessionStatus};

/// Tells the wall clock's time of an instant.
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
    /// The state of identities and peers. `device`, `managed`, `listen_port` and `features` are left for the
    /// caller to fill in. `wall` is the wall clock's time at `now`.
    #[must_use]
    pub fn status(&self, now: Instant, wall: Timestamp) -> DeviceStatus {
        let clock = Clock { now, wall };
        let identities = self.identities.iter();
        DeviceStatus {
            device: String::new(),
            managed: false,
            listen_port: 0,
            identities: identities
                .map(|(epoch, identity)| IdentityStatus { epoch: *epoch, public_key: identity.public() })
                .collect(),
            features: Features::default(),
            peers: self.peers().map(|peer| peer.status(clock)).collect(),
            counters: self.shared.counters.clone(),
        }
    }
}

impl Peer {
    fn status(&self, clock: Clock) -> PeerStatus {
        PeerStatus {
            name: self.config.name.clone(),
            state: self.state(clock.now),
            endpoint: self.endpoint,
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
            sessions: (0..self.slots.len()).map(|at| self.session_status(at, clock)).collect(),
        }
    }

    fn state(&self, now: Instant) -> PeerState {
        if self.slots.iter().any(|slot| slot.is_confirmed(now)) {
            PeerState::Established
        } else if self.slots.iter().any(super::slot::Slot::is_active) || self.wanted_since.is_some() {
            PeerState::Handshaking
        } else if self.endpoint.is_none() {
            PeerState::NoEndpoint
        } else {
            PeerState::Idle
        }
    }

    fn session_status(&self, at: usize, clock: Clock) -> SessionStatus {
        let slot = &self.slots[at];
        SessionStatus {
            own_epoch: slot.own_epoch,
            peer_epoch: slot.peer_epoch,
            public_key: slot.peer_key,
            confirmed: slot.is_confirmed(clock.now),
            sending: self.sending == Some(at) && slot.is_usable(clock.now),
            last_handshake: slot.last_handshake.and_then(|at| clock.wall(at)),
        }
    }
}
