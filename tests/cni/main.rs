//! The CNI plugin, executed as a container runtime does it, with real namespaces.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod admission;
mod chained;
mod cidr;
mod errors;
mod hostport;
mod kill;
mod node;
mod parallel;
mod repair;
mod routed;
mod spoof;
mod traffic;
mod vanished;
mod verbs;
