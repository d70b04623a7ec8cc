//! A whole multi-node Kubernetes network on one machine: each node a network namespace with the real processes
//! of Selvedge. Never shipped to clusters.

pub mod api;
pub mod capture;
pub mod detect;
pub mod isolate;
pub mod packet;
pub mod plan;
pub mod process;
pub mod space;
pub mod traffic;
pub mod underlay;
