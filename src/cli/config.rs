//! `selvedge config`.

use super::{Exit, Failure};

/// Options of `selvedge config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> Result<Exit, Failure> {
    Err(anyhow::anyhow!("not built yet").into())
}
