//! The control plane of a node: watches -> desired -> apply.

pub mod own;
pub mod publish;
pub mod retry;
pub mod status;
pub mod tunnel;
pub mod watch;
