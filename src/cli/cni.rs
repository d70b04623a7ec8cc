//! `selvedge cni`, and the plugin when a runtime calls the binary with `CNI_COMMAND` set.

use std::io::Write as _;
use std::process::ExitCode;

use super::{Exit, Failure};
use crate::pod::plugin;

/// Options of `selvedge cni`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// The plugin itself: environment and standard input in, JSON out.
pub(super) fn main() -> ExitCode {
    if plugin::main() { Exit::Ok } else { Exit::Failed }.into()
}

const ABOUT: &str = concat!(
    "CNI plugin selvedge ",
    env!("CARGO_PKG_VERSION"),
    "; CNI protocol versions supported: 0.4.0, 1.0.0, 1.1.0

Container runtimes run it for each pod, with these in the environment and the network
configuration on standard input:
  CNI_COMMAND      ADD, DEL, CHECK, STATUS, GC or VERSION
  CNI_CONTAINERID  the container's ID           (ADD, DEL, CHECK)
  CNI_NETNS        its network namespace's path (ADD, CHECK)
  CNI_IFNAME       its interface's name         (ADD, DEL, CHECK)
To try it by hand:
  echo '{\"cniVersion\":\"1.1.0\",\"name\":\"selvedge\",\"type\":\"selvedge\"}' |
    CNI_COMMAND=STATUS selvedge cni
"
);

pub(super) fn run(_args: &Args) -> Result<Exit, Failure> {
    std::io::stdout().write_all(ABOUT.as_bytes()).map_err(anyhow::Error::from)?;
    Ok(Exit::Ok)
}
