//! The CNI plugin, executed as a container runtime does it, with real namespaces.

mod errors;
mod kill;
mod node;
mod parallel;
mod spoof;
mod traffic;
mod verbs;
