//! `selvedge agent`.

use super::{Exit, Failure, LogFormat};

/// Options of `selvedge agent`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[expect(clippy::needless_pass_by_value, reason = "the verb owns its options")]
pub(super) fn run(_args: Args, _log: LogFormat) -> Result<Exit, Failure> {
    Err(anyhow::anyhow!("not built yet").into())
}
