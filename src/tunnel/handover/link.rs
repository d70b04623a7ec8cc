//! The connection between two data planes: a pair of `SOCK_SEQPACKET` unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt, socketpair, sockopt,
};

use super::Message;

/// Send buffer in bytes: room for the datagrams that are handed back while the predecessor is busy.
const BUFFER: usize = 8 << 20;
/// Longer than any message, in bytes: the datagrams of one receive and a header, or one chunk of a list.
const LONGEST: usize = 128 * 1024;

/// One end of the connection.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    received: Box<[u8]>,
}

/// What [`Link::receive`] returned.
#[derive(Debug)]
pub enum Received<'a> {
    /// A message.
    Message(Message<'a>),
    /// A message of a kind that this version does not know.
    Unknown,
    /// Nothing to read at the moment.
    Nothing,
    /// The other end was closed.
    Closed,
}

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// When the system has no descriptors.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
    }

    /// Wraps an end of [`Link::pair`], also one that another process passed on.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &BUFFER));
        Self { socket, received: vec![0; LONGEST].into_boxed_slice() }
    }

    /// Sends without waiting.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; anything else if the other end is gone.
    pub fn send(&self, message: &Message<'_>) -> io::Result<()> {
        let (head, rest) = message.encode();
        let slices = [IoSlice::new(&head), IoSlice::new(rest)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], flags, None)?;
        Ok(())
    }

    /// The next message, without waiting.
    pub fn receive(&mut self) -> Received<'_> {
        let length = match self.receive_once() {
            // The other end closed with unread messages; what it sent before that can still be read.
            Err(Errno::ECONNRESET) => self.receive_once(),
            result => result,
        };
        let length = match length {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Received::Nothing,
            Err(_) => return Received::Closed,
        };
        if length == 0 {
            return Received::Closed;
        }
        self.received.get(..length).and_then(Message::decode).map_or(Received::Unknown, Received::Message)
    }

    fn receive_once(&mut self) -> nix::Result<usize> {
        let mut slices = [IoSliceMut::new(&mut self.received)];
        let raw = self.socket.as_raw_fd();
        recvmsg::<()>(raw, &mut slices, None, MsgFlags::MSG_DONTWAIT).map(|received| received.bytes)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Signal;
    use super::*;

    #[test]
    fn messages_sent_before_the_end_arrive() {
        let (here, there) = Link::pair().unwrap();
        let (mut here, there) = (Link::new(here), Link::new(there));
        here.send(&Message::Signal(Signal::TakeUdp)).unwrap();
        there.send(&Message::Signal(Signal::TakeTun)).unwrap();
        there.send(&Message::Signal(Signal::Done)).unwrap();
        drop(there); // it has not read what we sent
        assert!(matches!(here.receive(), Received::Message(Message::Signal(Signal::TakeTun))));
        assert!(matches!(here.receive(), Received::Message(Message::Signal(Signal::Done))));
        assert!(matches!(here.receive(), Received::Closed));
    }

    #[test]
    fn the_datagrams_of_one_receive_fit_into_a_message() {
        let (here, there) = Link::pair().unwrap();
        let (mut here, there) = (Link::new(here), Link::new(there));
        let bytes = vec![7; 65_535];
        let from = "[2001:db8::1]:51830".parse().unwrap();
        there.send(&Message::Datagrams { from, segment: 1452, bytes: &bytes }).unwrap();
        let Received::Message(Message::Datagrams { bytes: received, .. }) = here.receive() else {
            panic!("no message")
        };
        assert_eq!(received, bytes);
        assert!(matches!(here.receive(), Received::Nothing));
    }
}
