//! A whole multi-node Kubernetes network on one machine: each node a network namespace with the real processes
//! of Selvedge. Never shipped to clusters.

pub mod api;
pub mod bench;
pub mod capture;
pub mod cgroup;
pub mod checks;
pub mod cli;
pub mod cni;
pub mod control;
pub mod daemon;
pub mod detect;
pub mod error;
pub mod isolate;
pub mod kubelet;
pub mod kubernetes;
pub mod lab;
pub mod manifest;
pub mod node;
pub mod packet;
pub mod plan;
pub mod preflight;
pub mod process;
pub mod sandbox;
pub mod scenario;
pub mod space;
pub mod state;
pub mod stop;
pub mod trace;
pub mod traffic;
pub mod underlay;
pub mod wire;
pub mod world;
