//! The command line of `selvedge-lab`: one file per verb.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::kubernetes::{KubeProxy, ProxyMode};
use crate::plan::{Datapath, Families, MOST_NODES};
use crate::state;

mod bench_cni;
mod bench_scale;
mod bench_services;
mod conformance;
mod enter;
mod given;
mod pod;
mod run;
mod status;
mod up;

/// Exit codes, as those of `selvedge`.
const FAILED: u8 = 1;
const UNREACHABLE: u8 = 4;

const EXAMPLES: &str = "\
Examples:
  selvedge-lab run                            # a cluster, all checks, and it is gone again
  selvedge-lab run --kubernetes --nodes 2     # the same on a real Kubernetes, as root
  selvedge-lab up --nodes 3                   # a cluster that stays
  selvedge-lab pod create web --node node2
  selvedge-lab exec web -- cat /proc/net/route
  selvedge-lab exec node1 -- selvedge status
  selvedge-lab shell                          # KUBECONFIG is set: kubectl get nodes,pods -o wide
  selvedge-lab down";

/// A whole Kubernetes network on one machine, in namespaces: nodes with the real processes of Selvedge, an API server,
/// a router and an internet. Needs no root but for a real Kubernetes, and leaves nothing behind.
#[derive(Debug, Parser)]
#[command(name = "selvedge-lab", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a lab, and return when it is ready
    Up(up::Args),
    /// Start a lab, make all checks, and take it down
    Run(run::Args),
    /// Run upstream Kubernetes' end-to-end tests of the network on a real Kubernetes
    Conformance(conformance::Args),
    /// Time the CNI plugin beside those of the CNI project
    BenchCni(bench_cni::Args),
    /// Measure time, CPU, memory and API requests of one agent among thousands of Nodes
    BenchScale(bench_scale::Args),
    /// Measure how fast Services are served, beside kube-proxy
    BenchServices(bench_services::Args),
    /// Take a lab down
    Down(Name),
    /// Run a shell in the lab's own namespaces, with KUBECONFIG set
    Shell(Name),
    /// Create, delete and list pods
    Pod(pod::Args),
    /// Run a command on a node or in a pod
    Exec(enter::Args),
    /// Show nodes, pods and what the captures have seen
    Status(status::Args),
    #[command(hide = true)]
    Daemon(up::Daemon),
    #[command(hide = true)]
    Inside(run::Inside),
    #[command(hide = true)]
    ConformanceInside(conformance::Inside),
    #[command(hide = true)]
    BenchCniInside(bench_cni::Inside),
    #[command(hide = true)]
    BenchScaleInside(bench_scale::Inside),
    #[command(hide = true)]
    BenchServicesInside(bench_services::Inside),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Tables for people
    #[default]
    Table,
    /// JSON for programs
    Json,
}

/// Which lab.
#[derive(Debug, Clone, clap::Args)]
struct Name {
    /// Name of the lab
    #[arg(long, default_value = "default", global = true)]
    name: String,
}

/// What a new lab is to be like.
#[derive(Debug, Clone, clap::Args)]
struct Shape {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = nodes)]
    nodes: usize,
    /// Both families, IPv4 first (the default)
    #[arg(long)]
    dual_stack: bool,
    /// IPv4 only
    #[arg(long, conflicts_with_all = ["ipv6", "dual_stack"])]
    ipv4: bool,
    /// IPv6 only
    #[arg(long, conflicts_with = "dual_stack")]
    ipv6: bool,
    /// A real Kubernetes, with Selvedge as it is shipped; needs root
    #[arg(long, conflicts_with_all = ["ipv4", "ipv6"])]
    kubernetes: bool,
    /// On a real Kubernetes: the control plane is on a machine of its own, which is no node
    #[arg(long, requires = "kubernetes")]
    outside: bool,
    /// On a real Kubernetes: run kube-proxy, in this mode; Selvedge serves Services where it does not run
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, default_missing_value = "nftables", require_equals = true,
        requires = "kubernetes")]
    kube_proxy: Option<ProxyMode>,
    /// Run kube-proxy on this many nodes only, the last ones
    #[arg(long, value_name = "NUMBER", requires = "kube_proxy")]
    kube_proxy_nodes: Option<usize>,
    /// How pods are wired
    #[arg(long, value_enum, default_value_t)]
    datapath: Datapath,
    /// The product's binary; beside this program by default
    #[arg(long, env = "SELVEDGE_BIN")]
    selvedge: Option<PathBuf>,
}

impl Shape {
    fn families(&self) -> Families {
        match (self.ipv4, self.ipv6) {
            (true, _) => Families::Ipv4,
            (_, true) => Families::Ipv6,
            _ => Families::Dual,
        }
    }

    fn kube_proxy(&self) -> Option<KubeProxy> {
        let nodes = self.kube_proxy_nodes.unwrap_or(self.nodes);
        self.kube_proxy.map(|mode| KubeProxy { mode, nodes })
    }

    fn binary(&self) -> PathBuf {
        binary(self.selvedge.clone())
    }

    /// The same again, for the program inside.
    fn args(&self) -> Vec<String> {
        let family = match self.families() {
            Families::Ipv4 => "--ipv4",
            Families::Ipv6 => "--ipv6",
            Families::Dual => "--dual-stack",
        };
        let binary = self.binary().display().to_string();
        let nodes = self.nodes.to_string();
        let datapath = self.datapath.to_string();
        let args =
            ["--nodes", &nodes, family, "--datapath", &datapath, "--selvedge", &binary].map(str::to_owned);
        let switches = [(self.kubernetes, "--kubernetes"), (self.outside, "--outside")];
        let switches = switches.into_iter().filter(|(on, _)| *on).map(|(_, switch)| switch.to_owned());
        let proxy = self.kube_proxy.map(|mode| format!("--kube-proxy={mode}"));
        let proxies = self.kube_proxy_nodes.map(|nodes| format!("--kube-proxy-nodes={nodes}"));
        args.into_iter().chain(switches).chain(proxy).chain(proxies).collect()
    }
}

/// The product's binary: the one named, or the one beside this program.
fn binary(named: Option<PathBuf>) -> PathBuf {
    let beside = || std::env::current_exe().ok().map(|own| own.with_file_name("selvedge"));
    let found = named.or_else(beside).unwrap_or_else(|| "selvedge".into());
    std::path::absolute(&found).unwrap_or(found)
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(nodes) if (1..=MOST_NODES).contains(&nodes) => Ok(nodes),
        _ => Err(format!("a lab has 1 to {MOST_NODES} nodes")),
    }
}

/// An error with its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(text: impl std::fmt::Display) -> Self {
        Self { code: FAILED, text: text.to_string() }
    }
}

impl From<state::Error> for Failure {
    fn from(error: state::Error) -> Self {
        Self::new(error)
    }
}

impl From<crate::control::Error> for Failure {
    fn from(error: crate::control::Error) -> Self {
        let code =
            if matches!(error, crate::control::Error::Unreachable { .. }) { UNREACHABLE } else { FAILED };
        Self { code, text: error.to_string() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error)
    }
}

/// Parses the command line, does what it says and gives the exit code. No thread exists before namespaces are entered.
#[must_use]
#[expect(clippy::print_stderr, reason = "errors are for the person who typed the command")]
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Up(args) => up::up(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Down(name) => up::down(&name),
        Verb::Shell(name) => enter::shell(&name),
        Verb::Pod(args) => pod::run(&args),
        Verb::Exec(args) => enter::exec(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Daemon(args) => up::daemon(&args),
        Verb::Inside(args) => run::inside(&args),
        Verb::Conformance(args) => conformance::run(&args),
        Verb::ConformanceInside(args) => conformance::inside(&args),
        Verb::BenchCni(args) => bench_cni::run(&args),
        Verb::BenchCniInside(args) => bench_cni::inside(&args),
        Verb::BenchScale(args) => bench_scale::run(&args),
        Verb::BenchScaleInside(args) => bench_scale::inside(&args),
        Verb::BenchServices(args) => bench_services::run(&args),
        Verb::BenchServicesInside(args) => bench_services::inside(&args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("selvedge-lab: {}", failure.text);
        ExitCode::from(failure.code)
    })
}

/// Says on standard error what is being done, with the time since the beginning.
struct Progress {
    start: std::time::Instant,
}

impl Progress {
    fn new() -> Self {
        Self { start: std::time::Instant::now() }
    }

    #[expect(clippy::print_stderr, reason = "progress is for the person who waits")]
    fn say(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

/// Whether to colour what goes to standard output.
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Fails with everything that is missing on this machine, if anything is.
fn preflight(shape: &Shape) -> Result<(), Failure> {
    let missing = if shape.kubernetes {
        crate::preflight::missing_for_kubernetes(&shape.binary())
    } else {
        crate::preflight::missing(&shape.binary())
    };
    complete(&missing)
}

/// Fails if anything is missing, with all of it.
fn complete(missing: &[String]) -> Result<(), Failure> {
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format!("this machine lacks something:\n  - {}", missing.join("\n  - ")))),
    }
}

/// Logs of the lab itself go to a file, so that they do not come between lines for people.
fn log_to(path: &std::path::Path) -> Result<(), Failure> {
    let file = std::fs::File::options().create(true).append(true).open(path)?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("SELVEDGE_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube_client=off"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(file);
    subscriber.try_init().map_err(Failure::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_inside_needs_no_assets_but_for_a_real_kubernetes() {
        let inside = |more: &[&str]| {
            let line = [&["selvedge-lab", "inside", "--folder", "/x"], more].concat();
            match Cli::try_parse_from(line).unwrap().verb {
                Verb::Inside(args) => args.assets.get().is_some(),
                verb => panic!("{verb:?}"),
            }
        };
        assert!(!inside(&[]));
        let assets =
            ["--kubernetes-folder=/k", "--selvedge-image=/i", "--deploy-folder=/d", "--end-to-end=false"];
        assert!(inside(&assets));
    }

    #[test]
    fn the_program_inside_is_given_the_same_shape() {
        let parse =
            |line: &[&str]| match Cli::try_parse_from([&["selvedge-lab", "up"], line].concat()).unwrap().verb
            {
                Verb::Up(args) => args.shape,
                verb => panic!("{verb:?}"),
            };
        for line in [
            &["--nodes", "5", "--ipv6"][..],
            &["--ipv4"],
            &["--kubernetes"],
            &["--datapath", "routed"],
            &[],
            &["--selvedge", "/x/selvedge"],
        ] {
            let shape = parse(line);
            let again = shape.args();
            let again = parse(&again.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(
                (again.nodes, again.families(), again.datapath, again.binary(), again.kubernetes),
                (shape.nodes, shape.families(), shape.datapath, shape.binary(), shape.kubernetes)
            );
        }
        for line in [&["--nodes", "0"][..], &["--nodes", "65"], &["--ipv4", "--ipv6"]] {
            assert!(Cli::try_parse_from([&["selvedge-lab", "up"], line].concat()).is_err(), "{line:?}");
        }
    }
}
