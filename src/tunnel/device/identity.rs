//! An own static key, and what can be said of a handshake message with it alone: whether it is meant for us
//! (MAC1), whether its sender owns his address (MAC2, cookies), and who he is.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::StaticSecret;
use selvedge_keys::{PrivateKey, PublicKey};

use super::message::COOKIE_LEN;

/// An own identity. Its secret is wiped when the last session slot that uses it is gone.
pub(super) struct Identity {
    public: PublicKey,
    secret: PrivateKey,
    /// Checks MAC1 and never sees load: the device keeps the budget, on its own clock.
    unlimited: Arc<RateLimiter>,
    /// Asks for a cookie always.
    strict: RateLimiter,
}

/// An own key as it is configured.
#[derive(Clone)]
pub(super) struct OwnKey {
    pub(super) epoch: u64,
    pub(super) identity: Arc<Identity>,
    /// See [`config::Identity::is_withdrawn`](super::config::Identity::is_withdrawn).
    pub(super) is_withdrawn: bool,
}

/// Whether a handshake message proves that its sender owns his address.
pub(super) enum Proof {
    /// It carries a valid MAC2.
    Given,
    /// It does not; this cookie reply asks for it.
    Asked(Vec<u8>),
}

impl Identity {
    pub(super) fn new(secret: &PrivateKey) -> Self {
        let public = secret.public_key();
        let dalek = public.to_dalek();
        Self {
            public,
            secret: secret.clone(),
            unlimited: Arc::new(RateLimiter::new(&dalek, u64::MAX)),
            strict: RateLimiter::new(&dalek, 0),
        }
    }

    pub(super) fn public(&self) -> PublicKey {
        self.public
    }

    pub(super) fn secret(&self) -> StaticSecret {
        self.secret.to_dalek()
    }

    pub(super) fn unlimited(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.unlimited)
    }

    /// Whether MAC1 says that the sender of this handshake message knows our public key.
    pub(super) fn is_addressed(&self, handshake: &[u8]) -> bool {
        self.unlimited.verify_packet(None, handshake, &mut []).is_ok()
    }

    /// What to make of a handshake message from `from` under load: none when it proves nothing and no cookie reply is
    /// to be made.
    pub(super) fn prove(&self, handshake: &[u8], from: IpAddr, may_ask: bool) -> Option<Proof> {
        let mut room = [0; COOKIE_LEN];
        let room = if may_ask { &mut room[..] } else { &mut [] };
        match self.strict.verify_packet(Some(from), handshake, room) {
            Ok(_) => Some(Proof::Given),
            Err(TunnResult::WriteToNetwork(bytes)) => Some(Proof::Asked(bytes.to_vec())),
            Err(_) => None,
        }
    }

    /// Whose static key the initiation carries; that he holds it is not yet shown.
    pub(super) fn initiator(&self, initiation: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(message)) = Tunn::parse_incoming_packet(initiation) else { return None };
        let half = parse_handshake_anon(&self.secret.to_dalek(), &self.public.to_dalek(), &message).ok()?;
        Some(PublicKey::from_bytes(half.peer_static_public))
    }
}
