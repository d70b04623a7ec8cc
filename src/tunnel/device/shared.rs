//! What all peers of a device write to: datagrams and events on their way out, counters, indices in use.

use std::collections::VecDeque;
use std::time::Instant;

use super::Transmit;
use super::counters::DeviceCounters;
use super::event::DeviceEvent;
use super::indices::{Indices, SlotId};
use super::known::Known;
use super::noise::Padding;
use super::random::Random;
use super::starts::Starts;
use crate::tunnel::endpoint::Endpoint;

/// Datagrams that wait to be sent, at most; the caller takes them after each batch.
const MAX_TRANSMITS: usize = 16 * 1024;
/// Events that wait, at most.
const MAX_EVENTS: usize = 4096;
/// Bytes of packets that wait for handshakes, over all peers, beside those that each peer may hold in any case.
const MAX_WAITING_BYTES: usize = 16 << 20;

pub(super) struct Shared {
    pub(super) indices: Indices,
    pub(super) random: Random,
    pub(super) padding: Padding,
    pub(super) counters: DeviceCounters,
    /// Where peers may be.
    pub(super) known: Known,
    /// Initiations that may be sent now.
    pub(super) starts: Starts,
    /// Another device takes over: no handshakes.
    pub(super) retired: bool,
    /// Handshakes are tried again sooner until then: peers have sessions with another device too.
    pub(super) hurried_until: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<DeviceEvent>,
    missed_events: u64,
    waiting_bytes: usize,
    slots_made: u32,
}

impl Shared {
    pub(super) fn new(random: Random, padding: Padding, now: Instant) -> Self {
        Self {
            indices: Indices::default(),
            random,
            padding,
            counters: DeviceCounters::default(),
            known: Known::default(),
            starts: Starts::new(now),
            retired: false,
            hurried_until: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            missed_events: 0,
            waiting_bytes: 0,
            slots_made: 0,
        }
    }

    pub(super) fn next_slot_id(&mut self) -> SlotId {
        self.slots_made = self.slots_made.wrapping_add(1);
        SlotId(self.slots_made)
    }

    pub(super) fn transmit(&mut self, to: Endpoint, bytes: Vec<u8>) {
        if self.transmits.len() < MAX_TRANSMITS {
            self.transmits.push_back(Transmit { to, bytes });
        } else {
            self.counters.send_errors += 1;
        }
    }

    pub(super) fn next_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn event(&mut self, event: DeviceEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.missed_events += 1;
        }
    }

    /// Whether another event may say where a peer is. That is reported again later and others are not, so half of the room is
    /// kept for those.
    pub(super) fn has_room_for_places(&self) -> bool {
        self.events.len() < MAX_EVENTS / 2
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty() || self.missed_events > 0
    }

    pub(super) fn next_event(&mut self) -> Option<DeviceEvent> {
        self.events.pop_front().or_else(|| match std::mem::take(&mut self.missed_events) {
            0 => None,
            count => Some(DeviceEvent::Missed { count }),
        })
    }

    /// Whether `bytes` more may wait, which they may in any case if they are `granted`; if so they count until
    /// [`Shared::unreserve`].
    pub(super) fn reserve(&mut self, bytes: usize, granted: bool) -> bool {
        let fits = granted || self.waiting_bytes + bytes <= MAX_WAITING_BYTES;
        if fits {
            self.waiting_bytes += bytes;
        }
        fits
    }

    pub(super) fn unreserve(&mut self, bytes: usize) {
        self.waiting_bytes -= bytes;
    }

    #[cfg(test)]
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }
}
