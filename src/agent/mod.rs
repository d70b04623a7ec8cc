//! The control plane of a node: watches -> desired -> apply.

pub mod events;
pub mod own;
pub mod parts;
pub mod retry;
pub mod status;
pub mod tunnel;
pub mod watch;
