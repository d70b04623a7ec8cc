//! `selvedge doctor` and `selvedge support bundle` on hosts that tests lay out: files below a root, devices and nftables
//! in a network namespace, a cluster of an API server alone.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod bundle;
mod cluster;
mod host;
mod live;
mod node;
mod underlay;
