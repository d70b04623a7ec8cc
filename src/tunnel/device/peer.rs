//! A peer: its slots, where it is, what waits for it, and when it is to be heard or to hear from us.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::PeerIndex;
use super::config;
use super::event::DeviceEvent;
use super::identity::{Identity, OwnKey};
use super::indices::{Owner, SlotId};
use super::known::site;
use super::session::Session;
use super::shared::Shared;
use super::slot::{Place, Slot};
use super::starts::Queued;
use super::timing::{EQUALLY_NEW, KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, ROAMED_INTERVAL};
use crate::tunnel::endpoint::Endpoint;

/// Packets that wait for a handshake with one peer, at most; the oldest makes room.
const MAX_WAITING: usize = 128;
/// Packets that may wait for one peer however many wait for others: 28 MB at most with 5,000 peers and an MTU of 1420.
const ALWAYS_WAITING: usize = 4;
/// Handshakes by which new candidates are asked, at most. A renewal that is due meanwhile waits for them.
const MAX_ASKED: usize = 4;

pub(super) struct Peer {
    pub(super) index: PeerIndex,
    /// As last applied.
    pub(super) config: config::Peer,
    /// Where datagrams go now: a candidate, or where the peer was last heard.
    pub(super) endpoint: Option<Endpoint>,
    /// Where the peer was last heard, or answered.
    heard: Option<SocketAddr>,
    /// That is where datagrams go.
    is_proven: bool,
    /// Where a new device would look for the peer first, unless that is what is configured.
    reported: Option<SocketAddr>,
    /// When an event last said where the peer is.
    reported_at: Option<Instant>,
    /// Where the peer is may have to be reported yet.
    pub(super) is_unreported: bool,
    /// New candidates: asked by handshakes, while datagrams go where the peer was heard.
    asking: VecDeque<SocketAddr>,
    /// Own keys x the peer's keys, preferred first.
    pub(super) slots: Vec<Slot>,
    /// The slot that packets go by.
    pub(super) sending: Option<usize>,
    waiting: VecDeque<Vec<u8>>,
    /// Whether it waits for its turn to begin a handshake.
    pub(super) queued: Queued,
    /// Since when a session is wanted and there is none.
    pub(super) wanted_since: Option<Instant>,
    /// When data that we sent has been left unanswered for too long.
    pub(super) reply_due: Option<Instant>,
    /// When data that we received wants a sign of life.
    pub(super) keepalive_due: Option<Instant>,
    /// More data came since `keepalive_due` was set.
    pub(super) more_keepalive: bool,
    pub(super) persistent_due: Option<Instant>,
    pub(super) last_received: Option<Instant>,
    pub(super) is_silent: bool,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Peer {
    /// `heard`: where another device heard the peer.
    pub(super) fn new(index: PeerIndex, config: &config::Peer, heard: Option<SocketAddr>) -> Self {
        Self {
            index,
            config: config.clone(),
            endpoint: heard.or(config.endpoints.first().copied()).map(Into::into),
            heard,
            is_proven: heard.is_some(),
            reported: heard,
            reported_at: None,
            is_unreported: false,
            asking: VecDeque::new(),
            slots: Vec::new(),
            sending: None,
            waiting: VecDeque::new(),
            queued: Queued::default(),
            wanted_since: None,
            reply_due: None,
            keepalive_due: None,
            more_keepalive: false,
            persistent_due: None,
            last_received: None,
            is_silent: false,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// The session that packets go by, if it may be used at `now`.
    #[inline]
    pub(super) fn carrier(&mut self, now: Instant) -> Option<&mut Session> {
        let slot = self.slots.get_mut(self.sending?)?;
        slot.current.as_deref_mut().filter(|session| session.is_usable(now))
    }

    /// The slot `id` by its place.
    #[inline]
    pub(super) fn slot_at(&self, id: SlotId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == id)
    }

    /// The slot of a pair of keys by its place.
    pub(super) fn slot_of(&self, own: &Identity, peer: &selvedge_keys::PublicKey) -> Option<usize> {
        self.slots.iter().position(|slot| slot.identity.public() == own.public() && slot.peer_key == *peer)
    }

    pub(super) fn owner(&self, slot: usize) -> Owner {
        Owner { peer: self.index, slot: self.slots[slot].id }
    }

    /// Keeps the timers after `bytes` of a message went out; `data` when a packet was in it.
    #[inline]
    pub(super) fn sent(&mut self, bytes: usize, data: bool, now: Instant) {
        self.tx_bytes += bytes as u64;
        self.keepalive_due = None;
        self.more_keepalive = false;
        if data && self.reply_due.is_none() {
            self.reply_due = Some(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
        }
        self.traversed(now);
    }

    /// Keeps the timers after `bytes` of an authenticated message came in; `data` when a packet was in it.
    #[inline]
    pub(super) fn received(&mut self, bytes: usize, data: bool, now: Instant) {
        self.rx_bytes += bytes as u64;
        self.last_received = Some(now);
        self.is_silent = false;
        self.reply_due = None;
        if data && self.keepalive_due.is_some() {
            self.more_keepalive = true;
        } else if data {
            self.keepalive_due = Some(now + KEEPALIVE_TIMEOUT);
        }
        self.traversed(now);
    }

    #[inline]
    fn traversed(&mut self, now: Instant) {
        if self.config.persistent_keepalive.is_some() {
            self.persistent_due = self.keepalive_interval().map(|interval| now + interval);
        }
    }

    /// Time between persistent keepalives; none, or zero in the configuration, for no such thing.
    pub(super) fn keepalive_interval(&self) -> Option<Duration> {
        let seconds = self.config.persistent_keepalive.filter(|seconds| *seconds > 0)?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Chooses the slot to send by: the most preferred one with a confirmed session about as new as any, otherwise the most
    /// preferred with a session. In a restart the peer loses its sessions, and need not renew all of them: one that is older
    /// than another may be lost.
    pub(super) fn reselect(&mut self, now: Instant) {
        let newest = self.slots.iter().filter_map(|slot| slot.confirmed_at(now)).max();
        let is_fresh = |at: Instant| newest.is_some_and(|newest| newest <= at + EQUALLY_NEW);
        let confirmed = self.slots.iter().position(|slot| slot.confirmed_at(now).is_some_and(is_fresh));
        self.sending = confirmed.or_else(|| self.slots.iter().position(|slot| slot.is_usable(now)));
        if self.sending.is_some() {
            self.wanted_since = None;
        }
    }

    /// Drops what is too old, and chooses among what is left.
    pub(super) fn expire(&mut self, shared: &mut Shared, now: Instant) {
        for slot in &mut self.slots {
            slot.expire(now, &mut shared.indices);
        }
        self.slots.retain(|slot| !slot.is_retired || slot.has_sessions());
        self.reselect(now);
    }

    /// Keeps a packet until there is a session. The peer's oldest packets make room, not those for others.
    pub(super) fn wait(&mut self, packet: &[u8], shared: &mut Shared) {
        if self.waiting.len() >= MAX_WAITING {
            self.drop_oldest(shared);
        }
        while !shared.reserve(packet.len(), self.waiting.len() < ALWAYS_WAITING) {
            self.drop_oldest(shared);
        }
        self.waiting.push_back(packet.to_vec());
    }

    /// Whether packets wait.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn drop_oldest(&mut self, shared: &mut Shared) {
        if self.next_waiting(shared).is_some() {
            shared.counters.no_session += 1;
        }
    }

    fn next_waiting(&mut self, shared: &mut Shared) -> Option<Vec<u8>> {
        let packet = self.waiting.pop_front()?;
        shared.unreserve(packet.len());
        Some(packet)
    }

    pub(super) fn drop_waiting(&mut self, shared: &mut Shared) {
        while !self.waiting.is_empty() {
            self.drop_oldest(shared);
        }
    }

    /// Takes out what waits.
    pub(super) fn take_waiting(&mut self, shared: &mut Shared) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next_waiting(shared)).collect()
    }

    /// Sends what has waited; how many packets that was.
    fn flush(&mut self, shared: &mut Shared, now: Instant) -> usize {
        let mut count = 0;
        while self.carrier(now).is_some() {
            let Some(packet) = self.next_waiting(shared) else { break };
            let mut out = vec![0; super::sealed_room(packet.len())];
            let Some(session) = self.carrier(now) else { break };
            if let Some(length) = session.seal(shared.padding.pad(&packet), &mut out, now) {
                out.truncate(length);
                self.transmit(out, true, shared, now);
                count += 1;
            }
        }
        count
    }

    /// Sends a message to where the peer is.
    pub(super) fn transmit(&mut self, bytes: Vec<u8>, data: bool, shared: &mut Shared, now: Instant) {
        if let Some(to) = self.endpoint {
            self.transmit_to(to, bytes, data, shared, now);
        }
    }

    pub(super) fn transmit_to(
        &mut self,
        to: Endpoint,
        bytes: Vec<u8>,
        data: bool,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.sent(bytes.len(), data, now);
        shared.transmit(to, bytes);
    }

    /// Sends a keepalive by the slot that sending uses.
    pub(super) fn send_keepalive(&mut self, shared: &mut Shared, now: Instant) {
        if let Some(message) = self.carrier(now).and_then(|session| keepalive(session, now)) {
            self.transmit(message, false, shared, now);
        }
    }

    /// Transport data came on the session `local` of slot `at` for the first time.
    pub(super) fn confirm(&mut self, at: usize, local: u32, shared: &mut Shared, now: Instant) {
        let Some((place, session)) = self.slots[at].find(local) else { return };
        session.confirmed = true;
        let initiator = session.initiator;
        if place == Place::Next {
            self.slots[at].promote(&mut shared.indices);
            self.slots[at].abandon(&mut shared.indices);
        }
        if !initiator {
            self.slots[at].last_handshake = Some(now);
        }
        for lesser in &mut self.slots[at + 1..] {
            lesser.abandon(&mut shared.indices);
        }
        shared.event(DeviceEvent::Confirmed {
            peer: self.config.name.clone(),
            own_epoch: self.slots[at].own_epoch,
            peer_epoch: self.slots[at].peer_epoch,
        });
        self.reselect(now);
        let told = self.flush(shared, now) > 0 && self.sending == Some(at) && place == Place::Next;
        if !initiator && !told {
            self.answer(at, local, shared, now);
        }
    }

    /// A keepalive on that very session: the initiator too is to know that it works.
    fn answer(&mut self, at: usize, local: u32, shared: &mut Shared, now: Instant) {
        let session = self.slots[at].find(local);
        if let Some(message) = session.and_then(|(_, session)| keepalive(session, now)) {
            self.transmit(message, false, shared, now);
        }
    }

    /// The handshake that we began in slot `at` was answered; `keepalive` is the first message on its session. `asked` is
    /// the candidate that was asked by it.
    pub(super) fn established(
        &mut self,
        at: usize,
        keepalive: Vec<u8>,
        asked: Option<SocketAddr>,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.received(super::message::RESPONSE_LEN, false, now);
        if let Some(candidate) = asked {
            self.asking.clear();
            self.found_at(candidate.into(), shared, now);
        }
        self.reselect(now);
        let flushed = if self.sending == Some(at) { self.flush(shared, now) } else { 0 };
        if flushed == 0 {
            self.transmit(keepalive, false, shared, now);
        }
    }

    /// Whether the peer was last heard at `from`, and datagrams go there. A source that is not reported says nothing.
    #[inline]
    pub(super) fn is_known_at(&self, from: Endpoint) -> bool {
        self.is_proven
            && self.endpoint.is_some_and(|known| {
                known.address == from.address && (from.source.is_none() || known.source == from.source)
            })
    }

    /// Sends datagrams to `address` from now on, from an address of the kernel's choice.
    fn go_to(&mut self, address: SocketAddr) {
        self.endpoint = Some(address.into());
        self.is_proven = self.heard == Some(address);
    }

    /// Authenticated data, the newest of the session `local` of slot `at`, came from `from`: the peer is there
    /// now, unless the session is an old one, of which a straggler may come from where the peer was.
    #[cold]
    pub(super) fn heard_at(
        &mut self,
        from: Endpoint,
        at: usize,
        local: u32,
        shared: &mut Shared,
        now: Instant,
    ) {
        if !self.slots[at].is_recent(local) {
            return;
        }
        self.found_at(from, shared, now);
    }

    /// The peer is at `endpoint`.
    fn found_at(&mut self, endpoint: Endpoint, shared: &mut Shared, now: Instant) {
        let address = endpoint.address;
        let known = self.endpoint.filter(|known| known.address == address);
        let source = endpoint.source.or(known.and_then(|known| known.source));
        self.endpoint = Some(Endpoint { address, source });
        self.set_heard(address, shared);
        self.is_proven = true;
        self.report_place(shared, now);
    }

    /// Reports where the peer is, unless a new device would look for it there first. At most once in
    /// [`ROAMED_INTERVAL`], and not while many events wait: then a later call does, with where the peer is by then.
    pub(super) fn report_place(&mut self, shared: &mut Shared, now: Instant) {
        let expected = self.reported.or(self.config.endpoints.first().copied());
        let place = self.heard.filter(|place| self.is_proven && Some(*place) != expected);
        self.is_unreported = place.is_some();
        let is_recent = self.reported_at.is_some_and(|last| now < last + ROAMED_INTERVAL);
        if let Some(endpoint) = place.filter(|_| !is_recent && shared.has_room_for_places()) {
            shared.event(DeviceEvent::Roamed { peer: self.config.name.clone(), endpoint });
            (self.reported, self.reported_at) = (self.heard, Some(now));
            self.is_unreported = false;
        }
    }

    /// Another device heard the peer at `endpoint` just now.
    pub(super) fn is_at(&mut self, endpoint: Endpoint, shared: &mut Shared, now: Instant) {
        self.endpoint = Some(endpoint);
        self.set_heard(endpoint.address, shared);
        self.is_proven = true;
        self.is_unreported = true;
        self.last_received = Some(now);
        self.wanted_since.get_or_insert(now);
    }

    /// Whether any slot has a session to send on.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.slots.iter().any(|slot| slot.is_usable(now))
    }

    /// Nothing came from the peer for so long that it may be elsewhere.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        self.last_received.is_none_or(|last| now >= last + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)
    }

    /// Where the peer may be.
    fn places(&self) -> impl Iterator<Item = SocketAddr> {
        let heard = self.heard.filter(|heard| !self.config.endpoints.contains(heard));
        self.config.endpoints.iter().copied().chain(heard)
    }

    fn set_heard(&mut self, address: SocketAddr, shared: &mut Shared) {
        if self.heard.map(|heard| heard.ip()) == Some(address.ip()) {
            self.heard = Some(address);
            return;
        }
        shared.known.remove(self.sites());
        self.heard = Some(address);
        shared.known.add(self.sites());
    }

    /// The addresses in [`Peer::places`], each once, as the handshake budget counts them.
    pub(super) fn sites(&self) -> Vec<IpAddr> {
        let mut sites: Vec<_> = self.places().map(|place| site(place.ip())).collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Tries the next place where the peer may be, which may be the same, from an address of the kernel's choice: the one
    /// that the peer knew us by may be why it is not heard.
    pub(super) fn try_elsewhere(&mut self) {
        let count = self.places().count();
        let here = self.endpoint.map(|endpoint| endpoint.address);
        let here = self.places().position(|place| Some(place) == here);
        let next = here.map_or(0, |here| (here + 1) % count.max(1));
        let place = self.places().nth(next);
        if let Some(place) = place.or(self.endpoint.map(|endpoint| endpoint.address)) {
            self.go_to(place);
        }
    }

    /// The new candidate to ask by the next handshake. None is asked without a session that carries packets meanwhile.
    pub(super) fn next_to_ask(&mut self) -> Option<SocketAddr> {
        if self.sending.is_none() {
            self.asking.clear();
        }
        self.asking.pop_front()
    }

    /// Whether a candidate waits to be asked.
    pub(super) fn has_to_ask(&self) -> bool {
        !self.asking.is_empty()
    }

    /// Uses another configuration; names and allowed IPs are the device's business. True when it differs.
    pub(super) fn configure(
        &mut self,
        config: &config::Peer,
        proposes: bool,
        shared: &mut Shared,
        now: Instant,
    ) -> bool {
        if self.config == *config {
            return false;
        }
        self.choose_endpoint(config, proposes);
        if config.persistent_keepalive != self.config.persistent_keepalive {
            self.persistent_due = config.persistent_keepalive.map(|_| now);
        }
        if config.endpoints != self.config.endpoints && self.sending.is_none() {
            self.wanted_since = self.endpoint.map(|_| now);
        }
        shared.known.remove(self.sites());
        self.config = config.clone();
        self.is_unreported = true; // a new device would look elsewhere first
        shared.known.add(self.sites());
        true
    }

    /// Where datagrams go with another configuration. Where the peer was heard they go on going, until it answers at a new
    /// candidate: what NAT or a firewall lets through on the way there may be all that works.
    fn choose_endpoint(&mut self, config: &config::Peer, proposes: bool) {
        let Some(first) = config.endpoints.first().copied() else { return };
        let is_same =
            self.config.keys.iter().any(|old| config.keys.iter().any(|new| new.public_key == old.public_key));
        let ordered = !proposes && self.config.endpoints.first() != Some(&first);
        let kept = self.endpoint.is_some_and(|here| config.endpoints.contains(&here.address));
        if kept {
            self.asking.clear();
        } else if !self.is_proven || !is_same || ordered {
            self.go_to(first);
        } else if proposes && config.endpoints != self.config.endpoints {
            let candidates = config.endpoints.iter().copied();
            self.asking = candidates.clone().chain(candidates).take(MAX_ASKED).collect();
        }
    }

    /// Lays out the slots for own and peer's keys. Pairs that stay keep their sessions.
    pub(super) fn arrange(&mut self, own: &[OwnKey], shared: &mut Shared, now: Instant) {
        let had_session = self.sending.is_some();
        let mut before = std::mem::take(&mut self.slots);
        for own in own {
            for key in &self.config.keys {
                let same = |slot: &Slot| {
                    slot.identity.public() == own.identity.public() && slot.peer_key == key.public_key
                };
                let mut slot = match before.iter().position(same) {
                    Some(at) => before.swap_remove(at),
                    None => {
                        let id = shared.next_slot_id();
                        Slot::new(id, &own.identity, own.epoch, key.public_key, key.epoch)
                    }
                };
                (slot.own_epoch, slot.peer_epoch) = (own.epoch, key.epoch);
                (slot.is_withdrawn, slot.is_retired) = (own.is_withdrawn, key.is_retired);
                slot.set_psk(key.preshared_key.as_ref(), &mut shared.indices);
                if slot.is_retired {
                    slot.abandon(&mut shared.indices);
                }
                self.slots.push(slot);
            }
        }
        before.iter_mut().for_each(|slot| slot.clear(&mut shared.indices));
        self.slots.retain(|slot| !slot.is_retired || slot.has_sessions());
        self.slots.sort_by_key(|slot| std::cmp::Reverse(slot.preference()));
        self.reselect(now);
        if had_session && self.sending.is_none() {
            self.wanted_since.get_or_insert(now);
        }
    }

    /// Gives back all it holds of the device.
    pub(super) fn clear(&mut self, shared: &mut Shared) {
        self.slots.iter_mut().for_each(|slot| slot.clear(&mut shared.indices));
        self.drop_waiting(shared);
        shared.known.remove(self.sites());
    }
}

fn keepalive(session: &mut Session, now: Instant) -> Option<Vec<u8>> {
    let mut out = [0; super::OVERHEAD];
    let length = session.seal(&[], &mut out, now)?;
    Some(out[..length].to_vec())
}
