//! Datagrams of one size for one endpoint, gathered until one send takes them all.

use std::io;

use super::udp::{Delivery, MAX_SEGMENTS, MAX_SEND, UdpSockets};
use crate::tunnel::endpoint::Endpoint;

/// A full send, and the longest datagram made behind it.
const ROOM: usize = MAX_SEND + super::MAX_PACKET + 128;

/// What is to be sent to one endpoint. Every datagram is as long as the first, but the last may be shorter.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    to: Option<Endpoint>,
    segment: usize,
    count: usize,
    /// A shorter one is in: nothing can follow.
    closed: bool,
}

/// What a send left behind.
#[derive(Debug)]
pub enum Sent {
    /// Nothing.
    All,
    /// Nothing, but the kernel took it only from another source address than that of the endpoint.
    FromElsewhere,
    /// The kernel has no room now; the rest stays in the batch.
    Waiting,
    /// What could not be sent is dropped, and why.
    Failed(io::Error),
}

impl Default for Batch {
    fn default() -> Self {
        let bytes = vec![0; ROOM].into_boxed_slice();
        Self { bytes, len: 0, to: None, segment: 0, count: 0, closed: false }
    }
}

impl Batch {
    /// True if there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where what is in goes.
    #[must_use]
    pub fn to(&self) -> Option<Endpoint> {
        self.to.filter(|_| !self.is_empty())
    }

    /// Whether a datagram of at most `len` bytes to `to` may be able to join what is in.
    #[must_use]
    pub fn fits(&self, to: Endpoint, len: usize) -> bool {
        self.is_empty()
            || (self.to == Some(to)
                && !self.closed
                && self.count < MAX_SEGMENTS
                && self.len + len.min(self.segment) <= MAX_SEND)
    }

    /// Where the next datagram is made: room for 65,535 bytes and more.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Takes the datagram of `len` bytes that was made in [`room`](Self::room). False if it is longer than
    /// those before and thus cannot join: send them, and call [`start_over`](Self::start_over).
    pub fn push(&mut self, to: Endpoint, len: usize) -> bool {
        if self.is_empty() {
            (self.to, self.segment, self.count, self.closed) = (Some(to), len, 0, false);
        } else if len > self.segment || self.len + len > MAX_SEND {
            return false;
        }
        self.closed |= len < self.segment;
        self.len += len;
        self.count += 1;
        true
    }

    /// After `before` bytes were sent: takes the datagram of `len` bytes that stands behind them as the first.
    pub fn start_over(&mut self, before: usize, to: Endpoint, len: usize) {
        self.clear();
        self.bytes.copy_within(before..before + len, 0);
        self.push(to, len);
    }

    /// Bytes to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets what is in.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Sends what is in.
    pub fn send(&mut self, udp: &mut UdpSockets) -> Sent {
        let Some(to) = self.to() else { return Sent::All };
        let Some(socket) = udp.to_mut(&to.address) else {
            self.clear();
            return Sent::Failed(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        };
        let Delivery { done, result, source_refused } =
            socket.send(&self.bytes[..self.len], self.segment, to);
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.bytes.copy_within(done..self.len, 0);
                self.len -= done;
                self.count -= done / self.segment;
                Sent::Waiting
            }
            result => {
                self.clear();
                match result {
                    Ok(()) if source_refused => Sent::FromElsewhere,
                    Ok(()) => Sent::All,
                    Err(error) => Sent::Failed(error),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;

    fn to(port: u16) -> Endpoint {
        SocketAddr::from(([127, 0, 0, 1], port)).into()
    }

    #[test]
    fn datagrams_of_one_size_join_and_a_shorter_one_ends_the_batch() {
        let mut batch = Batch::default();
        assert!(batch.push(to(1), 100));
        assert!(batch.fits(to(1), 100) && batch.push(to(1), 100));
        assert!(!batch.fits(to(2), 100), "another address");
        let source = Some(IpAddr::from([127, 0, 0, 2]));
        assert!(!batch.fits(Endpoint { source, ..to(1) }, 100), "from another address");
        assert!(batch.push(to(1), 60));
        assert!(!batch.fits(to(1), 60), "it is closed");
    }

    #[test]
    fn a_longer_datagram_starts_the_next_batch() {
        let mut batch = Batch::default();
        assert!(batch.push(to(1), 2));
        batch.room()[..3].copy_from_slice(b"abc");
        assert!(!batch.push(to(1), 3));
        batch.start_over(2, to(1), 3);
        assert_eq!((&batch.bytes[..batch.len()], batch.segment), (&b"abc"[..], 3));
    }

    #[test]
    fn a_batch_never_outgrows_what_one_send_takes() {
        let mut batch = Batch::default();
        while batch.fits(to(1), 1452) {
            assert!(batch.push(to(1), 1452));
        }
        assert_eq!(batch.len(), 45 * 1452);
        batch.clear();
        while batch.fits(to(1), 96) {
            assert!(batch.push(to(1), 96));
        }
        assert_eq!(batch.count, MAX_SEGMENTS);
    }
}
