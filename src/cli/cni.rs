//! `selvedge cni`, and the plugin when a runtime calls the binary with `CNI_COMMAND` set.

use std::process::ExitCode;

use super::{Exit, Failure};

/// Options of `selvedge cni`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// The plugin itself: environment and standard input in, JSON out.
pub(super) fn main() -> ExitCode {
    Exit::Failed.into()
}

pub(super) fn run(_args: &Args) -> Result<Exit, Failure> {
    Err(anyhow::anyhow!("not built yet").into())
}
