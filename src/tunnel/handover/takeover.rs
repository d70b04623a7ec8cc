//! The socket on which the next tunnel process asks for the device: a `SOCK_SEQPACKET` unix socket in the run folder,
//! for the tunnel's own user only.
//!
//! The request is `take 1`. The answer is one message for each descriptor, the link last
//! ([`slot::LINK`](crate::tunnel::descriptors::slot::LINK)), and `end`; or `no` and the reason.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::local::may_talk;
use crate::tunnel::descriptors::{Channel, Kept, own};

/// The request, with the version of the protocol.
const TAKE: &str = "take 1";
/// How long either side waits for the next message.
const PATIENCE: Duration = Duration::from_secs(2);

/// Listens on `path`, replacing whatever is there.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // The folder is closed to others already.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    nix::sys::socket::listen(&socket, Backlog::new(4)?)?;
    Ok(socket)
}

/// Accepts one request, checked; `WouldBlock` when there is none.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> io::Result<Channel> {
    let requester = accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    let requester = own(requester);
    let who = getsockopt(&requester, sockopt::PeerCredentials)?;
    if !may_talk(who.uid()) {
        return Err(io::Error::other(format!("user {} may not have the device", who.uid())));
    }
    be_patient(&requester)?;
    let requester = Channel::from(requester);
    match requester.receive()? {
        Some(message) if message.text == TAKE => Ok(requester),
        Some(message) => {
            let _ = requester.send(&format!("no this version understands `{TAKE}`"), None);
            Err(io::Error::other(format!("it asked for {:?}", message.text)))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Asks the process that listens on `path` for the device; returns the descriptors that it sends.
pub(crate) fn request(path: &Path) -> io::Result<Kept> {
    let socket = seqpacket(SockFlag::empty())?;
    be_patient(&socket)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let channel = Channel::from(socket);
    channel.send(TAKE, None)?;
    Kept::receive(&channel)
}

fn seqpacket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, flags | SockFlag::SOCK_CLOEXEC, None)
}

fn be_patient(socket: &OwnedFd) -> nix::Result<()> {
    let patience = TimeVal::milliseconds(i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX));
    setsockopt(socket, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(socket, sockopt::SendTimeout, &patience)
}
