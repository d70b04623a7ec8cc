//! From the network to the TUN: what one receive brought is opened one by one, each payload right behind the one
//! before, and written as super-packets.

use std::io;
use std::time::Instant;

use crate::tunnel::device::{Device, Opened};
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::handover::Successor;
use crate::tunnel::io::coalesce::Coalescer;
use crate::tunnel::io::joins::Joins;
use crate::tunnel::io::tun::TunQueue;
use crate::tunnel::io::udp::{Datagrams, UdpSocket};
use crate::tunnel::io::writer::Writer;

/// Receives in a turn, so that the other direction gets its own.
const RECEIVES: usize = 4;
/// Larger than any UDP payload.
const ROOM: usize = 65_536;

/// The receiving side's buffers and counts.
#[derive(Debug)]
pub(super) struct Inbound {
    datagrams: Box<[u8]>,
    coalescer: Coalescer,
    writer: Writer,
}

impl Inbound {
    pub(super) fn new(tun: &TunQueue) -> Self {
        let offload = tun.offload();
        Self {
            datagrams: vec![0; ROOM].into_boxed_slice(),
            coalescer: Coalescer::new(offload.tso, offload.uso),
            writer: Writer::new(Joins::new(offload.tso, offload.uso)),
        }
    }

    /// What became of what was written.
    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Moves a share of what the socket has; what is not ours goes to the predecessor of `successor`.
    ///
    /// # Errors
    /// What the socket reported, other than that there is nothing more.
    pub(super) fn turn(
        &mut self,
        socket: &UdpSocket,
        tun: &TunQueue,
        device: &mut Device,
        mut successor: Option<&mut Successor>,
        now: Instant,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let Self { datagrams, coalescer, writer } = self;
        let mut sink = |packet: &[u8]| writer.write(tun, packet);
        for _ in 0..RECEIVES {
            let batch = match socket.receive(datagrams) {
                Ok(batch) => batch,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            let bytes = &datagrams[..batch.len];
            let is_successor = successor.is_some();
            if let Some(successor) = &mut successor {
                hand_back_foreign(successor, bytes, batch, device, now);
            }
            for datagram in bytes.chunks(batch.segment) {
                if !is_successor || device.expects(datagram) {
                    coalescer.take(open(device, batch.from, datagram, now), &mut sink);
                }
            }
        }
        coalescer.flush(&mut sink);
        coalescer.set_joins(writer.joins());
        result
    }

    /// Opens what a successor hands back.
    pub(super) fn take_back(
        &mut self,
        handed: Datagrams,
        bytes: &[u8],
        tun: &TunQueue,
        device: &mut Device,
        now: Instant,
    ) {
        let mut sink = |packet: &[u8]| self.writer.write(tun, packet);
        for datagram in bytes.chunks(handed.segment) {
            self.coalescer.take(open(device, handed.from, datagram, now), &mut sink);
        }
        self.coalescer.flush(&mut sink);
    }
}

/// Opens `datagram` when it is told where to; gives the length of the packet in it.
fn open<'a>(
    device: &'a mut Device,
    from: Endpoint,
    datagram: &'a [u8],
    now: Instant,
) -> impl FnOnce(&mut [u8]) -> Option<usize> + 'a {
    move |out| match device.open(from, datagram, out, now) {
        Opened::Packet { packet, .. } => Some(packet.len()),
        Opened::Nothing => None,
    }
}

/// Hands back what the device does not expect, as many datagrams at a time as stand together.
fn hand_back_foreign(
    successor: &mut Successor,
    bytes: &[u8],
    batch: Datagrams,
    device: &Device,
    now: Instant,
) {
    let mut foreign = 0..0;
    let mut end = 0;
    for datagram in bytes.chunks(batch.segment) {
        let begin = end;
        end += datagram.len();
        if device.expects(datagram) {
            if !foreign.is_empty() {
                successor.hand_back(batch.from.address, batch.segment, &bytes[foreign], now);
            }
            foreign = end..end;
        } else {
            foreign.end = end;
            foreign.start = foreign.start.min(begin);
        }
    }
    if !foreign.is_empty() {
        successor.hand_back(batch.from.address, batch.segment, &bytes[foreign], now);
    }
}
