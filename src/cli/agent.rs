//! `selvedge agent`.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{Exit, Failure};
use crate::config::{Config, Overrides};
use crate::observe::log::{self, LogFormat};
use crate::paths::Paths;

/// Options of `selvedge agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge agent
  selvedge agent --config ./config.toml --kubeconfig ~/.kube/config --node-name worker-1

A flag comes before its environment variable, that before the file.")]
pub(super) struct Args {
    /// The configuration file; /etc/selvedge/config.toml or SELVEDGE_CONFIG by default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

pub(super) fn run(args: Args, format: LogFormat) -> Result<Exit, Failure> {
    log::init(format);
    let mut paths = Paths::from_env();
    if let Some(file) = args.config {
        paths.config = file;
    }
    let config =
        Config::load(&paths.config, &args.overrides).map_err(|error| Failure::new(Exit::Usage, error))?;
    // Fails only if a provider is installed already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Two, so that reading a long list holds up no answer about health.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(crate::agent::run(config, paths))?;
    Ok(Exit::Ok)
}
