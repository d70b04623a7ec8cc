//! `run`: a lab, all checks, and it is gone again.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigHandler, Signal, signal};

use super::given::Given;
use super::{FAILED, Failure, Progress, Shape};
use crate::cgroup::Group;
use crate::checks::{self, Churn, Cluster, Outcome, Report, Scale, Served};
use crate::isolate::Isolation;
use crate::kubernetes::{self, Assets, Kubernetes};
use crate::lab::{Lab, Options, logs};
use crate::preflight;
use crate::state::Folder;

/// What every run on a real Kubernetes can afford.
const CHURN: Churn = Churn { pods: 20, rounds: 1 };
const NAME_WIDTH: usize = 34;
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";
const CLEAR: &str = "\x1b[2K";

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// Smaller transfers and shorter measurements
    #[arg(long)]
    quick: bool,
    /// On a real Kubernetes: so many pods created and deleted so many times, under traffic; 0 times for none
    #[arg(long, default_value_t = CHURN, requires = "kubernetes")]
    churn: Churn,
    /// On a real Kubernetes: begin with this program (a static one), upgrade, roll back and upgrade again under traffic
    #[arg(long, requires = "kubernetes", value_name = "SELVEDGE")]
    upgrade_from: Option<PathBuf>,
    /// Keep the lab's folder, with the logs, also when all checks have passed
    #[arg(long)]
    keep: bool,
}

/// Options of the process inside.
#[derive(Debug, clap::Args)]
pub(super) struct Inside {
    #[command(flatten)]
    shape: Shape,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = CHURN)]
    churn: Churn,
    #[command(flatten)]
    pub(super) assets: Given,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    super::preflight(&args.shape)?;
    let previous = args.upgrade_from.as_deref().map(Path::canonicalize).transpose();
    let previous = previous.map_err(|error| Failure::new(format!("--upgrade-from: {error}")))?;
    let prepare = || Assets::prepare(false, previous.as_deref());
    let assets = args.shape.kubernetes.then(prepare).transpose().map_err(Failure::new)?;
    let churn = ["--churn".into(), args.churn.to_string().into()];
    let more = args.quick.then_some("--quick").map(OsString::from).into_iter().chain(churn);
    launch("inside", &args.shape, assets.as_ref(), more, args.keep)
}

/// Runs the hidden verb `verb` of this program in namespaces of its own, with a folder that is gone when all went well.
pub(super) fn launch(
    verb: &str,
    shape: &Shape,
    assets: Option<&Assets>,
    more: impl IntoIterator<Item = OsString>,
    keep: bool,
) -> Result<ExitCode, Failure> {
    let folder = Folder::open(&format!("run-{}", std::process::id()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(verb).args(shape.args()).arg("--folder").arg(folder.path());
    command.args(more).args(assets.iter().flat_map(|assets| assets.args()));
    let isolation = Isolation { detached: false, own_run: false, own_users: assets.is_none() };
    let group = assets.map(|_| Group::create()).transpose()?;
    let mut child =
        isolation.apply(&mut command).spawn().map_err(|error| Failure::new(preflight::explain(&error)))?;
    group.iter().try_for_each(Group::leave)?;
    // Ctrl-C ends the lab, which has the terminal too; this process stays to clean up.
    #[expect(unsafe_code, reason = "nix lets signal handlers be set unsafely only")]
    // SAFETY: ignoring a signal runs no code.
    unsafe {
        signal(Signal::SIGINT, SigHandler::SigIgn).map_err(Failure::new)?;
    }
    let status = child.wait()?;
    drop(group);
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED);
    if code == 0 && !keep {
        folder.remove()?;
    } else {
        Progress::new().say(&format!("logs are in {}", folder.path().display()));
    }
    Ok(ExitCode::from(code))
}

pub(super) fn inside(args: &Inside) -> Result<ExitCode, Failure> {
    let folder = Folder::at(args.folder.clone());
    super::log_to(&folder.log())?;
    let progress = Progress::new();
    let scale = if args.quick { Scale::SMALL } else { Scale::FULL };
    let tally = match args.assets.get() {
        None => {
            let options = Options {
                nodes: args.shape.nodes,
                families: args.shape.families(),
                datapath: args.shape.datapath,
                folder: folder.path().to_owned(),
                binary: args.shape.binary(),
            };
            let lab = Lab::start(options, &mut |step| progress.say(step)).map_err(Failure::new)?;
            let told = || lab.nodes().iter().map(|node| logs(node)).collect::<Vec<_>>().join("\n");
            let rotation = |report: &mut dyn FnMut(Report<'_>)| checks::rotation(&lab, report);
            check(&lab, scale, &progress, More { before: rotation, after: nothing }, told)
        }
        Some(assets) => {
            let (nodes, datapath) = (args.shape.nodes, args.shape.datapath);
            let folder = folder.path().to_owned();
            let outside = args.shape.outside;
            let binary = args.shape.binary();
            let kube_proxy = args.shape.kube_proxy();
            let options =
                kubernetes::Options { nodes, datapath, outside, kube_proxy, folder, assets, binary };
            let cluster = Kubernetes::start(options, &mut |step| progress.say(step)).map_err(Failure::new)?;
            let more = |report: &mut dyn FnMut(Report<'_>)| {
                checks::upgrade(&cluster, report);
                checks::workloads(&cluster, report);
                checks::rolling(&cluster, report);
                checks::takeover(&cluster, report);
                checks::chained(&cluster, report);
                checks::diagnosis(&cluster, report);
                checks::upkeep(&cluster, report);
                checks::membership(&cluster, report);
                checks::outside(&cluster, report);
                checks::churn(&cluster, args.churn, &|how_far| progress.say(how_far), report);
                checks::faults(&cluster, args.quick, report);
                checks::admission(&cluster, report);
                checks::claims(&cluster, report);
                checks::many(&cluster, report);
                checks::rights(&cluster, report);
            };
            let after = |report: &mut dyn FnMut(Report<'_>)| checks::uninstall(&cluster, report);
            check(&Served::new(&cluster), scale, &progress, More { before: more, after }, || cluster.logs())
        }
    };
    print(&format!("{} passed, {} failed\n", tally.passed, tally.failed));
    Ok(ExitCode::from(if tally.failed == 0 { 0 } else { FAILED }))
}

/// Checks beside those that every cluster gets.
struct More<B, A> {
    before: B,
    after: A,
}

fn nothing(_report: &mut dyn FnMut(Report<'_>)) {}

/// Makes all checks, and `more` before and after the leak check; where one fails, prints what `logs` gives.
fn check(
    cluster: &dyn Cluster,
    scale: Scale,
    progress: &Progress,
    more: More<impl FnOnce(&mut dyn FnMut(Report<'_>)), impl FnOnce(&mut dyn FnMut(Report<'_>))>,
    logs: impl FnOnce() -> String,
) -> Tally {
    progress.say("checking");
    let mut tally = Tally::default();
    let mut report = |report: Report<'_>| match report {
        Report::Begun(name) => announce(name),
        Report::Ended(outcome) => tally.count(outcome),
    };
    checks::run(cluster, scale, &mut report);
    (more.before)(&mut report);
    report(Report::Begun("leak check"));
    checks::leaks(cluster).iter().for_each(|outcome| report(Report::Ended(outcome)));
    (more.after)(&mut report);
    if tally.failed > 0 {
        print(&format!("{}\n", logs()));
    }
    progress.say("taking the lab down");
    tally
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        let (word, colour) = if outcome.passed { ("PASS", GREEN) } else { ("FAIL", RED) };
        *(if outcome.passed { &mut self.passed } else { &mut self.failed }) += 1;
        let word = if super::colours() { format!("{colour}{word}{PLAIN}") } else { word.to_owned() };
        let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
        print(&format!("{clear}{word}  {:<NAME_WIDTH$} {}\n", outcome.name, outcome.measured));
    }
}

/// A line that the outcome takes the place of; only a terminal can do that.
fn announce(name: &str) {
    if std::io::stdout().is_terminal() {
        print(&format!("....  {name}\r"));
    }
}

/// A closed standard output is no reason to break off.
fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
