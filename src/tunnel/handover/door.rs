//! Where the next tunnel process of a device knocks, to have it handed over: a unix socket in the run folder that
//! only the tunnel's own user can reach.
//!
//! The newcomer says `take 1`. The answer is one message with each descriptor, [`slot::LINK`](crate::tunnel::descriptors::slot::LINK)
//! last, and `end`; or `no` and the reason.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt, listen,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::geteuid;

use crate::tunnel::descriptors::{Channel, Kept, own};

/// What a newcomer says: which protocol it speaks.
const TAKE: &str = "take 1";
/// How long either side may take to say the next thing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens a door at `path`, in place of whatever is there.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let door = seqpacket(SockFlag::SOCK_NONBLOCK)?;
    bind(door.as_raw_fd(), &UnixAddr::new(path)?)?;
    // The folder is closed to others already.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&door, Backlog::new(4)?)?;
    Ok(door)
}

/// Lets one newcomer in, when there is one: it has said what it wants.
pub(crate) fn answer(door: BorrowedFd<'_>) -> io::Result<Channel> {
    let newcomer = accept4(door.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    let newcomer = own(newcomer);
    let who = getsockopt(&newcomer, sockopt::PeerCredentials)?;
    if who.uid() != 0 && who.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!("user {} may not have the device", who.uid())));
    }
    be_patient(&newcomer)?;
    let newcomer = Channel::from(newcomer);
    match newcomer.receive()? {
        Some(message) if message.text == TAKE => Ok(newcomer),
        Some(message) => {
            let _ = newcomer.send(&format!("no this version understands `{TAKE}`"), None);
            Err(io::Error::other(format!("it asked for {:?}", message.text)))
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Knocks at the door of the process that has the device, and takes all that it gives.
pub(crate) fn knock(path: &Path) -> io::Result<Kept> {
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
