//! The parent process: keeps descriptors and a worker.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::background;
use super::backoff::Backoff;
use super::watch::Identity;
use crate::paths::Paths;
use crate::tunnel::descriptors::{Channel, Kept, Notice, slot};
use crate::tunnel::handover::{Link, takeover};
use crate::tunnel::options::Options;

/// How long the pair that had the device before may take to go.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(10);
/// How long a hand-over may take to end when we are told to stop: longer than all its steps together.
const LEAVE_WAIT: Duration = Duration::from_secs(20);
/// How often a parent that has handed over looks whether the device is free again.
const REST_POLL: Duration = Duration::from_millis(200);

/// Why the parent gave up.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// Another tunnel process has the device.
    #[error("{name} is run by another `selvedge tunnel` (lock {path}){because}; stop that one first")]
    Locked {
        /// The device.
        name: String,
        /// The lock.
        path: PathBuf,
        /// Why it does not hand the device over, if it was asked to.
        because: String,
    },
    /// The worker died before it had the device.
    #[error("{0} stays with the `selvedge tunnel` that has it: our worker process died while taking it over")]
    Taking(String),
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
/// When another process has the device and does not hand it over, or the system refuses.
pub fn run(options: &Options, paths: &Paths, arguments: Vec<OsString>) -> Result<u8, ParentError> {
    if options.detached {
        background::leave_session().map_err(system("leave the session of whoever started this"))?;
    }
    let signals = signals().map_err(system("watch for signals"))?;
    let (kept, link) = have_device(options, paths)?;
    let hand_over = if link.is_some() { HandOver::Taking } else { HandOver::No };
    let mut parent = Parent {
        options,
        paths,
        arguments,
        signals,
        kept,
        link,
        hand_over,
        stop_by: None,
        restarts: 0,
        backoff: Backoff::default(),
        was_ready: false,
    };
    let code = parent.run();
    if parent.hand_over == HandOver::No {
        for path in [
            paths.uapi_socket(&options.name),
            paths.tunnel_socket(&options.name),
            paths.tunnel_door(&options.name),
        ] {
            let _ = std::fs::remove_file(path);
        }
        if !options.managed {
            // We still hold it. Whoever waits for it sees that the file is another one, or none.
            let _ = std::fs::remove_file(lock_path(options, paths));
        }
    }
    code
}

struct Parent<'a> {
    options: &'a Options,
    paths: &'a Paths,
    arguments: Vec<OsString>,
    signals: SignalFd,
    kept: Kept,
    /// The way to the worker that the first of ours is to succeed.
    link: Option<OwnedFd>,
    hand_over: HandOver,
    /// We were told to stop, and do so at this time even if the device is not handed over by then.
    stop_by: Option<Instant>,
    restarts: u64,
    backoff: Backoff,
    /// Some worker got ready: the set-up is good, and what fails now may heal.
    was_ready: bool,
}

/// Whether the device is ours alone, and its files with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandOver {
    No,
    /// Our worker takes it over from another process.
    Taking,
    /// Our worker hands it over.
    Leaving,
}

enum End {
    /// We were told to stop, and the worker has ended.
    Stopped,
    Died(ExitStatus),
}

impl Parent<'_> {
    fn run(&mut self) -> Result<u8, ParentError> {
        loop {
            let born = Instant::now();
            let (mut worker, channel) = self.spawn().map_err(system("start the worker process"))?;
            let status = match self.attend(&mut worker, channel).map_err(system("watch the worker"))? {
                End::Stopped => return Ok(0),
                End::Died(status) => status,
            };
            match self.hand_over {
                HandOver::No => {}
                HandOver::Taking => return Err(ParentError::Taking(self.options.name.clone())),
                HandOver::Leaving => {
                    if self.stop_by.is_some() || self.rest()? {
                        return Ok(0);
                    }
                    continue;
                }
            }
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

    fn spawn(&mut self) -> io::Result<(Child, Channel)> {
        let (here, there) = Channel::pair()?;
        let worker = Command::new("/proc/self/exe")
            .arg0("selvedge")
            .args(&self.arguments)
            // A terminal's SIGINT is for the parent to act on.
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(there)))
            .spawn()?;
        let link = self.link.take();
        // Few and short: they fit into the socket's buffer even if the worker never reads them.
        if let Err(error) = self.kept.hand_over(&here, self.restarts, link.as_ref().map(AsFd::as_fd)) {
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
            self.wait_for_news(channel.as_ref(), self.patience())?;
            self.listen(&mut channel);
            if self.signalled()? {
                // A successor that has half of the device gets the rest first.
                self.stop_by.get_or_insert(Instant::now() + LEAVE_WAIT);
            }
            if let Some(time) = self.stop_by
                && (self.hand_over != HandOver::Leaving || Instant::now() >= time)
            {
                stop(worker)?;
                return Ok(End::Stopped);
            }
            if let Some(channel) = &channel {
                self.answer_takeover(channel);
            }
        }
    }

    /// How long to wait for news at most.
    fn patience(&self) -> PollTimeout {
        let Some(time) = self.stop_by else { return PollTimeout::NONE };
        let left = time.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Reads all that the worker has said, and lets go of the channel at its end.
    fn listen(&mut self, channel: &mut Option<Channel>) {
        while let Some(open) = channel {
            match open.try_receive() {
                Ok(Some(message)) => match self.kept.apply(&message.text, message.descriptor) {
                    Some(Notice::Ready) => self.ready(),
                    Some(Notice::Taken | Notice::Stayed) => self.hand_over = HandOver::No,
                    None => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => *channel = None,
            }
        }
    }

    fn ready(&mut self) {
        if self.options.detached && !self.was_ready {
            background::release_starter();
        }
        self.was_ready = true;
    }

    /// Whether another process may have the device now: a worker of ours serves it alone.
    fn may_leave(&self) -> bool {
        self.was_ready && self.hand_over == HandOver::No && self.stop_by.is_none()
    }

    /// Hands the device to the process that asks for it on the takeover socket, if there is one.
    fn answer_takeover(&mut self, worker: &Channel) {
        let Some(socket) = self.kept.get(slot::TAKEOVER).filter(|_| self.may_leave()) else { return };
        let given = match takeover::accept(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            accepted => accepted.and_then(|requester| {
                let (ours, theirs) = Link::pair()?;
                self.kept.give(&requester, Some(theirs.as_fd()))?;
                worker.send("leave", Some(ours.as_fd()))
            }),
        };
        match given {
            Ok(()) => self.hand_over = HandOver::Leaving,
            Err(error) => tracing::warn!(%error, "another process asked for the device and did not get it"),
        }
    }

    /// Waits until told to stop (true), or until the device is free: then it is ours again, because the process
    /// that we left it to is gone.
    fn rest(&mut self) -> Result<bool, ParentError> {
        self.kept = Kept::default();
        loop {
            if self.told_to_stop(REST_POLL).map_err(system("wait"))? {
                return Ok(true);
            }
            if let Some(lock) = try_lock(self.options, self.paths)? {
                tracing::warn!(
                    device = self.options.name,
                    "the next tunnel process is gone: taking the device back"
                );
                self.kept = with_takeover(lock, self.options, self.paths);
                self.hand_over = HandOver::No;
                return Ok(false);
            }
        }
    }

    fn wait_for_news(&self, channel: Option<&Channel>, timeout: PollTimeout) -> io::Result<()> {
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(channel.map(|channel| PollFd::new(channel.as_fd(), PollFlags::POLLIN)));
        let socket = channel.and(self.kept.get(slot::TAKEOVER)).filter(|_| self.may_leave());
        wanted.extend(socket.map(|socket| PollFd::new(socket, PollFlags::POLLIN)));
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

/// Ends the worker. There is nothing that it would do before: it may die at any time, and it inherits our blocked signals.
fn stop(worker: &mut Child) -> io::Result<()> {
    worker.kill()?;
    worker.wait()?;
    Ok(())
}

/// Has the device's lock, and with it the device: at once when nobody has it, from whoever has it when that is
/// wanted (then there is a link to the worker that serves it), or after waiting a little for a killed pair to go.
fn have_device(options: &Options, paths: &Paths) -> Result<(Kept, Option<OwnedFd>), ParentError> {
    let end = Instant::now() + LOCK_WAIT;
    let mut refusal = None;
    loop {
        if let Some(lock) = try_lock(options, paths)? {
            return Ok((with_takeover(lock, options, paths), None));
        }
        if options.take_over {
            match takeover::request(&paths.tunnel_door(&options.name)) {
                Ok(mut kept) => {
                    let link = kept.remove(slot::LINK);
                    return Ok((kept, link));
                }
                // It may be about to end, or about to listen.
                Err(error) => refusal = Some(error),
            }
        }
        if Instant::now() >= end {
            let path = lock_path(options, paths);
            let because = refusal.map_or(String::new(), |error| format!("; it does not hand over: {error}"));
            return Err(ParentError::Locked { name: options.name.clone(), path, because });
        }
        std::thread::sleep(LOCK_POLL);
    }
}

/// What a parent keeps from the start. The worker gets a copy of the lock, so that it is held until both are gone.
fn with_takeover(lock: OwnedFd, options: &Options, paths: &Paths) -> Kept {
    let mut kept = Kept::default();
    kept.insert(slot::LOCK, lock);
    if options.managed {
        match takeover::listen(&paths.tunnel_door(&options.name)) {
            Ok(socket) => kept.insert(slot::TAKEOVER, socket),
            Err(error) => {
                tracing::warn!(%error, "the next tunnel process will not be able to take over from here");
            }
        }
    }
    kept
}

fn lock_path(options: &Options, paths: &Paths) -> PathBuf {
    paths.run.join(format!("tunnel-{}.lock", options.name))
}

/// Takes the device's lock if it is free.
fn try_lock(options: &Options, paths: &Paths) -> Result<Option<OwnedFd>, ParentError> {
    let path = lock_path(options, paths);
    let failed = |source| ParentError::Lock { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&paths.run).map_err(failed)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(failed)?;
    match file.try_lock() {
        // Whoever had it has removed the file meanwhile: somebody else may lock the next one.
        Ok(()) if Identity::of(&path) != Some(Identity::of_file(&file).map_err(failed)?) => Ok(None),
        // It is held for as long as anybody has a copy of the descriptor.
        Ok(()) => Ok(Some(file.into())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
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
