//! `up`, the process that it leaves behind, and `down`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use super::given::Given;
use super::{Failure, Name, Progress, Shape};
use crate::cgroup::{self, Group};
use crate::control::{self, Request};
use crate::daemon::{Kept, Real};
use crate::error::Error;
use crate::isolate::Isolation;
use crate::kubernetes::{self, Assets, Kubernetes};
use crate::lab::{Lab, Options};
use crate::state::{self, Folder};
use crate::{manifest, preflight, process};

/// The line that ends the progress of a lab which is ready.
const READY: &str = "ready";
/// The file with the id of the process that made the lab's control group.
const MAKER: &str = "maker";
const DOWN: Duration = Duration::from_secs(20);

/// Options of `up`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    pub(super) shape: Shape,
    /// Create the objects of this file (YAML or JSON) once the lab is ready
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// Options of the process that stays.
#[derive(Debug, clap::Args)]
pub(super) struct Daemon {
    #[command(flatten)]
    shape: Shape,
    #[arg(long)]
    folder: PathBuf,
    /// The process that started this one, and made its control group.
    #[arg(long)]
    maker: u32,
    #[command(flatten)]
    assets: Given,
}

impl Daemon {
    fn lab(&self, folder: &Folder, progress: &mut dyn FnMut(&str)) -> Result<Box<dyn Kept>, Error> {
        let Shape { nodes, datapath, outside, .. } = self.shape;
        let folder = folder.path().to_owned();
        match self.assets.get() {
            None => {
                let (families, binary) = (self.shape.families(), self.shape.binary());
                let lab = Lab::start(Options { nodes, families, datapath, folder, binary }, progress)?;
                Ok(Box::new(lab))
            }
            Some(assets) => {
                let options = kubernetes::Options {
                    nodes,
                    datapath,
                    outside,
                    kube_proxy: self.shape.kube_proxy(),
                    folder,
                    assets,
                    binary: self.shape.binary(),
                };
                let cluster = Kubernetes::start(options, progress)?;
                Ok(Box::new(Real::new(cluster, &self.shape.binary())))
            }
        }
    }
}

pub(super) fn up(args: &Args) -> Result<ExitCode, Failure> {
    super::preflight(&args.shape)?;
    let assets =
        args.shape.kubernetes.then(|| Assets::prepare(false, None)).transpose().map_err(Failure::new)?;
    let objects = args.manifest.as_deref().map(manifest::load).transpose().map_err(Failure::new)?;
    let folder = Folder::open(&args.name.name)?;
    drop(folder.lock()?);
    let progress = Progress::new();
    let mut child = start(&args.shape, &folder, assets.as_ref())?;
    let ready = follow(&mut child, &progress);
    if !ready {
        let status = child.wait()?;
        return Err(Failure::new(format!(
            "the lab did not come up ({status}); see {}",
            folder.log().display()
        )));
    }
    if let Some(objects) = objects {
        progress.say(&format!("creating {} objects", objects.len()));
        control::ask(&folder.socket(), &Request::Create { objects })?;
    }
    let option =
        if args.name.name == "default" { String::new() } else { format!(" --name {}", args.name.name) };
    progress.say(&format!("the lab is up; try `selvedge-lab status{option}`, `selvedge-lab shell{option}`"));
    Ok(ExitCode::SUCCESS)
}

fn start(shape: &Shape, folder: &Folder, assets: Option<&Assets>) -> Result<Child, Failure> {
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    command.arg("daemon").args(shape.args()).arg("--folder").arg(folder.path());
    command.args(["--maker", &std::process::id().to_string()]);
    command.args(assets.iter().flat_map(|assets| assets.args()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).current_dir("/");
    let isolation = Isolation { detached: true, own_run: false, own_users: assets.is_none() };
    let group = assets.map(|_| Group::create()).transpose()?;
    let child =
        isolation.apply(&mut command).spawn().map_err(|error| Failure::new(preflight::explain(&error)));
    if let Some(group) = group {
        group.leave()?;
        if child.is_ok() {
            // It stays with the lab. When that is down, it is empty, and `down` takes it away.
            std::mem::forget(group);
        }
    }
    child
}

/// Passes progress on; true when the lab is ready, false when it has ended.
fn follow(child: &mut Child, progress: &Progress) -> bool {
    let Some(stdout) = child.stdout.take() else { return false };
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if line == READY {
            return true;
        }
        progress.say(&line);
    }
    false
}

/// The first process of a lab's namespaces but for the one that takes in orphans.
pub(super) fn daemon(args: &Daemon) -> Result<ExitCode, Failure> {
    let folder = Folder::at(args.folder.clone());
    let _lock = folder.lock()?;
    folder.clear()?;
    super::log_to(&folder.log())?;
    // Nobody waits any more when the pipe is closed: then the lab is not wanted either.
    let tell = |line: &str| writeln!(std::io::stdout(), "{line}").is_ok();
    let mut wanted = true;
    let lab = args.lab(&folder, &mut |step| wanted &= tell(step)).map_err(Failure::new)?;
    let socket = folder.socket();
    if !wanted {
        return Err(Failure::new("nobody waits for the lab"));
    }
    let listener = control::listen(&socket)?;
    if !tell(READY) {
        return Err(Failure::new("nobody waits for the lab"));
    }
    if args.shape.kubernetes {
        std::fs::write(folder.path().join(MAKER), args.maker.to_string())?;
    }
    detach(&folder)?;
    crate::daemon::serve(lab, folder.name(), listener)?;
    Ok(ExitCode::SUCCESS)
}

/// Lets go of the terminal and of the pipe to `up`.
fn detach(folder: &Folder) -> Result<(), Failure> {
    let log: OwnedFd = std::fs::File::options().append(true).open(folder.log())?.into();
    nix::unistd::dup2_stdout(&log).map_err(Failure::new)?;
    nix::unistd::dup2_stderr(&log).map_err(Failure::new)
}

pub(super) fn down(name: &Name) -> Result<ExitCode, Failure> {
    let folder = Folder::open(&name.name)?;
    let maker =
        std::fs::read_to_string(folder.path().join(MAKER)).ok().and_then(|pid| pid.trim().parse().ok());
    match control::ask(&folder.socket(), &Request::Down) {
        Ok(_) => {}
        Err(error @ control::Error::Unreachable { .. }) => {
            // Nobody answers: either there is no lab, or one that no longer can.
            return match folder.lock() {
                Ok(_) => {
                    remove(&folder)?;
                    Err(error.into())
                }
                Err(busy) => Err(busy.into()),
            };
        }
        Err(error) => return Err(error.into()),
    }
    let mut lock = Err(state::Error::Busy(name.name.clone()));
    process::wait_for("the lab to end", DOWN, || {
        lock = folder.lock();
        lock.is_ok()
    })
    .map_err(Failure::new)?;
    remove(&folder)?;
    if let Some(maker) = maker {
        cgroup::remove_left(maker)?;
    }
    Progress::new().say("the lab is down");
    Ok(ExitCode::SUCCESS)
}

/// What the lab's processes were writing when they ended may come in between.
fn remove(folder: &Folder) -> Result<(), Failure> {
    let mut last = Ok(());
    let waited = process::wait_for("the lab's files to be gone", DOWN, || {
        last = folder.remove();
        last.is_ok()
    });
    waited.or(last.map_err(Failure::from))
}
