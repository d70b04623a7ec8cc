//! Joins opened packets of one flow into super-packets for the TUN, as Linux' own GRO would.
//!
//! A packet is opened so that its payload lands right behind the payload before it; what its headers overwrite
//! is put back at once. That predicts that it continues the flow of the packet before, with headers as long.
//! When it does not, it is copied to where it belongs.
//!
//! Only what the kernel would cut into the very same packets again is joined, and only after its checksums were
//! found right: a packet that was damaged before it came into the tunnel must not get a good checksum here.

mod group;

use super::MAX_PACKET;
use super::joins::Joins;
use super::vnet::{self, VnetHeader};
use group::{Group, MAX_HEADERS};

/// Flows joined at the same time.
const FLOWS: usize = 8;
/// Where a packet starts in its buffer: room for the offload header, and the packet aligned.
const START: usize = 16;
/// A full super-packet, and any datagram opened behind it.
const ROOM: usize = START + MAX_PACKET + MAX_PACKET + 64;

/// Open super-packets, and the buffers they are made in.
#[derive(Debug)]
pub struct Coalescer {
    /// One more than can be filled, so that a packet has always a place to go.
    slots: [Slot; FLOWS + 1],
    /// The slot whose flow the next packet is thought to continue.
    current: usize,
    /// Counts groups, to find the oldest.
    age: u64,
    joins: Joins,
}

#[derive(Debug)]
struct Slot {
    buffer: Box<[u8]>,
    group: Option<Group>,
    age: u64,
}

impl Coalescer {
    /// Joins TCP or UDP packets where the TUN takes such super-packets; else passes every packet by itself.
    #[must_use]
    pub fn new(tcp: bool, udp: bool) -> Self {
        let slots =
            std::array::from_fn(|_| Slot { buffer: vec![0; ROOM].into_boxed_slice(), group: None, age: 0 });
        Self { slots, current: 0, age: 0, joins: Joins::new(tcp, udp) }
    }

    /// Joins packets only as far as `joins` says, beginning with the next super-packets.
    pub fn set_joins(&mut self, joins: Joins) {
        self.joins = joins;
    }

    /// Has `open` write a packet to the start of a buffer of 65,535 bytes or more, all of which it may use, and
    /// takes the packet of the length it gives, if it gives one. `sink` gets what is ready, behind its
    /// [`vnet`] header.
    pub fn take(&mut self, open: impl FnOnce(&mut [u8]) -> Option<usize>, sink: &mut impl FnMut(&[u8])) {
        let slot = &mut self.slots[self.current];
        let Some(group) = &mut slot.group else {
            if let Some(len) = open(&mut slot.buffer[START..]) {
                self.place(self.current, len, sink);
            }
            return;
        };
        let (over, end) = (group.headers, START + group.len);
        let mut saved = [0; MAX_HEADERS];
        saved[..over].copy_from_slice(&slot.buffer[end - over..end]);
        let opened = open(&mut slot.buffer[end - over..]);
        let overwritten = &mut slot.buffer[end - over..end];
        overwritten.swap_with_slice(&mut saved[..over]);
        let (Some(len), headers) = (opened, &saved[..over]) else { return };
        let (packet, rest) = slot.buffer[START..].split_at_mut(group.len);
        if len > over && group.accepts(packet, headers, &rest[..len - over]) {
            if group.join(packet, headers, len - over) {
                slot.flush(sink);
            }
            return;
        }
        self.move_away(headers, len, sink);
    }

    /// Copies a packet that did not continue the current flow to an empty slot: its first bytes are in
    /// `headers`, the others behind the current group.
    fn move_away(&mut self, headers: &[u8], len: usize, sink: &mut impl FnMut(&[u8])) {
        let from = self.current;
        let empty = self.empty(sink);
        let Ok([from, to]) = self.slots.get_disjoint_mut([from, empty]) else { return };
        let (head, tail) = (len.min(headers.len()), len.saturating_sub(headers.len()));
        let start = START + from.group.as_ref().map_or(0, |group| group.len);
        to.buffer[START..START + head].copy_from_slice(&headers[..head]);
        to.buffer[START + head..START + len].copy_from_slice(&from.buffer[start..start + tail]);
        self.place(empty, len, sink);
    }

    /// Takes a packet of `len` bytes that stands at the start of the empty slot `at`.
    fn place(&mut self, at: usize, len: usize, sink: &mut impl FnMut(&[u8])) {
        let packet = &self.slots[at].buffer[START..START + len];
        let group = Group::of(packet, self.joins);
        let mut flow = self.oldest_of_flow(at, len);
        if let (Some(group), Some(flow)) = (&group, flow)
            && self.append(at, group.headers, len, flow, sink)
        {
            self.current = flow;
            return;
        }
        // A fragment may be of any flow between its addresses: it overtakes none of them.
        while let Some(before) = flow {
            self.slots[before].flush(sink);
            flow = self.oldest_of_flow(at, len);
        }
        match group {
            Some(group) if !group.ends => {
                self.age += 1;
                self.slots[at].age = self.age;
                self.slots[at].group = Some(group);
                self.current = at;
            }
            _ => self.slots[at].write(&VnetHeader::default(), len, sink),
        }
    }

    /// Of the groups whose flow may be that of the packet of `len` bytes in the slot `at`: the one begun first.
    fn oldest_of_flow(&self, at: usize, len: usize) -> Option<usize> {
        let packet = &self.slots[at].buffer[START..START + len];
        let of_flow = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_of_flow(packet));
        of_flow.min_by_key(|(_, slot)| slot.age).map(|(at, _)| at)
    }

    /// Joins the packet in the slot `at` to the group of the slot `to`, if it continues that.
    fn append(
        &mut self,
        at: usize,
        headers: usize,
        len: usize,
        to: usize,
        sink: &mut impl FnMut(&[u8]),
    ) -> bool {
        let Ok([from, to]) = self.slots.get_disjoint_mut([at, to]) else { return false };
        let (headers, payload) = from.buffer[START..START + len].split_at(headers);
        let Some(group) = &mut to.group else { return false };
        let (packet, rest) = to.buffer[START..].split_at_mut(group.len);
        if !group.accepts(packet, headers, payload) {
            return false;
        }
        rest[..payload.len()].copy_from_slice(payload);
        if group.join(packet, headers, payload.len()) {
            to.flush(sink);
        }
        true
    }

    /// An empty slot other than the current; if there is none, the oldest group but the current is written.
    fn empty(&mut self, sink: &mut impl FnMut(&[u8])) -> usize {
        let current = self.current;
        let others = self.slots.iter_mut().enumerate().filter(|(at, _)| *at != current);
        let oldest = others.min_by_key(|(_, slot)| slot.group.as_ref().map_or(0, |_| slot.age));
        let Some((at, slot)) = oldest else { return 0 };
        slot.flush(sink);
        at
    }

    /// Gives all that is open to `sink`, in the order in which it was begun.
    pub fn flush(&mut self, sink: &mut impl FnMut(&[u8])) {
        while let Some(slot) = self.oldest() {
            slot.flush(sink);
        }
    }

    fn oldest(&mut self) -> Option<&mut Slot> {
        let open = self.slots.iter_mut().filter(|slot| slot.group.is_some());
        open.min_by_key(|slot| slot.age)
    }
}

impl Slot {
    fn is_of_flow(&self, packet: &[u8]) -> bool {
        let first = |group: &Group| &self.buffer[START..START + group.headers];
        self.group.as_ref().is_some_and(|group| group::same_flow(first(group), packet))
    }

    fn flush(&mut self, sink: &mut impl FnMut(&[u8])) {
        let Some(group) = self.group.take() else { return };
        let header = group.finish(&mut self.buffer[START..START + group.len]);
        self.write(&header, group.len, sink);
    }

    fn write(&mut self, header: &VnetHeader, len: usize, sink: &mut impl FnMut(&[u8])) {
        self.buffer[START - vnet::LEN..START].copy_from_slice(&header.encode());
        sink(&self.buffer[START - vnet::LEN..START + len]);
    }
}

#[cfg(test)]
mod tests;
