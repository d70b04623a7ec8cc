//! `selvedge tunnel`.

use super::{Exit, Failure, LogFormat};

/// Options of `selvedge tunnel`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _log: LogFormat) -> Result<Exit, Failure> {
    Err(anyhow::anyhow!("not built yet").into())
}
