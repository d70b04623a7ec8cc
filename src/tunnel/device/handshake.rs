//! Handshake messages that come in: whose they are, and whether there is time for them.

use std::sync::Arc;
use std::time::Instant;

use super::Device;
use super::identity::{Identity, Proof};
use super::message::{COOKIE_LEN, INITIATION_LEN};
use super::noise::Refused;
use crate::tunnel::endpoint::Endpoint;

impl Device {
    /// Somebody wants a session. Answered to where it came from, from where it came to; endpoints do not change by it.
    pub(super) fn receive_initiation(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        let addressed = self.identities.iter().find(|(_, identity)| identity.is_addressed(datagram));
        let Some(identity) = addressed.map(|(_, identity)| Arc::clone(identity)) else {
            self.shared.counters.bad_mac += 1;
            return;
        };
        if !self.is_admitted(&identity, from, datagram, now) {
            self.shared.counters.under_load += 1;
            return;
        }
        let Some(key) = identity.initiator(datagram) else {
            self.shared.counters.bad_mac += 1;
            return;
        };
        let Some(peer) = self.keys.get(&key).and_then(|index| super::at(&mut self.peers, *index)) else {
            self.shared.counters.unknown_datagram += 1;
            return;
        };
        let Some(at) = peer.slot_of(&identity, &key) else { return };
        if peer.slots[at].is_flooded(now) {
            self.shared.counters.under_load += 1;
            return;
        }
        let owner = peer.owner(at);
        match peer.slots[at].respond(datagram, owner, &mut self.shared, now) {
            Ok(response) => {
                peer.rx_bytes += INITIATION_LEN as u64;
                peer.tx_bytes += response.len() as u64;
                self.shared.transmit(from, response);
                self.wake(now);
            }
            Err(refused) => self.count(refused),
        }
    }

    /// Whether there is time for a handshake. Under load the sender is asked to prove his address first.
    fn is_admitted(&mut self, identity: &Identity, from: Endpoint, datagram: &[u8], now: Instant) -> bool {
        if self.budget.take(now) {
            return true;
        }
        let address = from.address.ip();
        match identity.prove(datagram, address) {
            Some(Proof::Given) => self.budget.take_from(address, now),
            Some(Proof::Asked(cookie)) => {
                self.shared.transmit(from, cookie);
                false
            }
            None => false,
        }
    }

    /// The answer to an initiation of ours. It names an index that nobody else knows, so it needs no cookie.
    pub(super) fn receive_response(&mut self, receiver: u32, datagram: &[u8], now: Instant) {
        let Some(owner) = self.shared.indices.owner(receiver) else { return self.count(Refused::Unexpected) };
        let Some(peer) = super::at(&mut self.peers, owner.peer) else { return };
        let Some(at) = peer.slot_at(owner.slot) else { return };
        match peer.slots[at].complete(receiver, datagram, &mut self.shared, now) {
            Ok((keepalive, asked)) => peer.established(at, keepalive, asked, &mut self.shared, now),
            Err(refused) => self.count(refused),
        }
    }

    /// The peer is under load and asks us to show this cookie with the next try.
    pub(super) fn receive_cookie(&mut self, receiver: u32, datagram: &[u8]) {
        let Some(owner) = self.shared.indices.owner(receiver) else { return self.count(Refused::Unexpected) };
        let Some(peer) = super::at(&mut self.peers, owner.peer) else { return };
        let Some(at) = peer.slot_at(owner.slot) else { return };
        match peer.slots[at].cookie(receiver, datagram) {
            Ok(()) => peer.rx_bytes += COOKIE_LEN as u64,
            Err(refused) => self.count(refused),
        }
    }

    pub(super) fn count(&mut self, refused: Refused) {
        let counters = &mut self.shared.counters;
        match refused {
            Refused::Replayed => counters.replayed += 1,
            Refused::Forged => counters.bad_mac += 1,
            Refused::Unexpected => counters.unknown_datagram += 1,
        }
    }
}
