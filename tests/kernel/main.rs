//! The guard and egress against the kernel, with real packets.
//!
//! A node is a network namespace whose devices (uplink, tunnel, a pod's port) are TUN devices that the test holds the
//! other ends of: what the test writes arrives at the node, what it reads has left it. The kernel forwards within
//! the write, so a packet that has not come out has been dropped.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod egress;
mod guard;
mod node;
mod packet;
mod repair;
mod uninstall;
