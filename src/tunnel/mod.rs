//! The data plane: TUN <-> userspace WireGuard (boringtun `noise`) <-> UDP. Nothing in here knows Kubernetes.
//!
//! In the order in which a packet passes: [`io`] reads and writes batches (TUN offload, UDP segmentation),
//! [`device`] is the pure state machine (peers, sessions, cryptokey routing, timers), [`worker`] is the thread
//! that joins both, [`handover`] how one
//! succeeds another. Around them: [`api`], the control API's shapes, [`command`], what a worker can be told,
//! [`control`] and [`uapi`], what configures a device, [`descriptors`], what outlives a worker process, and
//! [`process`], the processes all of this runs in.

pub mod api;
pub mod command;
pub mod control;
pub mod descriptors;
pub mod device;
pub mod handover;
pub mod io;
pub mod options;
pub mod process;
pub mod uapi;
pub mod worker;
