//! How one data plane hands a device over to the next without losing a packet.
//!
//! Sessions cannot be handed over: their keys never leave boringtun. So for a short time two data planes share one
//! TUN queue and one pair of UDP sockets, and exchange [`Message`]s over a [`Link`]:
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | successor | [`Signal::TakeUdp`] |
//! | 2 | predecessor | stops reading UDP, starts no handshake; [`Signal::Peers`], [`Signal::Indices`], [`Signal::UdpTaken`] |
//! | 3 | successor | reads UDP; starts handshakes with all peers; sends datagrams for sessions of the predecessor back as [`Message::Datagrams`] |
//! | 4 | successor | has a session with every peer that had recent traffic, or [`SESSIONS_WAIT`] is over: [`Signal::TakeTun`] |
//! | 5 | predecessor | stops reading the TUN, sends what it has read; [`Message::Packet`] for each that has no session, [`Signal::TunTaken`] |
//! | 6 | successor | reads the TUN; sent nothing back for [`QUIET`]: [`Signal::Done`] |
//! | 7 | predecessor | ends |
//!
//! Either side may die at any point: the link closes, and the other one has the device alone again. A predecessor
//! then renews its sessions, because its peers may use those of the successor by then.
//!
//! [`takeover`] is the socket on which the next tunnel process asks for the device, [`Role`] the state machine of either
//! worker. Nothing in here reads or writes packets: the worker does.

mod link;
mod message;
mod predecessor;
mod role;
mod successor;
pub(crate) mod takeover;

use std::time::Duration;

pub use link::{Link, Received};
pub use message::{Message, Signal};
pub(crate) use predecessor::Predecessor;
pub(crate) use role::Role;
pub use successor::Inheritance;
pub(crate) use successor::Successor;

/// How long a successor waits for sessions before it asks for the TUN anyway.
pub const SESSIONS_WAIT: Duration = Duration::from_secs(3);
/// The predecessor is released after this long without a datagram for it: none is in flight for longer.
pub const QUIET: Duration = Duration::from_secs(1);
/// The predecessor is released after this long in any case.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a predecessor may take to answer. One that takes longer forwards no packets either; the successor goes on.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// What a worker reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reads {
    pub(crate) tun: bool,
    pub(crate) udp: bool,
}

/// How a hand-over ended for the predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The successor has the device.
    Left,
    /// The successor died: the predecessor goes on.
    Stayed,
}
