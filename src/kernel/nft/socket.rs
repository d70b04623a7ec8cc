//! The netlink socket to nftables.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_NETFILTER};

use super::Error;
use super::message::{DUMP, DUMP_INTERRUPTED, GET_GENERATION, REQUEST, header, kind};
use super::transaction::Transaction;
use super::wire::{HEADER, Message, Writer, be32, find, messages, text, u32_at};
use crate::kernel::own;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Large enough for any datagram of a dump (the kernel makes them of at most 32 KiB).
const DATAGRAM: usize = 64 * 1024;
/// Answers to one batch: an error for each bad step at worst.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// What a connection has sent to the kernel since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Requests to read an object or a list.
    pub requests: u64,
    /// Batches of changes.
    pub batches: u64,
}

/// A socket in the network namespace of the thread that opened it; it stays there, whichever thread uses it.
#[derive(Debug)]
pub(super) struct Socket {
    netlink: Netlink,
    /// Lists that were read while somebody changed the ruleset are taken, too.
    lenient: Cell<bool>,
    sent: Cell<Sent>,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        Self::bound(own::bind)
    }

    pub(super) fn bound(bind: impl FnOnce(&mut Netlink) -> io::Result<()>) -> Result<Self, Error> {
        let failed = |action| move |source| Error::Socket { action, source };
        let mut netlink = Netlink::new(NETLINK_NETFILTER).map_err(failed("open a netlink socket"))?;
        bind(&mut netlink).map_err(failed("bind a netlink socket"))?;
        netlink.connect(&SocketAddr::new(0, 0)).map_err(failed("connect a netlink socket"))?;
        netlink.set_cap_ack(true).map_err(failed("set NETLINK_CAP_ACK"))?;
        netlink.set_ext_ack(true).map_err(failed("set NETLINK_EXT_ACK"))?;
        let _ = setsockopt(&netlink.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self { netlink, lenient: Cell::new(false), sent: Cell::default() })
    }

    /// Whether lists that were read while somebody changed the ruleset are taken, too.
    pub(super) fn is_lenient(&self) -> bool {
        self.lenient.get()
    }

    pub(super) fn set_lenient(&self, lenient: bool) {
        self.lenient.set(lenient);
    }

    pub(super) fn sent(&self) -> Sent {
        self.sent.get()
    }

    /// Number of the ruleset: each committed batch, anybody's, makes a new one.
    pub(super) fn generation(&self) -> Result<u32, Error> {
        let mut generation = None;
        self.request(
            GET_GENERATION,
            0,
            0,
            |_| {},
            |message| {
                generation = message.payload.get(4..).and_then(|body| find(body, 1)).and_then(be32);
            },
        )?;
        generation
            .ok_or(Error::Socket { action: "read the generation", source: io::ErrorKind::InvalidData.into() })
    }

    /// Sends a dump request and hands each answer to `each`.
    pub(super) fn dump(
        &self,
        message: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.request(message, DUMP, family, body, each)
    }

    /// Sends a request for one object. Absent is not an error: `each` is not called.
    pub(super) fn get(
        &self,
        message: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
        each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        self.request(message, 0, family, body, each)
    }

    fn request(
        &self,
        message: u16,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Writer),
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), Error> {
        let mut out = Writer::default();
        out.message(kind(message), REQUEST | flags, 0, &header(family, 0), body);
        let failed = |source| Error::Socket { action: "ask nftables", source };
        self.discard();
        let sent = self.sent.get();
        self.sent.set(Sent { requests: sent.requests + 1, ..sent });
        self.netlink.send(out.finish().ok_or(Error::TooLong)?, 0).map_err(failed)?;
        let mut interrupted = false;
        loop {
            let datagram = self.receive(0).map_err(failed)?;
            for message in messages(&datagram) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0 && !self.is_lenient();
                match message.kind {
                    ERROR | DONE => match code(&message) {
                        0 | libc::ENOENT if !interrupted => return Ok(()),
                        0 | libc::ENOENT | libc::EINTR => return Err(Error::Conflict),
                        error => return Err(failed(io::Error::from_raw_os_error(error))),
                    },
                    _ => each(message),
                }
            }
            if flags == 0 {
                return Ok(());
            }
        }
    }

    /// Sends the batch. On an error nothing of it was done.
    ///
    /// The kernel does the whole batch within `send`: all answers are there when that returns.
    pub(super) fn commit(&self, transaction: &mut Transaction, generation: Option<u32>) -> Result<(), Error> {
        let batch = transaction.batch(generation)?;
        let failed = |source| Error::Socket { action: "send a batch", source };
        self.discard();
        self.make_room(batch.len());
        let sent = self.sent.get();
        self.sent.set(Sent { batches: sent.batches + 1, ..sent });
        self.netlink.send(&batch, 0).map_err(failed)?;
        let mut answers = 0;
        loop {
            let datagram = match self.receive(libc::MSG_DONTWAIT) {
                Ok(datagram) => datagram,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // There were more refusals than fit: the first ones are there.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(error) => return Err(failed(error)),
            };
            for message in messages(&datagram).filter(|message| message.kind == ERROR) {
                answers += 1;
                refusal(&message, transaction)?;
            }
        }
        // The last step asks for an acknowledgement: with no answer at all we know nothing.
        if answers == 0 { Err(Error::Conflict) } else { Ok(()) }
    }

    /// Reads what an earlier request, which ended with an error, has left behind.
    fn discard(&self) {
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn make_room(&self, length: usize) {
        /// What the kernel adds to a buffer for its own bookkeeping.
        const OVERHEAD: usize = 64 * 1024;
        /// What every socket has room for.
        const SMALL: usize = 64 * 1024;
        if length < SMALL {
            return;
        }
        let room = length + OVERHEAD;
        if setsockopt(&self.netlink.as_fd(), sockopt::SndBufForce, &room).is_err() {
            let _ = setsockopt(&self.netlink.as_fd(), sockopt::SndBuf, &room);
        }
    }

    fn receive(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            match self.netlink.recv(&mut datagram, flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| datagram),
            }
        }
    }
}

/// The errno of an error or done message; 0 for success.
fn code(message: &Message<'_>) -> i32 {
    u32_at(message.payload, 0).map_or(0, |code| -code.cast_signed())
}

/// Turns an error message into an error; an acknowledgement into none.
fn refusal(message: &Message<'_>, transaction: &Transaction) -> Result<(), Error> {
    match code(message) {
        0 => Ok(()),
        libc::ERESTART | libc::EINTR | libc::EAGAIN => Err(Error::Conflict),
        error => Err(Error::Refused {
            step: transaction.step(message.sequence),
            source: io::Error::from_raw_os_error(error),
            text: kernel_text(message),
        }),
    }
}

/// The kernel's own words: `NLMSGERR_ATTR_MSG`, behind the header of the message it is about.
fn kernel_text(message: &Message<'_>) -> Option<String> {
    const TEXT: u16 = 1;
    find(message.payload.get(4 + HEADER..)?, TEXT).map(text)
}
