//! The system calls of one thread that change files, in their order (ptrace): what shows that something is on disk before
//! something else is done, or that nothing is written at all.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

const INSIDE: &str = "SELVEDGE_TRACED";
/// Printed by the thread that is to be traced, before its number.
const READY: &str = "traced thread ";

/// A system call on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A file is opened, made if the call says so.
    Open(PathBuf),
    /// Content, length, mode or times change.
    Write(PathBuf),
    /// `fsync` or `fdatasync`.
    Sync(PathBuf),
    /// A file gets another name.
    Rename(PathBuf, PathBuf),
    /// A file or folder is removed.
    Remove(PathBuf),
    /// A folder is made, or was there.
    MakeFolder(PathBuf),
}

impl Call {
    /// The file or folder, by the name that it has before the call.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Open(path)
            | Self::Write(path)
            | Self::Sync(path)
            | Self::Rename(path, _)
            | Self::Remove(path)
            | Self::MakeFolder(path) => path,
        }
    }
}

/// Runs `body` in a process of its own, as [`isolated!`](crate::isolated) does, and returns the calls of its thread. In
/// that process this does not return. Use it through [`traced!`](crate::traced).
///
/// # Panics
/// When `body` fails; its output is printed first.
#[expect(clippy::print_stdout, reason = "the test outside reads it")]
pub fn traced(test: &str, body: impl FnOnce()) -> Vec<Call> {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        println!("\n{READY}{}", gettid());
        let mut go = [0];
        io::stdin().read_exact(&mut go).expect("the tracing process says when to begin");
        body();
        std::process::exit(0);
    }
    let program = std::env::current_exe().expect("a running test has a program");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"]);
    command.env(INSIDE, test).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the test's program starts again");
    let calls = trace_child(&mut child);
    let status = child.wait().expect("the child can be waited for");
    let calls = calls.unwrap_or_else(|error| panic!("cannot trace {test}: {error}"));
    assert!(status.success(), "{test} failed in its own process: {status}; calls: {calls:#?}");
    calls
}

fn trace_child(child: &mut Child) -> io::Result<Vec<Call>> {
    let missing = || io::Error::other("the child has no pipes");
    let mut output = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let thread = loop {
        let line = output.next().ok_or_else(|| io::Error::other("the child ended early"))??;
        if let Some(thread) = line.strip_prefix(READY) {
            break thread.parse().map_err(io::Error::other)?;
        }
    };
    trace(Pid::from_raw(thread), || input.write_all(b"g"))
}

/// Traces a thread until it ends. `begin` is called once its calls are recorded.
///
/// # Errors
/// When the thread cannot be traced, or `begin` fails.
pub fn trace(thread: Pid, begin: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<Call>> {
    ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
    ptrace::interrupt(thread)?;
    wait(thread)?;
    ptrace::syscall(thread, None)?;
    begin()?;
    let (mut calls, mut inside) = (Vec::new(), false);
    loop {
        let signal = match wait(thread) {
            Ok(WaitStatus::PtraceSyscall(_)) => {
                inside = !inside;
                if inside {
                    calls.extend(call(thread));
                }
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => None,
            Ok(_) | Err(Errno::ECHILD | Errno::ESRCH) => return Ok(calls),
            Err(errno) => return Err(errno.into()),
        };
        match ptrace::syscall(thread, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn wait(thread: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => {}
            status => return status,
        }
    }
}

/// The call that a stopped thread is about to make, if it is one on a file.
fn call(thread: Pid) -> Option<Call> {
    let line = std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = line.split_ascii_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let arguments: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
    let tracee = Tracee { thread, arguments };
    Some(match number {
        libc::SYS_openat => Call::Open(tracee.path(1)?),
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_pwritev
        | libc::SYS_ftruncate
        | libc::SYS_fallocate
        | libc::SYS_fchmod => Call::Write(tracee.file(0)?),
        libc::SYS_sendfile => Call::Write(tracee.file(0)?),
        libc::SYS_copy_file_range | libc::SYS_splice => Call::Write(tracee.file(2)?),
        libc::SYS_fchmodat | libc::SYS_utimensat => Call::Write(tracee.path(1)?),
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs => Call::Sync(tracee.file(0)?),
        libc::SYS_sync => Call::Sync("/".into()),
        libc::SYS_renameat | libc::SYS_renameat2 => Call::Rename(tracee.path(1)?, tracee.path(3)?),
        libc::SYS_unlinkat => Call::Remove(tracee.path(1)?),
        libc::SYS_mkdirat => Call::MakeFolder(tracee.path(1)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open | libc::SYS_creat => Call::Open(tracee.path(0)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => Call::Write(tracee.path(0)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Call::Rename(tracee.path(0)?, tracee.path(1)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink | libc::SYS_rmdir => Call::Remove(tracee.path(0)?),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => Call::MakeFolder(tracee.path(0)?),
        _ => return None,
    })
}

struct Tracee {
    thread: Pid,
    arguments: Vec<u64>,
}

impl Tracee {
    /// The path that argument number `at` points at.
    fn path(&self, at: usize) -> Option<PathBuf> {
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut bytes = vec![0; libc::PATH_MAX.try_into().ok()?];
        let length = memory.read_at(&mut bytes, *self.arguments.get(at)?).ok()?;
        bytes.truncate(length);
        bytes.truncate(bytes.iter().position(|byte| *byte == 0)?);
        Some(String::from_utf8_lossy(&bytes).into_owned().into())
    }

    /// The file behind the descriptor in argument number `at`.
    fn file(&self, at: usize) -> Option<PathBuf> {
        let descriptor = self.arguments.get(at)?;
        std::fs::read_link(format!("/proc/{}/fd/{descriptor}", self.thread)).ok()
    }
}

/// What keeps `path` from being on disk, as its new content, whenever its name says so: each write of what becomes it is
/// synced before the rename, and its folder after it.
///
/// # Errors
/// What is missing, for a person.
pub fn is_replaced_durably(calls: &[Call], path: &Path) -> Result<(), String> {
    let to_it = |call: &Call| matches!(call, Call::Rename(_, to) if to == path);
    let renamed = calls.iter().rposition(to_it).ok_or_else(|| format!("nothing is renamed to {path:?}"))?;
    let Call::Rename(from, _) = &calls[renamed] else { return Err("a rename".into()) };
    let (before, after) = calls.split_at(renamed);
    let written = before.iter().rposition(|call| *call == Call::Write(from.clone()));
    let synced = before.iter().rposition(|call| *call == Call::Sync(from.clone()));
    if written.is_none() || written > synced {
        return Err(format!("{from:?} is not synced between its last write and its rename"));
    }
    is_folder_synced(after, path)
}

/// Whether the folder of `path` is synced in `calls`.
///
/// # Errors
/// That it is not.
pub fn is_folder_synced(calls: &[Call], path: &Path) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let synced = calls.contains(&Call::Sync(folder.into()));
    if synced { Ok(()) } else { Err(format!("{folder:?} is not synced after {path:?} changed")) }
}

/// Runs the rest of a test in a process of its own and returns the [`Call`]s that it made: `traced!(|| { ... })`.
#[macro_export]
macro_rules! traced {
    ($body:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        $crate::trace::traced(name, $body)
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_seen_in_their_order_and_a_missing_sync_is_noticed() {
        let folder = std::env::temp_dir().join("selvedge-trace");
        let (path, draft) = (folder.join("file"), folder.join("draft"));
        let calls = crate::traced!(|| {
            std::fs::create_dir_all(&folder).unwrap();
            let mut file = File::create(&draft).unwrap();
            file.write_all(b"content").unwrap();
            file.sync_all().unwrap();
            std::fs::rename(&draft, &path).unwrap();
            File::open(&folder).unwrap().sync_all().unwrap();
            std::fs::remove_dir_all(&folder).unwrap();
        });
        is_replaced_durably(&calls, &path).unwrap();
        for (at, call) in calls.iter().enumerate() {
            if matches!(call, Call::Sync(_)) {
                let without = [&calls[..at], &calls[at + 1..]].concat();
                is_replaced_durably(&without, &path).unwrap_err();
            }
        }
        let late =
            [calls.as_slice(), &[Call::Write(draft.clone()), Call::Rename(draft, path.clone())]].concat();
        is_replaced_durably(&late, &path).unwrap_err();
    }
}
