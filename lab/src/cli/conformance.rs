//! `conformance`: upstream's end-to-end tests on a real Kubernetes with Selvedge.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use super::given::Given;
use super::{FAILED, Failure, Progress, Shape, run};
use crate::kubernetes::{self, Assets, Kubernetes};
use crate::state::Folder;

/// Every case about the network that a conformant cluster has to pass.
const FOCUS: &str = r"\[sig-network\].*\[Conformance\]";

/// Every case about the network, in a conformant cluster or not.
const ALL: &str = r"\[sig-network\]";

/// Cases that cannot run here: they want a cloud, the internet, a network policy, a machine of their own, a program or an image
/// that is not here, or SCTP sockets.
const CANNOT_RUN: &str = "LoadBalancer|Serial|Disruptive|Netpol|NetworkPolicy|SCTP|KubeProxyNFAcct|Networking-DNS|\
                          Networking-IPv4|Networking-IPv6|Networking-Performance|pull an image from a registry";

/// Options of `conformance`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    cases: Cases,
    /// Keep the lab's folder, with the logs, also when all cases have passed
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, clap::Args)]
struct Cases {
    /// Run all cases about the network that can run here, not just those of conformance
    #[arg(long, conflicts_with_all = ["focus", "skip"])]
    all: bool,
    /// Regular expression of the cases to run
    #[arg(long, default_value = FOCUS)]
    focus: String,
    /// Regular expression of cases to leave out
    #[arg(long, default_value = "")]
    skip: String,
}

/// Options of the process inside.
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    #[command(flatten)]
    shape: Shape,
    #[arg(long)]
    folder: PathBuf,
    #[command(flatten)]
    cases: Cases,
    #[command(flatten)]
    assets: Given,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let shape = Shape { kubernetes: true, ..args.shape.clone() };
    super::preflight(&shape)?;
    let assets = Assets::prepare(true, None).map_err(Failure::new)?;
    let (focus, skip) =
        if args.cases.all { (ALL, CANNOT_RUN) } else { (&*args.cases.focus, &*args.cases.skip) };
    let cases = ["--focus", focus, "--skip", skip].map(Into::into);
    run::launch("conformance-inside", &shape, Some(&assets), cases, args.keep)
}

pub(super) fn inside(args: &Inside) -> Result<ExitCode, Failure> {
    let folder = Folder::at(args.folder.clone());
    super::log_to(&folder.log())?;
    let progress = Progress::new();
    let assets =
        args.assets.get().ok_or_else(|| Failure::new("no assets of a real Kubernetes were given"))?;
    let options = kubernetes::Options {
        nodes: args.shape.nodes,
        datapath: args.shape.datapath,
        outside: args.shape.outside,
        kube_proxy: args.shape.kube_proxy(),
        folder: folder.path().to_owned(),
        assets: assets.clone(),
        binary: args.shape.binary(),
    };
    let cluster = Kubernetes::start(options, &mut |step| progress.say(step)).map_err(Failure::new)?;
    progress.say("running upstream's end-to-end tests");
    let mut command = Command::new(assets.binary("ginkgo"));
    command.args(["--nodes=4", "--timeout=30m", "--silence-skips"]);
    command.arg(format!("--focus={}", args.cases.focus));
    if !args.cases.skip.is_empty() {
        command.arg(format!("--skip={}", args.cases.skip));
    }
    command.arg(assets.binary("e2e.test")).arg("--");
    command.arg(format!("--kubeconfig={}", cluster.kubeconfig().display()));
    command.args(["--provider=local", "--num-nodes=2"]);
    command.arg(format!("--report-dir={}", folder.path().join("e2e").display()));
    // Where the control plane is: the tests reach pods as it does.
    let status = cluster.control_space().place(&mut command).status()?;
    progress.say("taking the lab down");
    if !status.success() {
        std::fs::write(folder.path().join("logs/cluster.log"), cluster.logs())?;
    }
    Ok(ExitCode::from(if status.success() { 0 } else { FAILED }))
}
