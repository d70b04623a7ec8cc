//! The data plane: TUN <-> userspace WireGuard (boringtun `noise`) <-> UDP. Nothing in here knows Kubernetes.
//!
//! In the order in which a packet passes: [`io`] reads and writes batches (TUN offload, UDP segmentation),
//! [`device`] is the pure state machine (peers, sessions, cryptokey routing, timers), [`worker`] is the thread
//! that joins both. Around them: [`api`], the control API's shapes, and [`command`], what a worker can be told.

pub mod api;
pub mod command;
pub mod device;
pub mod io;
pub mod uapi;
pub mod worker;
