//! `bench-scale`: time, CPU, memory and API requests of one agent among thousands of Nodes.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::{Failure, Output, Progress};
use crate::bench::scale::{self, MOST_NODES, Options, Outcome};
use crate::isolate;
use crate::preflight;

/// Options of `bench-scale`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of Nodes; several numbers are measured one after the other
    #[arg(long, value_delimiter = ',', default_value = "1000,5000", value_parser = nodes)]
    nodes: Vec<u32>,
    #[command(flatten)]
    measure: Measure,
    /// The product's binary; beside this program by default
    #[arg(long, env = "SELVEDGE_BIN")]
    selvedge: Option<PathBuf>,
    /// Write the report to this file as well
    #[arg(long)]
    report: Option<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Options of both processes.
#[derive(Debug, clap::Args)]
pub(super) struct Measure {
    /// Length of the measurement at rest, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Period of the heartbeats of each Node, in seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    heartbeat: u64,
    /// Number of changes of each kind that are timed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    changes: u32,
    /// Time limit for the agent to get ready, in seconds
    #[arg(long, default_value_t = 180)]
    limit: u64,
}

/// Options of the process inside.
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    #[arg(long)]
    nodes: u32,
    #[command(flatten)]
    measure: Measure,
    #[arg(long)]
    selvedge: PathBuf,
}

#[expect(clippy::print_stdout, reason = "the report is for the person who asked for it")]
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let binary = super::binary(args.selvedge.clone());
    super::complete(&preflight::missing(&binary))?;
    let most = MOST_NODES.saturating_sub(args.measure.changes);
    if let Some(nodes) = args.nodes.iter().find(|nodes| **nodes > most) {
        return Err(Failure::new(format!(
            "{nodes} Nodes are more than the address plan has room for: {most}"
        )));
    }
    let outcomes = args.nodes.iter().map(|nodes| isolated(*nodes, &args.measure, &binary));
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    let report = match args.output {
        Output::Table => scale::table(&outcomes),
        Output::Json => serde_json::to_string_pretty(&outcomes).map_err(Failure::new)? + "\n",
    };
    print!("{report}");
    if let Some(file) = &args.report {
        std::fs::write(file, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the measurement in a process with namespaces of its own.
fn isolated(nodes: u32, measure: &Measure, selvedge: &std::path::Path) -> Result<Outcome, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let Measure { seconds, heartbeat, changes, limit } = measure;
    command.arg("bench-scale-inside").arg("--selvedge").arg(selvedge).stdout(Stdio::piped());
    for (name, value) in [
        ("--nodes", u64::from(nodes)),
        ("--seconds", *seconds),
        ("--heartbeat", *heartbeat),
        ("--changes", u64::from(*changes)),
        ("--limit", *limit),
    ] {
        command.arg(name).arg(value.to_string());
    }
    let child = isolate::isolate(&mut command).spawn();
    let output = child.map_err(|error| Failure::new(preflight::explain(&error)))?.wait_with_output()?;
    if !output.status.success() {
        return Err(Failure::new(format!("the measurement with {nodes} Nodes failed: {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(Failure::new)
}

#[expect(clippy::print_stdout, reason = "the calling process reads it")]
pub(super) fn inside(args: &Inside) -> Result<ExitCode, Failure> {
    let progress = Progress::new();
    let Measure { seconds, heartbeat, changes, limit } = args.measure;
    let options = Options {
        nodes: args.nodes,
        rest: Duration::from_secs(seconds),
        heartbeat: Duration::from_secs(heartbeat),
        changes: usize::try_from(changes).unwrap_or(usize::MAX),
        limit: Duration::from_secs(limit),
        // A tmpfs of these namespaces.
        folder: PathBuf::from("/run/bench"),
        selvedge: args.selvedge.clone(),
    };
    let outcome = scale::measure(&options, &|step| progress.say(step)).map_err(Failure::new)?;
    println!("{}", serde_json::to_string(&outcome).map_err(Failure::new)?);
    Ok(ExitCode::SUCCESS)
}

fn nodes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(nodes) if (1..=MOST_NODES).contains(&nodes) => Ok(nodes),
        _ => Err(format!("give 1 to {MOST_NODES} Nodes")),
    }
}
