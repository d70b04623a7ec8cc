//! How one data plane hands a device over to the next without losing a packet.
//!
//! Sessions cannot be handed over: their keys never leave boringtun. So for a short time there are two planes on
//! one TUN queue and one pair of UDP sockets, and a [`Link`] between them, over which they send [`Letter`]s:
//!
//! | step | who | what |
//! |---|---|---|
//! | 1 | heir | [`Word::TakeUdp`] |
//! | 2 | predecessor | reads UDP no more, begins no handshake; [`Word::Peers`], [`Word::Indices`], [`Word::UdpTaken`] |
//! | 3 | heir | reads UDP; handshakes with all peers; what is for a session of the predecessor goes back to it as [`Letter::Datagrams`] |
//! | 4 | heir | has a session with every peer that was heard lately, or [`MEETING`] is over: [`Word::TakeTun`] |
//! | 5 | predecessor | reads the TUN no more, sends what it has read; [`Letter::Packet`] for each that has no session, [`Word::TunTaken`] |
//! | 6 | heir | reads the TUN; nothing was handed back for [`QUIET`]: [`Word::Done`] |
//! | 7 | predecessor | ends |
//!
//! Either side may die at any point: the link closes, and the other one has the device alone again. A predecessor
//! then renews its sessions, because its peers may have turned to those of the heir.

//!
//! [`door`] is where the next tunnel process asks for the device, [`Link`] and [`Letter`] are how the two workers talk,
//! [`Part`] is what each of them does. Nothing in here reads or writes packets: that is the worker's.

pub(crate) mod door;
mod heir;
mod letter;
mod link;
mod part;
mod predecessor;

use std::time::Duration;

pub(crate) use heir::Heir;
pub use heir::Inheritance;
pub use letter::{Letter, Word};
pub use link::{Heard, Link};
pub(crate) use part::{Part, Reads};
pub(crate) use predecessor::Predecessor;

/// How long an heir waits for sessions before it takes the TUN all the same.
pub const MEETING: Duration = Duration::from_secs(3);
/// How long nothing has to be handed back until the predecessor is let go: no datagram is under way for longer.
pub const QUIET: Duration = Duration::from_secs(1);
/// When it is let go at the latest.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a predecessor may take to answer. One that takes longer moves no packets either: it is gone past.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// How a hand-over ended for the predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The heir has the device.
    Left,
    /// The heir died: the predecessor goes on.
    Stayed,
}
