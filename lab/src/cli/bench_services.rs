//! `bench-services`: how fast Services are served, beside kube-proxy and beside the kernel alone.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::{Failure, Output, Progress};
use crate::bench::services::{self, MOST_SERVICES, Machine, Options, Outcome, Part};
use crate::isolate::Isolation;
use crate::kubernetes::Assets;
use crate::preflight;

/// From this many Services on, both programs are started with them.
const LARGE: u32 = 10_000;

/// Options of `bench-services`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of Services, with two endpoints each; the tables of all numbers are measured in turns
    #[arg(long, value_delimiter = ',', num_args = 1.., default_value = "10,1000,10000,45000", value_parser = number)]
    services: Vec<u32>,
    /// Services of the second host of the comparison of connections; at most the largest number
    #[arg(long, default_value_t = 30_000, value_parser = number)]
    many: u32,
    /// Services with which a write is followed to its first packet beside kube-proxy; at most the largest number
    #[arg(long, default_value_t = 1000, value_parser = number)]
    follow: u32,
    /// How many backends change in each table
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// How many endpoints change for each program, each until a packet follows
    #[arg(long, default_value_t = 100)]
    endpoints: usize,
    /// How often a whole table is written, and compared
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// How often each program starts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    starts: u8,
    /// Changes of EndpointSlices per second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Length of that measurement, in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Start kube-proxy with more than 10000 Services, too, which takes minutes
    #[arg(long)]
    large_proxy: bool,
    /// Measure these parts alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Kind>,
    /// The product's binary; beside this program by default
    #[arg(long, env = "SELVEDGE_BIN")]
    selvedge: Option<PathBuf>,
    /// kube-proxy's binary; built by default
    #[arg(long)]
    kube_proxy: Option<PathBuf>,
    /// Write the report to this file as well
    #[arg(long)]
    report: Option<PathBuf>,
    /// Format of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Options of the process inside.
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    /// As JSON
    options: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Cold sync, changes and resync
    Kernel,
    /// Connections and streams
    Packets,
    /// Start and memory of both programs, many changes
    Start,
    /// From a write to the first packet, both programs
    Follow,
}

#[expect(clippy::print_stdout, reason = "the report is for the person who asked for it")]
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let binary = super::binary(args.selvedge.clone());
    let mut missing = preflight::missing(&binary);
    // A table of thousands of Services is one message, longer than net.core.wmem_max, which only root's sockets may be sent.
    if !nix::unistd::geteuid().is_root() {
        missing.push("it needs root, for netlink messages of megabytes: run it with sudo -E".to_owned());
    }
    super::complete(&missing)?;
    let kube_proxy = match &args.kube_proxy {
        Some(file) => std::path::absolute(file)?,
        None => Assets::kube_proxy().map_err(Failure::new)?,
    };
    let mut outcome = Outcome { machine: Machine::here(), ..Outcome::default() };
    for part in args.parts() {
        let options = args.options(part, binary.clone(), kube_proxy.clone());
        outcome.add(isolated(&options)?);
    }
    outcome.goals = services::goals(&outcome);
    let report = match args.output {
        Output::Table => services::table(&outcome),
        Output::Json => serde_json::to_string_pretty(&outcome).map_err(Failure::new)? + "\n",
    };
    print!("{report}");
    if let Some(file) = &args.report {
        std::fs::write(file, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn parts(&self) -> Vec<Part> {
        let least = self.services.iter().copied().min().unwrap_or(1);
        let most = self.services.iter().copied().max().unwrap_or(1);
        let has = |kind| self.only.is_empty() || self.only.contains(&kind);
        let mut parts = Vec::new();
        if has(Kind::Kernel) {
            parts.push(Part::Kernel(self.services.clone()));
        }
        if has(Kind::Packets) {
            parts.push(Part::Packets([least, self.many.min(most)]));
        }
        if has(Kind::Follow) {
            let services = self.follow.min(most);
            parts.push(Part::Cluster { services, with_proxy: true, proxy_follows: true, with_rate: false });
        }
        if has(Kind::Start) {
            let mut large: Vec<u32> =
                self.services.iter().copied().filter(|services| *services >= LARGE).collect();
            if large.is_empty() {
                large.push(most);
            }
            let first = large.iter().copied().min();
            parts.extend(large.into_iter().map(|services| Part::Cluster {
                services,
                with_proxy: services <= LARGE || self.large_proxy,
                proxy_follows: false,
                with_rate: Some(services) == first,
            }));
        }
        parts
    }

    fn options(&self, part: Part, selvedge: PathBuf, kube_proxy: PathBuf) -> Options {
        Options {
            part,
            rounds: usize::from(self.rounds),
            starts: usize::from(self.starts),
            changes: self.changes,
            connections: 4096,
            streams: 41,
            stream_time: Duration::from_millis(500),
            follows: self.endpoints,
            rest: Duration::from_millis(1100),
            rate: (self.rate, Duration::from_secs(self.seconds)),
            // A tmpfs of the namespaces inside.
            folder: PathBuf::from("/run/bench"),
            selvedge,
            kube_proxy,
        }
    }
}

/// Measures a part in a process with namespaces of its own.
fn isolated(options: &Options) -> Result<Outcome, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    let text = serde_json::to_string(options).map_err(Failure::new)?;
    command.arg("bench-services-inside").arg(text).env("SELVEDGE_SERVICES", "on").stdout(Stdio::piped());
    let isolation = Isolation { detached: false, own_run: true, own_users: false };
    let child = isolation.apply(&mut command).spawn();
    let output = child.map_err(|error| Failure::new(preflight::explain(&error)))?.wait_with_output()?;
    if !output.status.success() {
        return Err(Failure::new(format!("measuring {:?} failed: {}", options.part, output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(Failure::new)
}

#[expect(clippy::print_stdout, reason = "the calling process reads it")]
pub(super) fn inside(args: &Inside) -> Result<ExitCode, Failure> {
    let progress = Progress::new();
    let options: Options = serde_json::from_str(&args.options).map_err(Failure::new)?;
    let outcome = services::measure(&options, &|step| progress.say(step)).map_err(Failure::new)?;
    println!("{}", serde_json::to_string(&outcome).map_err(Failure::new)?);
    Ok(ExitCode::SUCCESS)
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(services) if (1..=MOST_SERVICES).contains(&services) => Ok(services),
        _ => Err(format!("give 1 to {MOST_SERVICES} Services")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parts(line: &[&str]) -> Vec<Part> {
        Line::try_parse_from([&["bench-services"], line].concat()).unwrap().args.parts()
    }

    /// Services of each cluster, and whether kube-proxy starts there.
    fn clusters(line: &[&str]) -> Vec<(u32, bool)> {
        let cluster = |part| match part {
            Part::Cluster { services, with_proxy, .. } => Some((services, with_proxy)),
            _ => None,
        };
        parts(line).into_iter().filter_map(cluster).collect()
    }

    #[test]
    fn a_small_number_of_services_makes_everything_small() {
        assert_eq!(clusters(&["--services", "10"]), [(10, true), (10, true)]);
        let small = parts(&["--services", "10", "20", "--only", "packets"]);
        assert!(matches!(small[..], [Part::Packets([10, 20])]), "{small:?}");
        assert!(Line::try_parse_from(["bench-services", "--services", "0"]).is_err());
    }

    #[test]
    fn kube_proxy_starts_with_many_services_only_when_asked_to() {
        assert_eq!(clusters(&[]), [(1000, true), (10_000, true), (45_000, false)]);
        assert_eq!(clusters(&["--only", "start", "--large-proxy"]), [(10_000, true), (45_000, true)]);
    }
}
