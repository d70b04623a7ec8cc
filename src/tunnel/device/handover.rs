//! What a device does when its sessions are to be replaced by those of another device.

use std::time::{Duration, Instant};

use super::Device;
use super::message::Message;
use super::starts::Queued;
use crate::tunnel::endpoint::Endpoint;

/// A peer that was not heard for longer is not waited for.
const LATELY: Duration = Duration::from_secs(30);
/// For how long handshakes that get no answer are tried again soon. Peers take no two in a row from one key (see
/// [`MIN_INITIATION_GAP`](super::timing::MIN_INITIATION_GAP)), and the other device may have been first.
const HURRY: Duration = Duration::from_secs(5);

/// A peer that a device has a session with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePeer {
    /// Its name.
    pub name: String,
    /// Where its datagrams go now.
    pub endpoint: Endpoint,
}

impl Device {
    /// Begins no handshake any more. The sessions there are go on. Gives the peers that were heard lately.
    pub fn retire(&mut self, now: Instant) -> Vec<LivePeer> {
        self.shared.retired = true;
        self.shared.starts.retain(|_| false);
        for peer in self.peers.iter_mut().flatten() {
            peer.queued = Queued::default();
            for slot in &mut peer.slots {
                slot.abandon(&mut self.shared.indices);
            }
        }
        let lately = |at: Option<Instant>| at.is_some_and(|at| now < at + LATELY);
        let live = self.peers().filter(|peer| peer.is_usable(now) && lately(peer.last_received));
        live.filter_map(|peer| Some(LivePeer { name: peer.config.name.clone(), endpoint: peer.endpoint? }))
            .collect()
    }

    /// The upper 24 bits of all receiver indices in use.
    #[must_use]
    pub fn indices(&self) -> Vec<u32> {
        self.shared.indices.used().collect()
    }

    /// Takes back [`Device::retire`]: handshakes with all peers, which may have turned to other sessions.
    pub fn revive(&mut self, now: Instant) {
        self.shared.retired = false;
        self.shared.hurried_until = Some(now + HURRY);
        for peer in self.peers.iter_mut().flatten() {
            for slot in &mut peer.slots {
                slot.doubt();
            }
            if peer.sending.is_none() && peer.endpoint.is_some() {
                peer.wanted_since.get_or_insert(now);
            }
        }
        self.next_tick = Some(now);
    }

    /// Succeeds a device that has sessions with `live` under `indices`: looks for those peers where they are
    /// now, tries again soon where a handshake is not answered, and uses none of those indices.
    pub fn succeed(&mut self, live: &[LivePeer], indices: &[u32], now: Instant) {
        self.shared.hurried_until = Some(now + HURRY);
        self.shared.indices.avoid(indices);
        for LivePeer { name, endpoint } in live {
            let known = self.names.get(name).and_then(|index| super::at(&mut self.peers, *index));
            if let Some(peer) = known {
                peer.is_at(*endpoint, &mut self.shared, now);
            }
        }
        self.next_tick = Some(now);
    }

    /// The device before is gone.
    pub fn forget_predecessor(&mut self) {
        self.shared.hurried_until = None;
        self.shared.indices.avoid(&[]);
    }

    /// Whether packets for the peer `name` can be sent at `now`. Also true when there is no such peer any more.
    #[must_use]
    pub fn reaches(&mut self, name: &str, now: Instant) -> bool {
        let peer = self.names.get(name).and_then(|index| super::at(&mut self.peers, *index));
        peer.is_none_or(|peer| peer.carrier(now).is_some())
    }

    /// Whether `datagram` is for this device as far as can be told without a key: it begins a handshake, or
    /// names a session or handshake that is ours.
    #[must_use]
    pub fn expects(&self, datagram: &[u8]) -> bool {
        match Message::of(datagram) {
            Some(
                Message::Data { receiver, .. }
                | Message::Response { receiver }
                | Message::Cookie { receiver },
            ) => self.shared.indices.owner(receiver).is_some(),
            Some(Message::Initiation) | None => true,
        }
    }

    /// Takes out the packets that wait for a handshake.
    pub fn take_waiting(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for peer in self.peers.iter_mut().flatten() {
            packets.extend(peer.take_waiting(&mut self.shared));
        }
        packets
    }
}
