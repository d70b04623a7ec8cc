//! Short messages with descriptors between parent and worker: a pair of unix sockets that keep message borders.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// Longest message, in bytes.
const LONGEST: usize = 256;

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// A message and the descriptor that came with it.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) text: String,
    pub(crate) descriptor: Option<OwnedFd>,
}

impl Channel {
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(one), Self(other)))
    }

    /// A second handle of this end.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends `text`, with `descriptor` if there is one. Waits for room.
    pub(crate) fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        let control: Vec<_> = raw.iter().map(|raw| ControlMessage::ScmRights(raw)).collect();
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg::<()>(self.0.as_raw_fd(), &text, &control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// The next message, waiting for it; nothing once the other end is closed.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        self.receive_with(MsgFlags::empty())
    }

    /// As [`Channel::receive`], but an error of kind `WouldBlock` instead of waiting.
    pub(crate) fn try_receive(&self) -> io::Result<Option<Message>> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: MsgFlags) -> io::Result<Option<Message>> {
        let mut bytes = [0; LONGEST];
        let mut control = nix::cmsg_space!(RawFd);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.0.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let length = received.bytes;
        let descriptor = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmRights(raw) => raw.first().copied(),
            _ => None,
        });
        let descriptor = descriptor.map(own);
        if length == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&bytes[..length]).map_err(io::Error::other)?.to_owned();
        Ok(Some(Message { text, descriptor }))
    }
}

#[expect(unsafe_code, reason = "a descriptor that the kernel has just made is a bare number")]
/// Owns a descriptor that a system call has just given.
pub(crate) fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    #[test]
    fn messages_keep_their_borders_and_descriptors() {
        let (here, there) = Channel::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        here.send("keep file", Some(file.as_fd())).unwrap();
        here.send("ready", None).unwrap();
        let first = there.receive().unwrap().unwrap();
        let second = there.receive().unwrap().unwrap();
        assert_eq!((first.text.as_str(), second.text.as_str()), ("keep file", "ready"));
        assert!(second.descriptor.is_none());
        let mut copy = File::from(first.descriptor.unwrap());
        copy.rewind().unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(there.try_receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert!(there.receive().unwrap().is_none());
    }
}
