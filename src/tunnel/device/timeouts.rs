//! What is due for a peer: keepalives, retries, renewals, expiry (WireGuard paper, section 6).

use std::time::Instant;

use super::event::DeviceEvent;
use super::peer::Peer;
use super::shared::Shared;
use super::timing::{KEEPALIVE_TIMEOUT, REKEY_ATTEMPT_TIME, REST, due};

impl Peer {
    /// Whether time changes anything for it.
    pub(super) fn is_active(&self) -> bool {
        let timed = self.wanted_since.is_some() || self.persistent_due.is_some() || self.has_to_ask();
        timed || self.is_unreported || self.slots.iter().any(super::slot::Slot::is_active)
    }

    /// Does what is due at `now`.
    pub(super) fn tick(&mut self, shared: &mut Shared, now: Instant) {
        self.expire(shared, now);
        self.keep_alive(shared, now);
        self.chase_reply(shared, now);
        self.retry(shared, now);
        self.renew(shared, now);
        self.pursue(shared, now);
        self.ask(shared, now);
        if self.is_unreported {
            self.report_place(shared, now);
        }
    }

    fn keep_alive(&mut self, shared: &mut Shared, now: Instant) {
        if due(self.keepalive_due, now) {
            let again = std::mem::take(&mut self.more_keepalive);
            self.keepalive_due = None;
            self.send_keepalive(shared, now);
            self.keepalive_due = again.then(|| now + KEEPALIVE_TIMEOUT);
        }
        if due(self.persistent_due, now) {
            let interval = self.config.persistent_keepalive.filter(|seconds| *seconds > 0);
            self.persistent_due =
                interval.map(|seconds| now + std::time::Duration::from_secs(seconds.into()));
            match (interval, self.sending) {
                (Some(_), Some(_)) => self.send_keepalive(shared, now),
                (Some(_), None) => _ = self.wanted_since.get_or_insert(now),
                (None, _) => {}
            }
        }
    }

    /// Data was sent and nothing came back: asks by a handshake.
    fn chase_reply(&mut self, shared: &mut Shared, now: Instant) {
        if !due(self.reply_due, now) {
            return;
        }
        let asked = match self.sending {
            // What is preferred to it is tried anyway.
            Some(at) if self.slots[at].is_retired => true,
            Some(at) => self.slots[at].is_initiating() || self.start(at, shared, now),
            None => {
                self.wanted_since.get_or_insert(now);
                true
            }
        };
        if asked {
            self.reply_due = None;
        }
    }

    /// Sends initiations again that were not answered, to the next place when the peer is not heard at all.
    fn retry(&mut self, shared: &mut Shared, now: Instant) {
        let mut moved = false;
        for at in 0..self.slots.len() {
            let Some(initiation) = &self.slots[at].initiation else { continue };
            if now < initiation.retry_at {
                continue;
            }
            if self.wanted_since.is_none() && now >= initiation.started + REKEY_ATTEMPT_TIME {
                self.slots[at].abandon(&mut shared.indices);
                self.slots[at].rests_until = Some(now + REST);
                self.tell_silence(shared, now);
                continue;
            }
            let asks = initiation.asked.is_some();
            if asks && !self.has_to_ask() {
                self.slots[at].abandon(&mut shared.indices); // what else wants a handshake begins one
                continue;
            }
            if !self.has_turn(shared, now) {
                continue;
            }
            if !asks && !moved && self.is_unheard(now) {
                self.try_elsewhere();
                moved = true;
            }
            self.initiate(at, shared, now);
        }
    }

    /// Renews sessions that were used for long, and those whose preshared key changed.
    fn renew(&mut self, shared: &mut Shared, now: Instant) {
        for at in 0..self.slots.len() {
            let slot = &self.slots[at];
            let aged = slot.current.as_ref().is_some_and(|session| session.wants_rekey());
            if aged || slot.is_stale && slot.is_rested(now) {
                self.start(at, shared, now);
            }
        }
    }

    /// With packets waiting: tries every slot. With a session: tries those that are preferred to it.
    fn pursue(&mut self, shared: &mut Shared, now: Instant) {
        match (self.sending, self.wanted_since) {
            (None, Some(since)) if now >= since + REKEY_ATTEMPT_TIME => self.give_up(shared, now),
            (None, Some(_)) => self.start_all(shared, now),
            (None, None) => {}
            (Some(sending), _) => {
                for at in 0..sending {
                    if self.slots[at].is_rested(now) {
                        self.start(at, shared, now);
                    }
                }
                if !self.slots[sending].is_confirmed(now) && self.slots.len() > 1 {
                    self.start(sending, shared, now); // both ends of a rotation have to know
                }
            }
        }
    }

    /// Begins a handshake with a new candidate.
    fn ask(&mut self, shared: &mut Shared, now: Instant) {
        if let Some(sending) = self.sending.filter(|_| self.has_to_ask()) {
            self.start(sending, shared, now);
        }
    }

    fn give_up(&mut self, shared: &mut Shared, now: Instant) {
        self.wanted_since = None;
        for slot in &mut self.slots {
            slot.abandon(&mut shared.indices);
        }
        self.drop_waiting(shared);
        self.tell_silence(shared, now);
    }

    /// Once for each time that the peer falls silent.
    fn tell_silence(&mut self, shared: &mut Shared, now: Instant) {
        let long = self.last_received.is_none_or(|last| now >= last + REKEY_ATTEMPT_TIME);
        if long && !self.is_silent {
            self.is_silent = true;
            shared.event(DeviceEvent::Silent { peer: self.config.name.clone() });
        }
    }

    /// A session is wanted: begins handshakes where none is under way.
    pub(super) fn want(&mut self, shared: &mut Shared, now: Instant) {
        self.wanted_since.get_or_insert(now);
        self.start_all(shared, now);
    }

    fn start_all(&mut self, shared: &mut Shared, now: Instant) {
        for at in 0..self.slots.len() {
            self.start(at, shared, now);
        }
    }

    /// Begins a handshake in slot `at` if that is possible now.
    fn start(&mut self, at: usize, shared: &mut Shared, now: Instant) -> bool {
        let slot = &self.slots[at];
        let possible = self.endpoint.is_some() && !slot.is_retired && slot.may_initiate(now);
        let possible = possible && self.has_turn(shared, now);
        if possible {
            self.initiate(at, shared, now);
        }
        possible
    }

    /// Takes one initiation out of the device's budget; without one, the peer waits for its turn.
    fn has_turn(&mut self, shared: &mut Shared, now: Instant) -> bool {
        if shared.retired {
            return false;
        }
        let has_turn = shared.starts.take(now);
        if !has_turn {
            let is_busy = self.has_waiting() || due(self.reply_due, now);
            shared.starts.queue(self.index, &mut self.queued, is_busy);
        }
        has_turn
    }

    /// Traffic waits for the handshake that waits for its turn.
    pub(super) fn hurry(&mut self, shared: &mut Shared) {
        if self.queued.is_any() {
            shared.starts.queue(self.index, &mut self.queued, true);
        }
    }

    fn initiate(&mut self, at: usize, shared: &mut Shared, now: Instant) {
        let owner = self.owner(at);
        let asked = self.next_to_ask();
        let message = self.slots[at].initiate(owner, asked, shared, now);
        if let (Some(message), Some(to)) = (message, asked.map(Into::into).or(self.endpoint)) {
            self.transmit_to(to, message, false, shared, now);
        }
    }
}
