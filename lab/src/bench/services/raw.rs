//! Batches for nftables written to a netlink socket as they are, and nothing else: what the kernel itself takes.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use selvedge::kernel::netns::NetNs;

use crate::error::{Doing as _, Error};

/// `NLMSG_ERROR`, which an acknowledgement is, too.
const ERROR: u16 = 2;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Room for answers.
const ROOM: usize = 64 << 10;
/// What the kernel adds to a buffer for its own bookkeeping.
const OVERHEAD: usize = 64 << 10;

/// A socket to nftables.
pub(super) struct Raw {
    socket: Socket,
    answers: Vec<u8>,
}

impl Raw {
    /// Opens a socket in a network namespace.
    pub(super) fn open(ns: &NetNs) -> Result<Self, Error> {
        let what = "open a netlink socket";
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self { socket: ns.run(open).doing(what)?.doing(what)?, answers: Vec::with_capacity(ROOM) })
    }

    /// Sends a batch and reads the kernel's answer; returns how long both took.
    pub(super) fn send(&mut self, batch: &[u8]) -> Result<Duration, Error> {
        let what = "write a batch over netlink";
        let room = batch.len() + OVERHEAD;
        if setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &room).is_err() {
            setsockopt(&self.socket.as_fd(), sockopt::SndBuf, &room).doing(what)?;
        }
        let begun = Instant::now();
        self.socket.send(batch, 0).doing(what)?;
        self.answers.clear();
        self.socket.recv(&mut self.answers, 0).doing(what)?;
        let took = begun.elapsed();
        match refusal(&self.answers) {
            0 => Ok(took),
            errno => Err(Error::new(what, io::Error::from_raw_os_error(errno).to_string())),
        }
    }
}

/// The errno of the first answer; 0 for an acknowledgement.
fn refusal(answer: &[u8]) -> i32 {
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(code)) => -code,
        _ => libc::EBADMSG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_acknowledgement_or_names_an_errno() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; HEADER];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(refusal(&answer(ERROR, 0)), 0);
        assert_eq!(refusal(&answer(ERROR, -libc::EEXIST)), libc::EEXIST);
        assert_eq!(refusal(&answer(3, 0)), libc::EBADMSG);
        assert_eq!(refusal(&[]), libc::EBADMSG);
    }
}
