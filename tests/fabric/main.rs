//! The whole fabric from end to end: small clusters in namespaces, with the real processes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails fails its test, and says where it was"
)]

mod checks;
mod cluster;
mod hostport;
mod nodeport;
mod operation;
mod revocation;
mod rotation;
mod scenario;
mod secrets;
mod services;
mod sockets;
