//! Selvedge: a WireGuard-encrypted mesh network fabric for Kubernetes.
//!
//! `cluster`, `manifest` and `keyring` are for an operator's commands, on a whole cluster or to ask about it; neither agent,
//! plugin nor tunnel uses them.
//!
//! The folders in the order in which arrows go: `cli` and `agent` know everything below them; `mesh`, `guard`,
//! `egress`, `forwarding`, `pod` and `tunnel` know `kernel` and the `selvedge-keys` crate, and not each other; but `pod`
//! asks `guard` to be there before it wires anything, and `egress` knows the mark that `guard` sets. `doctor` and `support`
//! look at all of them, for `cli` alone.

pub mod agent;
pub(crate) mod api_server;
mod cause;
pub mod cli;
pub mod cluster;
#[cfg(test)]
mod compatibility;
pub mod config;
pub mod doctor;
pub mod duration;
pub mod egress;
pub mod fabric;
pub mod forwarding;
pub mod guard;
pub mod kernel;
pub mod keyring;
pub mod local;
pub mod manifest;
pub mod mesh;
pub mod mtu;
pub mod observe;
pub mod paths;
pub mod pod;
pub mod ports;
#[cfg(test)]
mod reference;
pub mod resource;
pub mod service;
pub mod support;
pub mod tunnel;
