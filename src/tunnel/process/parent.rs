//! The parent process: keeps descriptors and a worker.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::backoff::Backoff;
use super::channel::Channel;
use super::descriptors::Kept;
use super::{Options, slot};
use crate::paths::Paths;

/// How long the pair that had the device before may take to go.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(10);
/// How long a worker may take to end when it is told to.
const STOP_WAIT: Duration = Duration::from_secs(2);

/// Why the parent gave up.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// Another tunnel process has the device.
    #[error("{name} is run by another `selvedge tunnel` (lock {path}); stop that one first")]
    Locked {
        /// The device.
        name: String,
        /// The lock.
        path: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("cannot use the lock {path}: {source}; is its folder writable for this user?")]
    Lock {
        /// The lock.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something that a parent needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs workers with the command line `arguments` until told to stop or a worker ends on purpose, and gives the
/// exit code: 0, or that of a worker that never got ready.
///
/// # Errors
/// When another process has the device, or the system refuses.
pub fn run(options: &Options, paths: &Paths, arguments: Vec<OsString>) -> Result<u8, ParentError> {
    let mut kept = Kept::default();
    kept.insert(slot::LOCK, lock(options, paths)?);
    let signals = signals().map_err(system("watch for signals"))?;
    let mut parent =
        Parent { arguments, signals, kept, restarts: 0, backoff: Backoff::default(), was_ready: false };
    let code = parent.run();
    for socket in [paths.uapi_socket(&options.name), paths.tunnel_socket(&options.name)] {
        let _ = std::fs::remove_file(socket);
    }
    code
}

struct Parent {
    arguments: Vec<OsString>,
    signals: SignalFd,
    kept: Kept,
    restarts: u64,
    backoff: Backoff,
    /// Some worker got ready: the set-up is good, and what fails now may heal.
    was_ready: bool,
}

enum End {
    /// We were told to stop, and the worker has ended.
    Stopped,
    Died(ExitStatus),
}

impl Parent {
    fn run(&mut self) -> Result<u8, ParentError> {
        loop {
            let born = Instant::now();
            let (mut worker, channel) = self.spawn().map_err(system("start the worker process"))?;
            let status = match self.attend(&mut worker, channel).map_err(system("watch the worker"))? {
                End::Stopped => return Ok(0),
                End::Died(status) => status,
            };
            match status.code() {
                Some(0) => return Ok(0),
                Some(code) if !self.was_ready => return Ok(u8::try_from(code).unwrap_or(1)),
                None if !self.was_ready && self.restarts > 2 => return Ok(1),
                _ => {}
            }
            let wait = self.backoff.after(born.elapsed());
            tracing::warn!(
                code = status.code(),
                signal = status.signal(),
                wait_ms = wait.as_millis(),
                "the worker process died; starting another"
            );
            self.restarts += 1;
            if self.told_to_stop(wait).map_err(system("wait"))? {
                return Ok(0);
            }
        }
    }

    fn spawn(&self) -> io::Result<(Child, Channel)> {
        let (here, there) = Channel::pair()?;
        let worker = Command::new("/proc/self/exe")
            .arg0("selvedge")
            .args(&self.arguments)
            // A terminal's SIGINT is for the parent to act on.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(there)))
            .spawn()?;
        // Few and short: they fit into the socket's buffer even if the worker never reads them.
        if let Err(error) = self.kept.hand_over(&here, self.restarts) {
            tracing::warn!(%error, "the worker process did not take its descriptors");
        }
        Ok((worker, here))
    }

    /// Serves the worker until it ends, by itself or because we are told to stop.
    fn attend(&mut self, worker: &mut Child, channel: Channel) -> io::Result<End> {
        let mut channel = Some(channel);
        loop {
            if let Some(status) = worker.try_wait()? {
                // What it said last counts too.
                self.listen(&mut channel);
                return Ok(End::Died(status));
            }
            self.wait_for_news(channel.as_ref(), PollTimeout::NONE)?;
            self.listen(&mut channel);
            if self.signalled()? {
                stop(worker)?;
                return Ok(End::Stopped);
            }
        }
    }

    /// Reads all that the worker has said, and lets go of the channel at its end.
    fn listen(&mut self, channel: &mut Option<Channel>) {
        while let Some(open) = channel {
            match open.try_receive() {
                Ok(Some(message)) => self.was_ready |= self.kept.obey(&message.text, message.descriptor),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => *channel = None,
            }
        }
    }

    fn wait_for_news(&self, channel: Option<&Channel>, timeout: PollTimeout) -> io::Result<()> {
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(channel.map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wanted, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes all signals that came; true if one of them says stop.
    fn signalled(&self) -> io::Result<bool> {
        let mut stop = false;
        while let Some(signal) = self.signals.read_signal()? {
            stop |= i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32);
        }
        Ok(stop)
    }

    /// Waits for `wait`; true as soon as a signal says stop.
    fn told_to_stop(&self, wait: Duration) -> io::Result<bool> {
        let end = Instant::now() + wait;
        loop {
            if self.signalled()? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            self.wait_for_news(None, timeout)?;
        }
    }
}

/// Asks the worker to end, and after a while makes it.
fn stop(worker: &mut Child) -> io::Result<()> {
    let pid = i32::try_from(worker.id()).map_err(io::Error::other)?;
    // It may have ended by itself already.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let end = Instant::now() + STOP_WAIT;
    while worker.try_wait()?.is_none() {
        if Instant::now() >= end {
            worker.kill()?;
            worker.wait()?;
            break;
        }
        std::thread::sleep(LOCK_POLL);
    }
    Ok(())
}

/// Takes the device's lock, waiting a little for a killed pair to go. The worker gets a copy, so that the lock
/// is held until both are gone.
fn lock(options: &Options, paths: &Paths) -> Result<OwnedFd, ParentError> {
    let path = paths.run.join(format!("tunnel-{}.lock", options.name));
    let failed = |source| ParentError::Lock { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&paths.run).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file: File = file.map_err(failed)?;
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // A plain descriptor, because Flock unlocks when dropped, for the worker's copy too.
            Ok(locked) => {
                return locked.as_fd().try_clone_to_owned().map_err(failed).inspect(|_| {
                    std::mem::forget(locked);
                });
            }
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(ParentError::Locked { name: options.name.clone(), path });
            }
            Err((_, errno)) => return Err(failed(errno.into())),
        }
        std::thread::sleep(LOCK_POLL);
    }
}

fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> ParentError {
    move |source| ParentError::System { what, source: source.into() }
}
