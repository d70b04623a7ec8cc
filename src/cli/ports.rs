//! `selvedge ports`: holds the sockets of Services.

use super::{Exit, Failure};
use crate::observe::log::{self, LogFormat};
use crate::paths::Paths;
use crate::ports::holder;

pub(super) fn run(format: LogFormat) -> Result<Exit, Failure> {
    log::init(format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(anyhow::Error::new)?;
    let paths = Paths::from_env();
    runtime.block_on(async {
        tokio::select! {
            held = holder::run(&paths) => held.map(|()| Exit::Ok).map_err(Failure::from),
            _ = super::rest::ended() => Ok(Exit::Ok),
        }
    })
}
