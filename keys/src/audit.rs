//! The audit log: a tamper-evident record of everything that happened to the keys of this node.
//!
//! One JSON object a line, each with the number and the time of the entry, the event, and the SHA-256 of the line
//! before it. An auditor who stores a [`Head`] in another place can later prove with [`verify`] that no line up to it
//! was changed, removed, inserted or moved.
//!
//! One process writes, with [`AuditLog`]; any number of processes may read with [`AuditReader`]. The current time is
//! always a parameter.

mod chain;
mod entry;
mod lines;
mod log;
mod reader;
mod recovery;
mod sum;
mod text;
mod verify;

pub use chain::{Break, Flaw};
pub use entry::{Entry, Event, MAX_LINE, Recorded};
pub use log::{AuditLog, Limits};
pub use reader::{AuditError, AuditReader, Entries};
pub use sum::{Head, HeadError, Sha256Sum};
pub use text::Text;
pub use verify::{Verified, VerifyError, verify};

#[cfg(test)]
mod tests;
