//! The command line: one file per verb, and the exit codes that scripts can use.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::cluster;
use crate::duration;
use crate::observe::log::LogFormat;

mod agent;
mod audit;
mod cni;
mod config;
mod doctor;
mod install;
mod keys;
mod ports;
mod progress;
mod rest;
mod services;
mod status;
mod support;
pub mod table;
mod tunnel;
mod uninstall;

/// How a command ended, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed; the error says why.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// It worked and found something to look at.
    Findings = 3,
    /// The process or server to talk to does not answer.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with the exit code it ends the program with.
#[derive(Debug, thiserror::Error)]
#[error("{error:#}")]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What failed, on what, and what to do next.
    pub error: anyhow::Error,
}

impl Failure {
    /// Ends with `exit`.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

impl From<cluster::Error> for Failure {
    fn from(error: cluster::Error) -> Self {
        let exit = match error {
            cluster::Error::Unreachable { .. } => Exit::Unreachable,
            cluster::Error::Call { .. } | cluster::Error::Late(_) => Exit::Failed,
            cluster::Error::Config(_) => Exit::Usage,
            cluster::Error::Conflict(_) => Exit::Findings,
        };
        Self::new(exit, error)
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people, at most 80 columns wide.
    Table,
    /// JSON for programs.
    Json,
}

/// A WireGuard-encrypted mesh network fabric for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, propagate_version = true)]
struct Cli {
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value = "text", env = "SELVEDGE_LOG_FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the data plane: a userspace WireGuard device.
    Tunnel(tunnel::Args),
    /// The worker process of a tunnel.
    #[command(hide = true)]
    TunnelWorker(tunnel::Args),
    /// Run the control plane of this node.
    Agent(Box<agent::Args>),
    /// The CNI plugin; container runtimes call it with CNI_COMMAND set.
    Cni(cni::Args),
    /// Show the peers of this node.
    Status(status::Args),
    /// Show the Services that this node serves, and what becomes of a packet to one.
    Services(services::Args),
    /// Show and rotate the WireGuard keys of this node.
    Keys(keys::Args),
    /// Show and verify the record of what happened to the keys of this node.
    Audit(audit::Args),
    /// Check the configuration file.
    Config(config::Args),
    /// Find what stands in the way of Selvedge on this node, before it is installed and after.
    Doctor(Box<doctor::Args>),
    /// Collect what somebody who helps needs to see of this node.
    Support(support::Args),
    /// Put Selvedge on a cluster, and wait until it works.
    Install(Box<install::Args>),
    /// Take Selvedge off a cluster, or off this node.
    Uninstall(uninstall::Args),
    /// Hold the ports at which load balancers ask for the health of Services, while the agent comes and goes.
    Ports,
    /// Do nothing until told to end: for a pod whose work is done.
    #[command(hide = true)]
    Rest,
}

/// The whole command line, for its reference page.
#[cfg(test)]
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Parses the command line, runs the verb and gives the exit code.
#[must_use]
#[expect(clippy::print_stderr, reason = "errors are for the person who typed the command")]
pub fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return cni::main();
    }
    let cli = match Cli::try_parse_from(tunnel::meant(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.verb {
        Verb::Tunnel(args) => tunnel::run(&args, cli.log_format),
        Verb::TunnelWorker(args) => tunnel::run_worker(&args, cli.log_format),
        Verb::Agent(args) => agent::run(*args, cli.log_format),
        Verb::Cni(args) => cni::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Services(args) => services::run(&args),
        Verb::Keys(args) => keys::run(&args),
        Verb::Audit(args) => audit::run(&args),
        Verb::Config(args) => config::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Support(args) => support::run(&args),
        Verb::Install(args) => install::run(&args),
        Verb::Uninstall(args) => uninstall::run(&args),
        Verb::Ports => ports::run(cli.log_format),
        Verb::Rest => rest::run(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("selvedge: {failure}");
            failure.exit.into()
        }
    }
}

/// Runs a future of a short command to its end.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only memory and an epoll descriptor")
        .block_on(future)
}

/// An answer, to standard output.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| anyhow::anyhow!("cannot write to standard output: {error}").into())
}
