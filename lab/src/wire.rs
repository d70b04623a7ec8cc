//! Whole frames, sent and received on one device: for forging packets, and for seeing what arrives.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use selvedge::kernel::netns::{self, NetNs};

/// A packet socket bound to one device.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

/// No such wire.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace can't be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The device can't be used.
    #[error("frames on {device}: {source}")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        source: io::Error,
    },
}

impl Wire {
    /// Opens `device` of `ns`. Frames that arrive there, or leave there, from now on can be received.
    pub fn open(ns: &NetNs, device: &str) -> Result<Self, Error> {
        let open = || {
            let index = nix::net::if_::if_nametoindex(device)?;
            bind(index).map(|socket| Self { socket })
        };
        ns.run(open)?.map_err(|source| Error::Device { device: device.to_owned(), source })
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        nix::unistd::write(&self.socket, frame).map(drop).map_err(io::Error::from)
    }

    /// The next frame, or nothing until `deadline`.
    pub fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut poll = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut poll, timeout)? == 0 {
            return Ok(None);
        }
        let mut frame = vec![0; 1 << 16];
        let length = nix::unistd::read(&self.socket, &mut frame)?;
        frame.truncate(length);
        Ok(Some(frame))
    }

    /// Waits until `deadline` for a frame that `wanted` picks. All others are dropped.
    pub fn find(&self, deadline: Instant, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
        while let Some(frame) = self.receive(deadline)? {
            if wanted(&frame) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

#[expect(unsafe_code, reason = "nix binds packet sockets to no device of choice")]
fn bind(index: u32) -> io::Result<OwnedFd> {
    const ALL: u16 = 0x0003; // ETH_P_ALL
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: plain system calls; the descriptor is ours, and the address is filled in and its length given.
    unsafe {
        let socket = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = ALL.to_be();
        address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
        let size = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        Ok(socket)
    }
}
