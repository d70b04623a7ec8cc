//! `exec` and `shell`: a program in the namespaces of a lab, entered from outside before any thread exists.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::fstat;

use super::{FAILED, Failure, Name};
use crate::control::{self, Answer, Entry, NAMESPACES, Request};
use crate::state::Folder;

/// The namespaces that come after the user's, in the order in which they come and are entered.
const KINDS: [(&str, CloneFlags); NAMESPACES - 1] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("uts", CloneFlags::CLONE_NEWUTS),
];
/// Exit code of shells for a command that does not exist.
const NOT_FOUND: u8 = 127;

/// Options of `exec`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    name: Name,
    /// A node, or a pod (POD or NAMESPACE/POD)
    #[arg(value_name = "NODE|POD")]
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(super) fn exec(args: &Args) -> Result<ExitCode, Failure> {
    let entry = enter(&args.name, Some(args.target.clone()))?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    run(command, &entry)
}

pub(super) fn shell(name: &Name) -> Result<ExitCode, Failure> {
    let entry = enter(name, None)?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    run(Command::new(shell), &entry)
}

/// Moves this process into the namespaces that the lab gives; its children go into the PID namespace too.
fn enter(name: &Name, target: Option<String>) -> Result<Entry, Failure> {
    let folder = Folder::open(&name.name)?;
    let (answer, files) = control::ask(&folder.socket(), &Request::Enter { target })?;
    let (Answer::Enter { entry }, NAMESPACES) = (answer, files.len()) else {
        return Err(Failure::new("the lab answered what is no way in"));
    };
    let here = std::env::current_dir().ok();
    let [user, others @ ..] = &files[..] else { return Err(Failure::new("no namespaces came")) };
    // Looked up before anything is entered: in the lab's `/proc` this process does not exist.
    let foreign = !is_own(user, "user")?;
    let mut wanted = Vec::new();
    for (file, (name, kind)) in others.iter().zip(KINDS) {
        if !is_own(file, name)? {
            wanted.push((file, kind));
        }
    }
    if foreign {
        join(user, CloneFlags::CLONE_NEWUSER)?;
        become_root()?;
    }
    wanted.into_iter().try_for_each(|(file, kind)| join(file, kind))?;
    // Entering mounts leads to the root folder.
    let _ = here.map(std::env::set_current_dir);
    Ok(entry)
}

fn join(file: &OwnedFd, kind: CloneFlags) -> Result<(), Failure> {
    setns(file, kind).map_err(|errno| Failure::new(format!("enter the lab's namespaces ({kind:?}): {errno}")))
}

/// A user namespace cannot be entered again from inside, and the host's own host name not from a lab without root.
fn is_own(file: &OwnedFd, kind: &str) -> Result<bool, Failure> {
    let own = std::fs::File::open(format!("/proc/self/ns/{kind}"))?;
    let id = |file: std::os::fd::BorrowedFd<'_>| {
        fstat(file).map(|stat| (stat.st_dev, stat.st_ino)).map_err(Failure::new)
    };
    Ok(id(file.as_fd())? == id(own.as_fd())?)
}

/// A root from outside is nobody in a lab of another user, until told otherwise.
fn become_root() -> Result<(), Failure> {
    let (user, group) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    nix::unistd::setresgid(group, group, group).map_err(Failure::new)?;
    nix::unistd::setresuid(user, user, user).map_err(Failure::new)
}

fn run(mut command: Command, entry: &Entry) -> Result<ExitCode, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = entry.programs.iter().cloned().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).map_err(Failure::new)?);
    command.envs(entry.env.iter().map(|(key, value)| (key, value)));
    let program = command.get_program().to_string_lossy().into_owned();
    // Signals of the terminal are for the program; only a child of ours is in the PID namespace.
    ignore(SigHandler::SigIgn)?;
    #[expect(unsafe_code, reason = "signals are reset between fork and exec")]
    // SAFETY: setting a signal to its default is one system call.
    unsafe {
        command
            .pre_exec(|| ignore(SigHandler::SigDfl).map_err(|failure| std::io::Error::other(failure.text)));
    }
    let status = match command.status() {
        Ok(status) => status,
        Err(error) => {
            return Err(Failure { code: NOT_FOUND, text: format!("run {program}: {error}") });
        }
    };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)))
}

fn ignore(how: SigHandler) -> Result<(), Failure> {
    for each in [Signal::SIGINT, Signal::SIGQUIT] {
        #[expect(unsafe_code, reason = "nix lets signal handlers be set unsafely only")]
        // SAFETY: neither ignoring a signal nor its default runs code of ours.
        unsafe {
            signal(each, how).map_err(Failure::new)?;
        }
    }
    Ok(())
}
