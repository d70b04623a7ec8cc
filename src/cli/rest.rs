//! `selvedge rest`: the main container of a pod whose init container has done the work. Pods of DaemonSets cannot end.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, Failure};

pub(super) fn run() -> Result<Exit, Failure> {
    super::block_on(ended())?;
    Ok(Exit::Ok)
}

/// Returns on SIGTERM or SIGINT.
pub(super) async fn ended() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
