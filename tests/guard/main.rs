//! The guard while it is attacked: small clusters with the real processes, pods that never stop sending, and captures
//! on every link of the underlay. Whatever happens, no frame may show a pod or Service address, or the canary.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails fails its test; each scenario prints what it measured"
)]

mod absent;
mod claims;
mod flow;
mod flush;
mod hostile;
mod members;
mod pods;
mod power;
mod processes;
mod stage;
mod taken;
mod watch;
