//! From the network to the TUN: what one receive brought is opened one by one, each payload right behind the one
//! before, and written as super-packets.

use std::io;
use std::time::Instant;

use crate::tunnel::device::{Device, Opened};
use crate::tunnel::io::coalesce::Coalescer;
use crate::tunnel::io::tun::TunQueue;
use crate::tunnel::io::udp::UdpSocket;

/// Receives in a turn, so that the other direction gets its own.
const RECEIVES: usize = 4;
/// Larger than any UDP payload.
const ROOM: usize = 65_536;

/// The receiving side's buffers and counts.
#[derive(Debug)]
pub(super) struct Inbound {
    datagrams: Box<[u8]>,
    coalescer: Coalescer,
    /// Packets that the TUN refused.
    refused: u64,
}

impl Inbound {
    pub(super) fn new(tun: &TunQueue) -> Self {
        let offload = tun.offload();
        Self {
            datagrams: vec![0; ROOM].into_boxed_slice(),
            coalescer: Coalescer::new(offload.tso, offload.uso),
            refused: 0,
        }
    }

    /// Packets and super-packets that the TUN refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Moves a share of what the socket has.
    ///
    /// # Errors
    /// What the socket reported, other than that there is nothing more.
    pub(super) fn turn(
        &mut self,
        socket: &UdpSocket,
        tun: &TunQueue,
        device: &mut Device,
        now: Instant,
    ) -> io::Result<()> {
        let mut result = Ok(());
        let refused = &mut self.refused;
        let mut sink = |packet: &[u8]| {
            if tun.write(packet).is_err() {
                *refused += 1;
            }
        };
        for _ in 0..RECEIVES {
            let batch = match socket.receive(&mut self.datagrams) {
                Ok(batch) => batch,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
            for datagram in self.datagrams[..batch.len].chunks(batch.segment) {
                let open = |out: &mut [u8]| match device.open(batch.from, datagram, out, now) {
                    Opened::Packet { packet, .. } => Some(packet.len()),
                    Opened::Nothing => None,
                };
                self.coalescer.take(open, &mut sink);
            }
        }
        self.coalescer.flush(&mut sink);
        result
    }
}
