//! The WireGuard device as a pure state machine: peers, sessions, cryptokey routing, timers. No I/O, no thread,
//! no clock: time comes in as an argument, datagrams go out by [`Device::poll_transmit`].
//!
//! One batch of the caller:
//! 1. [`Device::handle_timeout`] when [`Device::poll_timeout`] is due;
//! 2. for each packet of the TUN [`Device::route`], then [`Device::seal`] to what [`Device::endpoint`] says;
//! 3. for each datagram of the socket [`Device::open`];
//! 4. [`Device::poll_transmit`] until it gives none (handshakes, keepalives, packets that had waited), and
//!    [`Device::poll_event`] likewise.

mod budget;
pub mod config;
mod configuration;
mod counters;
mod event;
mod handover;
mod handshake;
mod identity;
mod indices;
mod known;
mod message;
mod noise;
mod peer;
mod random;
mod report;
mod routes;
mod session;
mod shared;
mod slot;
mod sources;
mod starts;
#[cfg(test)]
mod tests;
mod timeouts;
mod timing;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand_core::{OsRng, RngCore};
use selvedge_keys::PublicKey;

use budget::Budget;
pub use counters::DeviceCounters;
pub use event::DeviceEvent;
pub use handover::LivePeer;
use identity::OwnKey;
use message::Message;
use noise::{Content, Padding, Refused};
use peer::Peer;
use random::Random;
pub use report::{DeviceReport, IdentityReport, PeerCondition, PeerReport, SessionReport};
use routes::Routes;
use shared::Shared;
use timing::{TICK, due};

use crate::tunnel::endpoint::Endpoint;

/// Bytes that a data message has more than the packet in it: header of 16, authentication tag of 16.
pub const OVERHEAD: usize = 32;

/// Room that [`Device::seal`] needs in `out` for a packet of `length` bytes: padding to 16 included.
#[must_use]
pub const fn sealed_room(length: usize) -> usize {
    length.next_multiple_of(16) + OVERHEAD
}

/// A peer of the device. Valid until the next [`Device::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerIndex(u32);

/// What became of a packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The first so many bytes of `out` are the datagram to send to the peer's endpoint.
    Data(usize),
    /// The packet waits for a handshake; it comes out of [`Device::poll_transmit`] after it.
    Queued,
    /// The packet is dropped and counted.
    Dropped,
}

/// What a datagram held.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An IP packet from a peer that may send from its source address.
    Packet {
        /// The peer.
        peer: PeerIndex,
        /// The packet, at the start of `out`, cut to the length its IP header says.
        packet: &'a [u8],
    },
    /// Nothing to pass on: a handshake message, a keepalive, or something refused and counted.
    Nothing,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Endpoint,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// The device.
pub struct Device {
    /// Own identities, newest first.
    identities: Vec<OwnKey>,
    /// By [`PeerIndex`].
    peers: Vec<Option<Peer>>,
    names: HashMap<String, PeerIndex>,
    keys: HashMap<PublicKey, PeerIndex>,
    routes: Routes,
    budget: Budget,
    shared: Shared,
    next_tick: Option<Instant>,
    /// Who was where when the configuration was applied.
    places: HashMap<SocketAddr, PeerIndex>,
}

impl Device {
    /// A device without identity or peers. Packets are never padded beyond `mtu`, that of the TUN device.
    #[must_use]
    pub fn new(mtu: u16, now: Instant) -> Self {
        Self::with_random(mtu, now, Box::new(OsRng))
    }

    /// As [`Device::new`], with a source of randomness for indices and jitter; it has to be unpredictable.
    #[must_use]
    pub fn with_random(mtu: u16, now: Instant, random: Box<dyn RngCore + Send>) -> Self {
        Self {
            identities: Vec::new(),
            peers: Vec::new(),
            names: HashMap::new(),
            keys: HashMap::new(),
            routes: Routes::default(),
            budget: Budget::new(now),
            shared: Shared::new(Random::new(random), Padding::new(mtu), now),
            next_tick: None,
            places: HashMap::new(),
        }
    }

    /// Changes the MTU of the TUN device, in bytes. Sessions stay.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.shared.padding.set_mtu(mtu);
    }

    /// The peer that `destination` belongs to: longest prefix over the allowed IPs of all peers.
    #[must_use]
    #[inline]
    pub fn route(&self, destination: IpAddr) -> Option<PeerIndex> {
        self.routes.longest(destination)
    }

    /// Where datagrams for `peer` go now.
    #[must_use]
    #[inline]
    pub fn endpoint(&self, peer: PeerIndex) -> Option<Endpoint> {
        self.peers.get(peer.0 as usize)?.as_ref()?.endpoint
    }

    /// The kernel no longer sends from the source of `endpoint`: `peer`, if it is still there, is sent to from another.
    #[cold]
    pub fn forget_source(&mut self, peer: PeerIndex, endpoint: Endpoint) {
        if let Some(peer) = at(&mut self.peers, peer).filter(|peer| peer.endpoint == Some(endpoint)) {
            peer.endpoint = Some(endpoint.address.into());
        }
    }

    /// Encrypts `packet` for `peer` into `out`, which needs [`sealed_room`].
    pub fn seal(&mut self, index: PeerIndex, packet: &[u8], out: &mut [u8], now: Instant) -> Sealed {
        let Some(peer) = at(&mut self.peers, index) else {
            self.shared.counters.no_session += 1;
            return Sealed::Dropped;
        };
        if peer.carrier(now).is_none() {
            peer.expire(&mut self.shared, now); // another slot may have a session yet
        }
        let Some(session) = peer.carrier(now) else { return self.seal_later(index, packet, now) };
        match session.seal(self.shared.padding.pad(packet), out, now) {
            Some(length) => {
                peer.sent(length, true, now);
                Sealed::Data(length)
            }
            None => {
                self.shared.counters.no_session += 1;
                Sealed::Dropped
            }
        }
    }

    #[cold]
    fn seal_later(&mut self, peer: PeerIndex, packet: &[u8], now: Instant) -> Sealed {
        let reachable =
            at(&mut self.peers, peer).filter(|peer| peer.endpoint.is_some() && !peer.slots.is_empty());
        let Some(peer) = reachable else {
            self.shared.counters.no_session += 1;
            return Sealed::Dropped;
        };
        peer.wait(packet, &mut self.shared);
        peer.want(&mut self.shared, now);
        self.wake(now);
        Sealed::Queued
    }

    /// Takes a datagram that came from `from`, whose source is the own address that it came to. `out` needs room for as many bytes as the datagram has; all of
    /// it may be written, whatever the outcome.
    pub fn open<'a>(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Instant,
    ) -> Opened<'a> {
        match Message::of(datagram) {
            Some(Message::Data { receiver, counter }) => {
                return self.open_data(receiver, counter, from, datagram, out, now);
            }
            Some(Message::Initiation) => self.receive_initiation(from, datagram, now),
            Some(Message::Response { receiver }) => self.receive_response(receiver, datagram, now),
            Some(Message::Cookie { receiver }) => self.receive_cookie(receiver, datagram),
            None => self.shared.counters.unknown_datagram += 1,
        }
        Opened::Nothing
    }

    fn open_data<'a>(
        &mut self,
        receiver: u32,
        counter: u64,
        from: Endpoint,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Instant,
    ) -> Opened<'a> {
        let owner = self.shared.indices.owner(receiver);
        let found = owner.and_then(|owner| {
            let peer = at(&mut self.peers, owner.peer)?;
            Some((peer.slot_at(owner.slot)?, peer))
        });
        let Some((slot, peer)) = found else { return self.stray(from) };
        let session = peer.slots[slot].find(receiver).filter(|(_, session)| session.is_usable(now));
        let Some((_, session)) = session else { return self.refuse(Refused::Unexpected) };
        let (content, newest) = match session.open(datagram, counter, out, now) {
            Ok(opened) => opened,
            Err(refused) => return self.refuse(refused),
        };
        let first = !session.confirmed;
        peer.received(datagram.len(), !matches!(content, Content::Keepalive), now);
        if newest && !peer.is_known_at(from) {
            peer.heard_at(from, slot, receiver, &mut self.shared, now);
        }
        if first {
            peer.confirm(slot, receiver, &mut self.shared, now);
        }
        let index = peer.index;
        match content {
            Content::Packet(packet, source) if self.routes.longest(source) == Some(index) => {
                Opened::Packet { peer: index, packet }
            }
            Content::Keepalive => Opened::Nothing,
            Content::Packet(..) | Content::Garbage => {
                self.shared.counters.wrong_source += 1;
                Opened::Nothing
            }
        }
    }

    /// Data of a session that is not there. If a peer that waits for a handshake is where it came from, the peer has not
    /// noticed that we lost the session: its traffic waits for that handshake.
    #[cold]
    fn stray<'a>(&mut self, from: Endpoint) -> Opened<'a> {
        let peer = self.places.get(&from.address).and_then(|index| at(&mut self.peers, *index));
        if let Some(peer) = peer {
            peer.hurry(&mut self.shared);
        }
        self.refuse(Refused::Unexpected)
    }

    #[cold]
    fn refuse<'a>(&mut self, refused: Refused) -> Opened<'a> {
        self.count(refused);
        Opened::Nothing
    }

    /// Runs what is due at `now`: retries, rekeys, keepalives, expiry. Begins a bounded number of handshakes, and wants to be
    /// called again for the others. Cheap when called early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if due(self.next_tick, now) {
            self.tick(now);
        }
        while let Some((index, turn)) = self.shared.starts.next(now) {
            let Some(peer) = at(&mut self.peers, index) else { continue };
            peer.queued.taken(turn);
            peer.tick(&mut self.shared, now);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.budget.tidy(now);
        // Nodes that start together must not all begin with the same peer.
        let count = self.peers.len();
        let from = self.shared.random.index() as usize % count.max(1);
        let mut active = false;
        for place in (0..count).map(|step| (from + step) % count) {
            let Some(peer) = &mut self.peers[place] else { continue };
            peer.tick(&mut self.shared, now);
            active |= peer.is_active();
        }
        self.next_tick = active.then(|| now + TICK);
    }

    /// When [`Device::handle_timeout`] wants to be called next; may move with every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_tick.into_iter().chain(self.shared.starts.due()).min()
    }

    /// Sees to it that ticks come, now that there is something to time.
    fn wake(&mut self, now: Instant) {
        self.next_tick.get_or_insert(now + TICK);
    }

    /// The next datagram to send beside those that [`Device::seal`] gave.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.next_transmit()
    }

    /// The next thing that happened. Where a peer is, is reported at most once a second for each peer.
    pub fn poll_event(&mut self) -> Option<DeviceEvent> {
        self.shared.next_event()
    }

    /// Whether [`Device::poll_event`] has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.shared.has_events()
    }

    /// The counters, also for the caller to count what only it sees.
    pub fn counters_mut(&mut self) -> &mut DeviceCounters {
        &mut self.shared.counters
    }

    /// The name of `peer`, for reports.
    #[must_use]
    pub fn name(&self, peer: PeerIndex) -> Option<&str> {
        Some(&self.peers.get(peer.0 as usize)?.as_ref()?.config.name)
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("peers", &self.names.len()).finish_non_exhaustive()
    }
}

#[inline]
fn at(peers: &mut [Option<Peer>], index: PeerIndex) -> Option<&mut Peer> {
    peers.get_mut(index.0 as usize)?.as_mut()
}
