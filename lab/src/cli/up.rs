//! `up`, the process that it leaves behind, and `down`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use super::{Failure, Name, Progress, Shape};
use crate::control::{self, Request};
use crate::isolate::Isolation;
use crate::lab::{Lab, Options};
use crate::state::{self, Folder};
use crate::{manifest, preflight, process};

/// The line that ends the progress of a lab which is ready.
const READY: &str = "ready";
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
}

pub(super) fn up(args: &Args) -> Result<ExitCode, Failure> {
    super::preflight(&args.shape)?;
    if args.shape.kubernetes {
        return Err(Failure::new("a real Kubernetes does not stay up yet: use `run --kubernetes`"));
    }
    let objects = args.manifest.as_deref().map(manifest::load).transpose().map_err(Failure::new)?;
    let folder = Folder::open(&args.name.name)?;
    drop(folder.lock()?);
    let progress = Progress::new();
    let mut child = start(&args.shape, &folder)?;
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

fn start(shape: &Shape, folder: &Folder) -> Result<Child, Failure> {
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    command.arg("daemon").args(shape.args()).arg("--folder").arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).current_dir("/");
    let isolation = Isolation { detached: true, own_run: false, own_users: true };
    isolation.apply(&mut command).spawn().map_err(|error| Failure::new(preflight::explain(&error)))
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
    let options = Options {
        nodes: args.shape.nodes,
        families: args.shape.families(),
        datapath: args.shape.datapath,
        folder: folder.path().to_owned(),
        binary: args.shape.binary(),
    };
    // Nobody waits any more when the pipe is closed: then the lab is not wanted either.
    let tell = |line: &str| writeln!(std::io::stdout(), "{line}").is_ok();
    let mut wanted = true;
    let lab = Lab::start(options, &mut |step| wanted &= tell(step)).map_err(Failure::new)?;
    let socket = folder.socket();
    if !wanted {
        return Err(Failure::new("nobody waits for the lab"));
    }
    let listener = control::listen(&socket)?;
    if !tell(READY) {
        return Err(Failure::new("nobody waits for the lab"));
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
