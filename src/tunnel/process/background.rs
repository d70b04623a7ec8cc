//! A tunnel in the background, for `wg-quick`, which starts a program and expects that the device can be configured once
//! the program has ended.
//!
//! The starter runs the parent process with three descriptors. Standard error is a pipe, so that whoever started this sees
//! why a start fails. Standard output is where the log goes later: the journal if standard error leads there, else nowhere.
//! Standard input is a socket, on which the parent says that the device can be configured. Parent and worker let go
//! of the pipe before that, so the starter has passed on everything when it ends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::{dup2_stderr, dup2_stdin, setsid};

const NOWHERE: &str = "/dev/null";

/// Starts the parent process with the command line `arguments`, and returns 0 as soon as the device can be configured, or
/// the exit code of a parent that ended before.
///
/// # Errors
/// When the process cannot be started.
pub fn start(arguments: Vec<OsString>) -> io::Result<u8> {
    let (mut words, log) = io::pipe()?;
    let (mut here, there) = UnixStream::pair()?;
    let mut parent = Command::new("/proc/self/exe")
        .arg0("selvedge")
        .args(arguments)
        .stdin(OwnedFd::from(there))
        .stdout(later_log()?)
        .stderr(log)
        .spawn()?;
    io::copy(&mut words, &mut io::stderr())?;
    if here.read(&mut [0])? == 1 {
        return Ok(0);
    }
    let status = parent.wait()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Where the log goes once nobody waits any more. Keeping a terminal or a pipe would hold up whoever reads it.
fn later_log() -> io::Result<Stdio> {
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let metadata = stderr.metadata()?;
    // systemd.exec(5): set where standard error, or output, is connected to the journal.
    let journal = format!("{}:{}", metadata.dev(), metadata.ino());
    if std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == journal) {
        return Ok(stderr.into());
    }
    Ok(OpenOptions::new().write(true).open(NOWHERE)?.into())
}

/// Detaches the parent process from the terminal and the folder that it was started in.
pub(super) fn leave_session() -> io::Result<()> {
    setsid()?;
    std::env::set_current_dir("/")
}

/// Writes the log to where it goes from now on.
pub(super) fn move_log() {
    if let Err(error) = dup2_stderr(io::stdout()) {
        tracing::warn!(%error, "cannot move the log to the background");
    }
}

/// Tells the starter that the device can be configured. If it is gone, nobody waits.
pub(super) fn release_starter() {
    move_log();
    let told = || {
        let mut starter = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        starter.write_all(&[1])?;
        Ok::<_, io::Error>(dup2_stdin(File::open(NOWHERE)?)?)
    };
    if let Err(error) = told() {
        tracing::warn!(%error, "cannot tell whoever started this that the tunnel is ready");
    }
}
