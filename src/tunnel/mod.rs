//! The data plane: TUN <-> userspace WireGuard (boringtun `noise`) <-> UDP. Nothing in here knows Kubernetes.
//!
//! In the order in which a packet passes: [`io`] reads and writes batches (TUN offload, UDP segmentation), [`device`] is
//! the pure state machine (peers, sessions, cryptokey routing, timers), [`worker`] the thread that joins both. Around
//! them: [`handover`], by which one worker succeeds another; [`uapi`] and [`control`] (its types are in [`api`]), which
//! configure a device; [`descriptors`], which outlive a worker process; [`process`], the processes all of this runs in.
//! An [`endpoint`] is what [`io`] and [`device`] both know of a peer's place.

pub mod api;
pub mod control;
pub mod descriptors;
pub mod device;
pub mod endpoint;
pub mod handover;
pub mod io;
pub mod options;
pub mod process;
pub mod uapi;
pub mod worker;
