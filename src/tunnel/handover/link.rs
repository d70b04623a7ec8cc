//! The way between two data planes: a pair of unix sockets that keep message borders.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, setsockopt, socketpair, sockopt,
};

use super::Letter;

/// Room for what is handed back while the predecessor is busy, in bytes.
const BUFFER: usize = 8 << 20;
/// Longer than any letter: a whole receive of datagrams and its header, or a share of a list.
const LONGEST: usize = 128 * 1024;

/// One end.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    received: Box<[u8]>,
}

/// What a look at the link gave.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A letter.
    Letter(Letter<'a>),
    /// One that this version does not understand.
    Strange,
    /// Nothing now.
    Nothing,
    /// The other end is gone.
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

    /// Uses an end that came from elsewhere.
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
    pub fn send(&self, letter: &Letter<'_>) -> io::Result<()> {
        let (head, rest) = letter.encode();
        let slices = [IoSlice::new(&head), IoSlice::new(rest)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], flags, None)?;
        Ok(())
    }

    /// The next letter, without waiting.
    pub fn hear(&mut self) -> Heard<'_> {
        let length = match self.receive() {
            // The other end closed without having read all: what it had sent before is still to come.
            Err(Errno::ECONNRESET) => self.receive(),
            result => result,
        };
        let length = match length {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Heard::Nothing,
            Err(_) => return Heard::Closed,
        };
        if length == 0 {
            return Heard::Closed;
        }
        self.received.get(..length).and_then(Letter::decode).map_or(Heard::Strange, Heard::Letter)
    }

    fn receive(&mut self) -> nix::Result<usize> {
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
    use super::super::Word;
    use super::*;

    #[test]
    fn what_was_said_before_the_end_is_heard() {
        let (here, there) = Link::pair().unwrap();
        let (mut here, there) = (Link::new(here), Link::new(there));
        here.send(&Letter::Word(Word::TakeUdp)).unwrap();
        there.send(&Letter::Word(Word::TakeTun)).unwrap();
        there.send(&Letter::Word(Word::Done)).unwrap();
        drop(there); // it has not read what we sent
        assert!(matches!(here.hear(), Heard::Letter(Letter::Word(Word::TakeTun))));
        assert!(matches!(here.hear(), Heard::Letter(Letter::Word(Word::Done))));
        assert!(matches!(here.hear(), Heard::Closed));
    }

    #[test]
    fn a_whole_receive_fits_into_a_letter() {
        let (here, there) = Link::pair().unwrap();
        let (mut here, there) = (Link::new(here), Link::new(there));
        let bytes = vec![7; 65_535];
        let from = "[2001:db8::1]:51830".parse().unwrap();
        there.send(&Letter::Datagrams { from, segment: 1452, bytes: &bytes }).unwrap();
        let Heard::Letter(Letter::Datagrams { bytes: received, .. }) = here.hear() else {
            panic!("no letter")
        };
        assert_eq!(received, bytes);
        assert!(matches!(here.hear(), Heard::Nothing));
    }
}
