//! A session: the keys that one handshake gave, and how long they may be used.

use std::time::{Duration, Instant};

use super::noise::{Content, Noise, Refused};
use super::timing::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_TIMEOUT,
};

pub(super) struct Session {
    pub(super) noise: Noise,
    /// Our index of it, as the peer writes it on his messages.
    pub(super) local: u32,
    /// Whether we began the handshake.
    pub(super) initiator: bool,
    /// When the handshake was done.
    pub(super) created: Instant,
    /// Whether transport data was received on it.
    pub(super) confirmed: bool,
    /// Messages sent.
    pub(super) sent: u64,
    rekey_at: Instant,
    last_sent: Instant,
    last_received: Instant,
    /// One more than the highest counter received.
    received: u64,
}

impl Session {
    /// `jitter` puts off its renewal, so that two peers that both began do not stay in step.
    pub(super) fn new(noise: Noise, local: u32, initiator: bool, now: Instant, jitter: Duration) -> Self {
        Self {
            noise,
            local,
            initiator,
            created: now,
            confirmed: false,
            sent: 0,
            rekey_at: now + REKEY_AFTER_TIME + jitter,
            last_sent: now,
            last_received: now,
            received: 0,
        }
    }

    /// Whether it may carry anything at `now`.
    #[inline]
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        now < self.created + REJECT_AFTER_TIME && self.sent < REJECT_AFTER_MESSAGES
    }

    /// Whether it was used after the age at which we are the one to renew it (paper, sections 6.2 and 6.5).
    pub(super) fn wants_rekey(&self) -> bool {
        let late = self.created + REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        let aged = self.last_sent >= self.rekey_at || self.last_received >= late;
        self.sent >= REKEY_AFTER_MESSAGES || self.initiator && aged
    }

    /// Seals into `out`; the length of the message.
    #[inline]
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8], now: Instant) -> Option<usize> {
        let length = self.noise.seal(plain, out)?;
        self.sent += 1;
        if !plain.is_empty() {
            self.last_sent = now;
        }
        Some(length)
    }

    #[cfg(test)]
    pub(super) fn forget_received(&mut self) {
        self.received = 0;
    }

    /// Opens a message, whose header says `counter`. Also whether it is newer than all before.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        datagram: &[u8],
        counter: u64,
        out: &'a mut [u8],
        now: Instant,
    ) -> Result<(Content<'a>, bool), Refused> {
        // boringtun would compute with the counter first, and overflow.
        if counter >= REJECT_AFTER_MESSAGES || out.len() < datagram.len() {
            return Err(Refused::Forged);
        }
        let content = self.noise.open(datagram, out)?;
        if !matches!(content, Content::Keepalive) {
            self.last_received = now;
        }
        let newest = counter >= self.received;
        if newest {
            self.received = counter + 1;
        }
        Ok((content, newest))
    }
}
