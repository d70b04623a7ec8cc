//! Handshake messages that come in: whose they are, and whether there is time for them.

use std::sync::Arc;
use std::time::Instant;

use super::Device;
use super::budget::Verdict;
use super::identity::Identity;
use super::known::site;
use super::message::{COOKIE_LEN, INITIATION_LEN};
use super::noise::Refused;
use super::sources::Source;
use crate::tunnel::endpoint::Endpoint;

impl Device {
    /// Somebody wants a session. Answered to where it came from, from where it came to; endpoints do not change by it.
    pub(super) fn receive_initiation(&mut self, from: Endpoint, datagram: &[u8], now: Instant) {
        let mut identities = self.identities.iter().map(|own| &own.identity);
        let Some(identity) = identities.find(|identity| identity.is_addressed(datagram)).map(Arc::clone)
        else {
            self.shared.counters.bad_mac += 1;
            return;
        };
        let address = from.address.ip();
        let peers = self.shared.known.peers(site(address));
        let prove = |may_ask| identity.prove(datagram, address, may_ask);
        match self.budget.admit(address, peers, prove, now) {
            Verdict::Open(source) => {
                if let Err(refused) = self.answer(&identity, from, datagram, now) {
                    self.refuse_initiation(refused, source, now);
                }
                return;
            }
            Verdict::Ask(cookie) => self.shared.transmit(from, cookie),
            Verdict::Refuse => {}
        }
        self.shared.counters.under_load += 1;
    }

    fn answer(
        &mut self,
        identity: &Identity,
        from: Endpoint,
        datagram: &[u8],
        now: Instant,
    ) -> Result<(), Refused> {
        let key = identity.initiator(datagram).ok_or(Refused::Forged)?;
        let peer = self.keys.get(&key).and_then(|index| super::at(&mut self.peers, *index));
        let peer = peer.ok_or(Refused::Unexpected)?;
        let at = peer.slot_of(identity, &key).ok_or(Refused::Unexpected)?;
        if peer.slots[at].is_flooded(now) {
            self.shared.counters.under_load += 1;
            return Ok(());
        }
        let owner = peer.owner(at);
        let response = peer.slots[at].respond(datagram, owner, &mut self.shared, now)?;
        peer.rx_bytes += INITIATION_LEN as u64;
        peer.tx_bytes += response.len() as u64;
        self.shared.transmit(from, response);
        self.wake(now);
        Ok(())
    }

    fn refuse_initiation(&mut self, refused: Refused, source: Option<Source>, now: Instant) {
        if let Some(source) = source {
            self.budget.punish(source, now);
        }
        self.count(refused);
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
