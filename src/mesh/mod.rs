//! Who is whose peer: pure functions from what Nodes publish, and what was accepted before, to the peers of this
//! node. Nothing in here does I/O but [`record`], which keeps the accepted claims on disk.
//!
//! In the order in which data passes: [`annotation`] reads what a Node says of itself, [`record`] is what was
//! believed so far, [`resolve`](mod@resolve) decides.

pub mod annotation;
mod prefixes;
pub mod record;
