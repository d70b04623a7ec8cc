//! A supervised process of a node: started again when it ends, unless it is to stay down.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::space::Space;

/// Pause before a process that has ended is started again, as a service manager makes.
const RESTART: Duration = Duration::from_millis(200);
/// How long a process may take to end when asked to.
const GRACE: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// Name for messages and for the log file.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment, added to the lab's.
    pub env: Vec<(OsString, OsString)>,
    /// Where what it prints is appended to.
    pub log: PathBuf,
}

/// A process that is kept running.
#[derive(Debug)]
pub struct Process {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    program: Program,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    space: Arc<Space>,
    /// Whether it is to run.
    wanted: bool,
    /// Set for good when the supervisor is to end.
    over: bool,
    pid: Option<Pid>,
    starts: u64,
    failure: Option<String>,
}

impl Process {
    /// Starts a program in `space` and keeps it running.
    #[must_use]
    pub fn start(program: Program, space: Arc<Space>) -> Self {
        let process = Self::prepare(program, space);
        process.resume();
        process
    }

    /// As [`Process::start`], but it stays down until [`Process::resume`].
    #[must_use]
    pub fn prepare(program: Program, space: Arc<Space>) -> Self {
        let state = State { space, wanted: false, over: false, pid: None, starts: 0, failure: None };
        let shared = Arc::new(Shared { program, state: Mutex::new(state), changed: Condvar::new() });
        let supervised = shared.clone();
        let supervisor = std::thread::spawn(move || supervised.supervise());
        Self { shared, supervisor: Some(supervisor) }
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.shared.state().pid
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.shared.state().starts
    }

    /// Why it could not be started the last time, if so.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.state().failure.clone()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.shared.program.log
    }

    /// Sends it a signal; false when it does not run.
    pub fn signal(&self, signal: Signal) -> bool {
        // The process is reaped under the same lock, so the id is still its own.
        let state = self.shared.state();
        state.pid.is_some_and(|pid| kill(pid, signal).is_ok())
    }

    /// Kills it (SIGKILL); the supervisor starts it again.
    pub fn kill(&self) -> bool {
        self.signal(Signal::SIGKILL)
    }

    /// Kills its child processes and not itself; gives how many.
    pub fn kill_children(&self) -> usize {
        let Some(pid) = self.pid() else { return 0 };
        children(pid).into_iter().filter(|child| kill(*child, Signal::SIGKILL).is_ok()).count()
    }

    /// Kills it and its children, and keeps it down until [`Process::resume`].
    pub fn hold(&self) {
        self.shared.state().wanted = false;
        self.end(Signal::SIGKILL);
    }

    /// Asks it to end (SIGTERM) and keeps it down until [`Process::resume`].
    pub fn stop(&self) {
        self.shared.state().wanted = false;
        self.end(Signal::SIGTERM);
    }

    /// Runs it again after [`Process::hold`] or [`Process::stop`].
    pub fn resume(&self) {
        self.shared.state().wanted = true;
        self.shared.changed.notify_all();
    }

    /// Runs it in another space from its next start on.
    pub fn relocate(&self, space: Arc<Space>) {
        self.shared.state().space = space;
    }

    fn end(&self, signal: Signal) {
        let orphans = self.pid().map(children).unwrap_or_default();
        self.signal(signal);
        let ended = |grace| {
            let state =
                self.shared.changed.wait_timeout_while(self.shared.state(), grace, |s| s.pid.is_some());
            state.unwrap_or_else(PoisonError::into_inner).0.pid.is_none()
        };
        if !ended(GRACE) {
            self.signal(Signal::SIGKILL);
            ended(GRACE);
        }
        if signal == Signal::SIGKILL {
            for orphan in orphans {
                let _ = kill(orphan, signal);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.wanted = false;
            state.over = true;
        }
        self.shared.changed.notify_all();
        self.end(Signal::SIGKILL);
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn supervise(&self) {
        loop {
            let waiting = self.changed.wait_while(self.state(), |state| !state.wanted && !state.over);
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            if state.over {
                return;
            }
            state.starts += 1;
            let started = self.spawn(&state.space);
            match started {
                Ok(child) => {
                    state.pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
                    state.failure = None;
                    drop(state);
                    self.changed.notify_all();
                    self.wait(child);
                }
                Err(error) => {
                    state.failure = Some(error.to_string());
                    drop(state);
                }
            }
            let pause = self.changed.wait_timeout_while(self.state(), RESTART, |state| !state.over);
            drop(pause);
        }
    }

    fn spawn(&self, space: &Space) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(&self.program.log)?;
        let mut command = Command::new(&self.program.binary);
        command.args(&self.program.args).envs(self.program.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        space.place(&mut command).spawn()
    }

    /// Waits for the end without reaping, so that nobody signals a process id that is another's by now.
    fn wait(&self, mut child: Child) {
        if let Ok(pid) = i32::try_from(child.id()) {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(nix::Error::EINTR) {}
        }
        let mut state = self.state();
        state.pid = None;
        let _ = child.wait();
        drop(state);
        self.changed.notify_all();
    }
}

/// The living child processes of `parent`.
#[must_use]
pub fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent.as_raw())).map(Pid::from_raw).collect()
}

/// Field 4 of `/proc/PID/stat`, behind the name in parentheses; nothing for a zombie.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let living = fields.next()? != "Z";
    fields.next()?.parse().ok().filter(|_| living)
}

/// The last lines of a log file, at most `lines`, each cut to what a person reads.
#[must_use]
pub fn tail(log: &Path, lines: usize) -> String {
    const LOOK_BACK: u64 = 64 << 10;
    let read = || -> io::Result<String> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOOK_BACK)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last = all[all.len().saturating_sub(lines)..].iter();
    last.map(|line| cut(line)).collect::<Vec<_>>().join("\n")
}

fn cut(line: &str) -> &str {
    const WIDTH: usize = 240;
    line.char_indices().nth(WIDTH).map_or(line, |(at, _)| &line[..at])
}

/// Waits until `holds`, looking every few milliseconds.
///
/// # Errors
/// A text that says what was waited for, when it does not hold within `limit`.
pub fn wait_for(what: &str, limit: Duration, holds: impl FnMut() -> bool) -> Result<(), String> {
    wait_every(Duration::from_millis(5), what, limit, holds)
}

/// As [`wait_for`], looking once in a `pause`: for what is not cheap to look at.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_every(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() >= deadline {
            return Err(format!("waited {limit:?} for {what}, in vain"));
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn sleeper() -> Process {
        std::fs::create_dir("/run/disk").unwrap();
        let space = Arc::new(Space::create("n1", Path::new("/run/disk")).unwrap());
        let script = "echo started; sleep 1000 & wait";
        let program = Program {
            name: "sleeper".into(),
            binary: "/bin/sh".into(),
            args: ["-c", script].map(OsString::from).to_vec(),
            env: Vec::new(),
            log: "/run/log".into(),
        };
        let process = Process::start(program, space);
        running(&process);
        process
    }

    fn running(process: &Process) -> Pid {
        let child = || process.pid().map(children).unwrap_or_default().len() == 1;
        wait_for("the shell and its child", LIMIT, child).unwrap();
        process.pid().unwrap()
    }

    #[test]
    fn a_killed_process_comes_back_and_a_held_one_does_not() {
        crate::isolated!(|| {
            let process = sleeper();
            let first = process.pid().unwrap();
            assert!(process.kill());
            wait_for("another process", LIMIT, || process.pid().is_some_and(|pid| pid != first)).unwrap();
            let second = running(&process);
            let child = children(second)[0];
            process.hold();
            wait_for("the end of the child", LIMIT, || parent_of(child.as_raw()).is_none()).unwrap();
            let starts = process.starts();
            assert!(!process.kill(), "nothing to kill");
            std::thread::sleep(RESTART * 2);
            assert_eq!((process.pid(), process.starts()), (None, starts));
            process.resume();
            running(&process);
            assert_eq!(tail(Path::new("/run/log"), 2), "started\nstarted");
        });
    }

    #[test]
    fn nothing_is_left_when_it_is_dropped() {
        crate::isolated!(|| {
            let process = sleeper();
            let pid = process.pid().unwrap();
            let child = children(pid)[0];
            drop(process);
            wait_for("the end of both", LIMIT, || {
                parent_of(pid.as_raw()).is_none() && parent_of(child.as_raw()).is_none()
            })
            .unwrap();
        });
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        crate::isolated!(|| {
            std::fs::create_dir("/run/disk").unwrap();
            let space = Arc::new(Space::create("n1", Path::new("/run/disk")).unwrap());
            let program = Program {
                name: "none".into(),
                binary: "/none".into(),
                args: Vec::new(),
                env: Vec::new(),
                log: "/run/log".into(),
            };
            let process = Process::start(program, space);
            wait_for("its failure", LIMIT, || process.failure().is_some()).unwrap();
            assert_eq!(process.pid(), None);
        });
    }
}
