//! The simulated network.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::super::known::Known;
use super::*;

/// What the wire does to datagrams; each chance is in percent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    pub(super) latency: Duration,
    /// Each datagram takes up to this much longer, and so overtakes others.
    pub(super) jitter: Duration,
    pub(super) lose: u64,
    pub(super) duplicate: u64,
    pub(super) corrupt: u64,
}

impl Default for Wire {
    fn default() -> Self {
        Self { latency: 5 * MILLISECOND, jitter: Duration::ZERO, lose: 0, duplicate: 0, corrupt: 0 }
    }
}

/// Says which datagrams are lost.
pub(super) type Filter = Box<dyn FnMut(&Flight) -> bool>;

/// A datagram that was sent.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) at: Instant,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

impl Flight {
    pub(super) fn is_initiation(&self) -> bool {
        self.bytes[0] == 1
    }

    pub(super) fn is_response(&self) -> bool {
        self.bytes[0] == 2
    }

    pub(super) fn is_cookie(&self) -> bool {
        self.bytes[0] == 3
    }

    /// Data with a packet in it.
    pub(super) fn carries(&self) -> bool {
        self.bytes[0] == 4 && self.bytes.len() > 32
    }

    pub(super) fn is_keepalive(&self) -> bool {
        self.bytes[0] == 4 && self.bytes.len() == 32
    }
}

pub(super) struct Node {
    pub(super) device: Device,
    /// Where it sends from; it gets what is sent to any address that was ever its own unless that was taken.
    pub(super) address: SocketAddr,
    pub(super) received: Vec<Vec<u8>>,
    pub(super) events: Vec<DeviceEvent>,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) wire: Wire,
    pub(super) nodes: Vec<Node>,
    /// All that was sent, also what was lost.
    pub(super) log: Vec<Flight>,
    /// Nodes that neither send nor receive.
    pub(super) cut: HashSet<usize>,
    /// Drops what it says true of.
    pub(super) drop: Option<Filter>,
    owners: HashMap<SocketAddr, usize>,
    flying: Vec<Flight>,
    random: u64,
}

impl Net {
    pub(super) fn new(wire: Wire) -> Self {
        let now = Instant::now();
        let (nodes, log, cut, owners, flying) = Default::default();
        Self { now, wire, nodes, log, cut, drop: None, owners, flying, random: 0x2545_f491_4f6c_dd1d }
    }

    pub(super) fn add(&mut self) -> usize {
        let (node, address) = (self.nodes.len(), address(self.nodes.len()));
        let device = Device::new(MTU, self.now);
        self.nodes.push(Node { device, address, received: Vec::new(), events: Vec::new() });
        self.owners.insert(address, node);
        node
    }

    /// Replaces the device by one that knows nothing.
    pub(super) fn restart(&mut self, node: usize) {
        self.nodes[node].device = Device::new(MTU, self.now);
    }

    /// Moves a node; what is sent to its old address is lost.
    pub(super) fn relocate(&mut self, node: usize, to: SocketAddr) {
        self.owners.remove(&self.nodes[node].address);
        self.nodes[node].address = to;
        self.owners.insert(to, node);
    }

    pub(super) fn apply(&mut self, node: usize, config: &Config) -> PeerChanges {
        self.nodes[node].device.apply(config, self.now).unwrap()
    }

    /// A number below `limit` (xorshift).
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit.max(1)
    }

    /// Sends `packet` from the node as if it came from its TUN.
    pub(super) fn send(&mut self, node: usize, packet: &[u8]) -> Sealed {
        let now = self.now;
        let device = &mut self.nodes[node].device;
        let peer = device.route(destination(packet)).expect("a route");
        let mut out = vec![0; super::super::sealed_room(packet.len())];
        let sealed = device.seal(peer, packet, &mut out, now);
        let to = device.endpoint(peer);
        self.drain(node);
        if let (Sealed::Data(length), Some(to)) = (sealed, to) {
            out.truncate(length);
            self.launch(node, Transmit { to, bytes: out });
        }
        sealed
    }

    /// Lets time go by.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.arrivals();
            for node in 0..self.nodes.len() {
                let now = self.now;
                self.nodes[node].device.handle_timeout(now);
                self.drain(node);
            }
        }
        self.now = end;
        self.check();
    }

    /// Runs until `done`, for at most `limit`; how long that took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while self.now < start + limit {
            if done(self) {
                return Some(self.now - start);
            }
            self.run(MILLISECOND);
        }
        done(self).then(|| self.now - start)
    }

    fn next(&self) -> Option<Instant> {
        let arrival = self.flying.iter().map(|flight| flight.at).min();
        self.nodes.iter().filter_map(|node| node.device.poll_timeout()).chain(arrival).min()
    }

    fn arrivals(&mut self) {
        let now = self.now;
        let mut due: Vec<Flight> = self.flying.extract_if(.., |flight| flight.at <= now).collect();
        due.sort_by_key(|flight| flight.at);
        for flight in due {
            if let Some(node) = self.owners.get(&flight.to).copied().filter(|node| !self.cut.contains(node)) {
                self.deliver(node, flight.from, &flight.bytes);
            }
        }
    }

    /// Hands a datagram to a node, past the wire.
    pub(super) fn deliver(&mut self, node: usize, from: SocketAddr, bytes: &[u8]) {
        let mut out = vec![0; bytes.len()];
        let now = self.now;
        let opened = self.nodes[node].device.open(from.into(), bytes, &mut out, now);
        if let Opened::Packet { packet, .. } = opened {
            let packet = packet.to_vec();
            self.nodes[node].received.push(packet);
        }
        self.drain(node);
    }

    /// Takes what the device has to send and to tell.
    pub(super) fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].device.poll_transmit() {
            self.launch(node, transmit);
        }
        while let Some(event) = self.nodes[node].device.poll_event() {
            self.nodes[node].events.push(event);
        }
    }

    fn launch(&mut self, node: usize, Transmit { to, bytes }: Transmit) {
        let flight = Flight { at: self.now, from: self.nodes[node].address, to: to.address, bytes };
        self.log.push(flight.clone());
        let dropped = self.drop.as_mut().is_some_and(|drop| drop(&flight));
        if dropped || self.cut.contains(&node) || self.below(100) < self.wire.lose {
            return;
        }
        let copies = if self.below(100) < self.wire.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let mut copy = flight.clone();
            let jitter = u64::try_from(self.wire.jitter.as_micros()).unwrap();
            copy.at += self.wire.latency + Duration::from_micros(self.below(jitter));
            if self.below(100) < self.wire.corrupt {
                let at = usize::try_from(self.below(copy.bytes.len() as u64)).unwrap();
                copy.bytes[at] ^= 1 << self.below(8);
            }
            self.flying.push(copy);
        }
    }

    /// What has to hold at any time.
    pub(super) fn check(&self) {
        for (node, Node { device, .. }) in self.nodes.iter().enumerate() {
            let held: usize =
                device.peers().flat_map(|peer| &peer.slots).map(|slot| slot.indices_held()).sum();
            assert_eq!(held, device.shared.indices.len(), "indices of node {node} leak");
            let mut known = Known::default();
            device.peers().for_each(|peer| known.add(peer.sites()));
            assert_eq!(known, device.shared.known, "where peers of node {node} may be");
        }
    }

    pub(super) fn report(&self, node: usize) -> DeviceReport {
        self.nodes[node].device.report(self.now, Timestamp::now())
    }

    pub(super) fn counters(&self, node: usize) -> DeviceCounters {
        self.report(node).counters
    }

    pub(super) fn peer(&self, node: usize, other: usize) -> PeerReport {
        let name = format!("node-{other}");
        self.report(node).peers.into_iter().find(|peer| peer.name == name).expect("the peer")
    }

    pub(super) fn is_established(&self, node: usize, other: usize) -> bool {
        self.peer(node, other).condition == PeerCondition::Established
    }

    pub(super) fn initiations(&self) -> usize {
        self.log.iter().filter(|flight| flight.is_initiation()).count()
    }

    pub(super) fn received(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[node].received)
    }

    pub(super) fn confirmed(&self, node: usize) -> usize {
        self.nodes[node].events.iter().filter(|event| matches!(event, DeviceEvent::Confirmed { .. })).count()
    }

    pub(super) fn silent(&self, node: usize) -> usize {
        self.nodes[node].events.iter().filter(|event| matches!(event, DeviceEvent::Silent { .. })).count()
    }
}

/// Where node `node` is.
pub(super) fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node).unwrap() + 1], 51830))
}

/// An IPv4 packet from a pod of `from` to one of `to` with `number` and `length` further bytes in it.
pub(super) fn packet(from: u8, to: u8, number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; 24 + length];
    packet[0] = 0x45;
    let total = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&Ipv4Addr::new(10, from, 0, 1).octets());
    packet[16..20].copy_from_slice(&Ipv4Addr::new(10, to, 0, 1).octets());
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet[24..].fill(0xa5);
    packet
}

/// The same as IPv6.
pub(super) fn packet6(from: u16, to: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + length];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    packet[8..24].copy_from_slice(&Ipv6Addr::new(0xfd00, from, 0, 0, 0, 0, 0, 1).octets());
    packet[24..40].copy_from_slice(&Ipv6Addr::new(0xfd00, to, 0, 0, 0, 0, 0, 1).octets());
    packet
}

fn destination(packet: &[u8]) -> IpAddr {
    match packet[0] >> 4 {
        4 => <[u8; 4]>::try_from(&packet[16..20]).unwrap().into(),
        _ => <[u8; 16]>::try_from(&packet[24..40]).unwrap().into(),
    }
}
