//! `bench-cni`: the CNI plugin's ADD and DEL beside those of bridge and host-local.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::{FAILED, Failure, Progress};
use crate::bench::cni::{self, Options};
use crate::isolate;
use crate::kubernetes::Assets;
use crate::preflight;

/// Options of `bench-cni`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many pods
    #[arg(long, default_value_t = 200)]
    pods: usize,
    /// The product's binary; beside this program by default
    #[arg(long, env = "SELVEDGE_BIN")]
    selvedge: Option<PathBuf>,
    /// Write the report to this file as well
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Options of the process inside.
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    #[arg(long)]
    pods: usize,
    #[arg(long)]
    selvedge: PathBuf,
    #[arg(long)]
    plugins: PathBuf,
    #[arg(long)]
    report: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let binary = super::binary(args.selvedge.clone());
    super::complete(&preflight::missing(&binary))?;
    let plugins = Assets::plugins().map_err(Failure::new)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench-cni-inside", "--pods", &args.pods.to_string()]);
    command.arg("--selvedge").arg(binary).arg("--plugins").arg(plugins);
    if let Some(report) = &args.report {
        command.arg("--report").arg(std::path::absolute(report)?);
    }
    let child = isolate::isolate(&mut command).spawn();
    let status = child.map_err(|error| Failure::new(preflight::explain(&error)))?.wait()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)))
}

#[expect(clippy::print_stdout, reason = "the report is for the person who asked for it")]
pub(super) fn inside(args: &Inside) -> Result<ExitCode, Failure> {
    let progress = Progress::new();
    // In memory, and gone with these namespaces.
    let folder = PathBuf::from("/run/bench");
    let Inside { pods, selvedge, plugins, .. } = args;
    let options = Options { pods: *pods, folder, selvedge: selvedge.clone(), plugins: plugins.clone() };
    let report = cni::compare(&options, &|step| progress.say(step)).map_err(Failure::new)?;
    println!("{report}");
    if let Some(file) = &args.report {
        std::fs::write(file, report.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
