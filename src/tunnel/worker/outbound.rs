//! From the TUN to the network: a super-packet is cut, each part sealed into the batch, the batch sent at once.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::tunnel::device::{Device, PeerIndex, Sealed, Transmit, sealed_room};
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::io::MAX_PACKET;
use crate::tunnel::io::batch::{Batch, Sent};
use crate::tunnel::io::packet::destination;
use crate::tunnel::io::segment::Segments;
use crate::tunnel::io::tun::TunQueue;
use crate::tunnel::io::udp::UdpSockets;
use crate::tunnel::io::unreachable::Unreachable;
use crate::tunnel::io::vnet::{self, VnetHeader};

/// Super-packets in a turn, so that the other direction gets its own.
const READS: usize = 4;
/// How long a batch waits for the kernel to have room. Longer, and something is wrong with the socket: what was
/// waiting is dropped.
const PATIENCE: Duration = Duration::from_millis(100);

/// The sending side's buffers and state.
#[derive(Debug)]
pub(super) struct Outbound {
    packet: Box<[u8]>,
    batch: Batch,
    /// Whose packet was the first in the batch; none for what the device made by itself.
    peer: Option<PeerIndex>,
    /// Since when the batch waits for room in the socket; the TUN is not read meanwhile.
    waiting: Option<Instant>,
    unreachable: Unreachable,
}

/// What packets pass on their way, and when.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) tun: &'a TunQueue,
    pub(super) udp: &'a mut UdpSockets,
    pub(super) device: &'a mut Device,
    pub(super) now: Instant,
}

/// What a turn ended with.
#[derive(Debug)]
pub(super) enum Turn {
    /// There was nothing more to read, or the turn's share was done.
    Done,
    /// Reading failed.
    ReadFailed(io::Error),
}

impl Outbound {
    pub(super) fn new(now: Instant) -> Self {
        let packet = vec![0; vnet::LEN + MAX_PACKET + 64].into_boxed_slice();
        Self {
            packet,
            batch: Batch::default(),
            peer: None,
            waiting: None,
            unreachable: Unreachable::new(now),
        }
    }

    /// When waiting is over at the latest; none if nothing waits.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.map(|since| since + PATIENCE)
    }

    /// The address of what waits for room in the socket.
    pub(super) fn waits_for(&self) -> Option<SocketAddr> {
        self.waiting.and_then(|_| self.batch.to()).map(|to| to.address)
    }

    /// Tries again to send what waits, and gives up on it after a while. True if the way is free.
    pub(super) fn resume(&mut self, way: &mut Way<'_>) -> bool {
        let Some(since) = self.waiting else { return true };
        if way.now.duration_since(since) >= PATIENCE {
            way.device.counters_mut().send_errors += 1;
            self.batch.clear();
        }
        self.waiting = None;
        if !self.send(way) {
            self.waiting = Some(since);
        }
        self.waiting.is_none()
    }

    /// Moves a share of what the TUN has.
    pub(super) fn turn(&mut self, way: &mut Way<'_>) -> Turn {
        for _ in 0..READS {
            match way.tun.read(&mut self.packet) {
                Ok(len) => self.forward(len, way),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Turn::ReadFailed(error),
            }
            if self.waiting.is_some() {
                break;
            }
        }
        Turn::Done
    }

    /// Takes a packet that another worker had read.
    pub(super) fn forward_plain(&mut self, packet: &[u8], way: &mut Way<'_>) {
        let len = vnet::LEN + packet.len();
        let Some((header, room)) =
            self.packet.get_mut(..len).and_then(|all| all.split_at_mut_checked(vnet::LEN))
        else {
            return;
        };
        header.fill(0);
        room.copy_from_slice(packet);
        self.forward(len, way);
    }

    /// Takes the packet of `len` bytes, offload header included, that stands in the buffer.
    fn forward(&mut self, len: usize, way: &mut Way<'_>) {
        let mut packet = std::mem::take(&mut self.packet);
        self.forward_packet(&mut packet[..len], way);
        self.packet = packet;
    }

    fn forward_packet(&mut self, packet: &mut [u8], way: &mut Way<'_>) {
        let parsed = packet
            .split_first_chunk_mut()
            .and_then(|(header, packet)| Some((VnetHeader::decode(header)?, destination(packet)?, packet)));
        let Some((header, destination, packet)) = parsed else {
            way.device.counters_mut().invalid_packet += 1;
            return;
        };
        let Some(peer) = way.device.route(destination) else {
            way.device.counters_mut().no_peer += 1;
            if let Some(answer) = self.unreachable.answer(packet, way.now) {
                let _ = way.tun.write(answer); // a courtesy
            }
            return;
        };
        let Ok(mut segments) = Segments::new(&header, packet) else {
            way.device.counters_mut().invalid_packet += 1;
            return;
        };
        while let Some(segment) = segments.next() {
            // Without an endpoint it is for the device to drop and to count it.
            let to = way.device.endpoint(peer);
            let room = sealed_room(segment.len());
            if let Some(to) = to
                && !self.batch.fits(to, room)
                && !self.send(way)
            {
                // The rest of this super-packet is lost, as it would be at a full queue.
                way.device.counters_mut().send_errors += 1;
                return;
            }
            let sealed = way.device.seal(peer, segment, self.batch.room(), way.now);
            if let (Sealed::Data(len), Some(to)) = (sealed, to) {
                self.push(Some(peer), to, len, way);
            }
        }
    }

    /// Sends what the device made by itself.
    pub(super) fn transmit(&mut self, way: &mut Way<'_>) {
        while let Some(Transmit { to, bytes }) = way.device.poll_transmit() {
            if self.waiting.is_some() || (!self.batch.fits(to, bytes.len()) && !self.send(way)) {
                way.device.counters_mut().send_errors += 1;
            } else if let Some(room) = self.batch.room().get_mut(..bytes.len()) {
                room.copy_from_slice(&bytes);
                self.push(None, to, bytes.len(), way);
            }
        }
    }

    /// Takes the datagram that was made behind the batch.
    fn push(&mut self, peer: Option<PeerIndex>, to: Endpoint, len: usize, way: &mut Way<'_>) {
        let before = self.batch.len();
        if before == 0 {
            self.peer = peer;
        }
        if self.batch.push(to, len) {
            return;
        }
        if self.send(way) {
            self.peer = peer;
            self.batch.start_over(before, to, len);
        } else {
            way.device.counters_mut().send_errors += 1;
        }
    }

    /// Sends the batch, unless it waits. False if the kernel has no room for it now.
    pub(super) fn send(&mut self, way: &mut Way<'_>) -> bool {
        if self.waiting.is_some() {
            return false;
        }
        let to = self.batch.to();
        match self.batch.send(way.udp) {
            Sent::All => true,
            Sent::FromElsewhere => {
                if let (Some(peer), Some(to)) = (self.peer, to) {
                    way.device.forget_source(peer, to);
                }
                true
            }
            Sent::Failed(_) => {
                way.device.counters_mut().send_errors += 1;
                true
            }
            Sent::Waiting => {
                self.waiting = Some(way.now);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::SockRef;

    use super::*;
    use crate::kernel::address::Address;
    use crate::kernel::link::{End, Id, Update, Veth, update};
    use crate::kernel::netlink::Netlink;

    /// Brings up a link on which nobody answers: what is sent waits for a neighbour, and counts as unsent.
    fn link_to_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::new().unwrap();
            let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
            let veth = Veth { end: end("veth0"), peer: end("veth1"), peer_ns: None };
            netlink.apply([veth.create()]).await.unwrap();
            let up = Update { up: Some(true), ..Update::default() };
            netlink.apply([update(Id::Name("veth0"), &up), update(Id::Name("veth1"), &up)]).await.unwrap();
            let index = netlink.link_named("veth0").await.unwrap().unwrap().index;
            let net = ipnet::IpNet::new(Ipv4Addr::new(192, 0, 2, 1).into(), 24).unwrap();
            netlink.apply([Address::new(index, net).add()]).await.unwrap();
        });
    }

    #[test]
    fn a_batch_waits_for_room_but_not_for_ever() {
        selvedge_lab::isolated!(|| {
            link_to_nobody();
            let (tun, mut udp) = (TunQueue::open("sel0").unwrap(), UdpSockets::bind(0).unwrap());
            SockRef::from(udp.v4()).set_send_buffer_size(1).unwrap();
            let (begin, to) = (Instant::now(), SocketAddr::from((Ipv4Addr::new(192, 0, 2, 9), 9)));
            let mut device = Device::new(1420, begin);
            let mut outbound = Outbound::new(begin);
            let (udp, device) = (&mut udp, &mut device);
            let mut way = Way { tun: &tun, udp, device, now: begin };
            while outbound.deadline().is_none() {
                assert!(begin.elapsed() < PATIENCE * 10, "the socket has always room");
                assert!(outbound.batch.push(to.into(), 1000));
                outbound.send(&mut way);
            }
            assert_eq!(outbound.waits_for(), Some(to));
            assert_eq!(outbound.deadline(), Some(begin + PATIENCE));
            way.now = begin + PATIENCE / 2;
            assert!(!outbound.resume(&mut way), "there is still no room");
            assert_eq!(outbound.deadline(), Some(begin + PATIENCE), "trying again does not start anew");
            assert_eq!(way.device.counters_mut().send_errors, 0);
            way.now = begin + PATIENCE;
            assert!(outbound.resume(&mut way), "what waits too long is dropped");
            assert_eq!((outbound.waits_for(), way.device.counters_mut().send_errors), (None, 1));
        });
    }
}
