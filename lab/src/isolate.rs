//! Runs a command, or a test, in user, mount, PID and network namespaces of its own.
//!
//! Needs no root. Everything made inside is gone when the first process ends, however it ends: the kernel kills
//! the rest of the PID namespace, and the network namespace dies with its last process.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

const INSIDE: &str = "SELVEDGE_ISOLATED";
const UP: libc::c_short = 1; // IFF_UP, in the width that ifreq has

/// Makes `command` run in new user, mount, PID and network namespaces, as root in there, with its own `/proc`,
/// `/sys` and an empty `/run`, loopback up, and killed when the caller dies. A process of few lines is PID 1: it
/// takes in orphans and ends, and with it everything else inside, when the command ends.
///
/// `spawn` then returns only when the command has been started; waiting for it gives its own exit status.
pub fn isolate(command: &mut Command) -> &mut Command {
    Isolation { detached: false, own_run: true, own_users: true }.apply(command)
}

/// How a command is isolated.
#[derive(Debug, Clone, Copy)]
pub struct Isolation {
    /// It goes on when the caller dies, in a session of its own.
    pub detached: bool,
    /// It sees an empty `/run`; else the host's.
    pub own_run: bool,
    /// It is in a user namespace; else it needs to be root's, and can do what root can.
    pub own_users: bool,
}

impl Isolation {
    /// As [`isolate`], with these choices.
    pub fn apply(self, command: &mut Command) -> &mut Command {
        let plan = Plan::new(self);
        // SAFETY: runs in the forked child; it only makes system calls on memory prepared before the fork.
        #[expect(unsafe_code, reason = "namespaces have to be entered between fork and exec")]
        unsafe {
            command.pre_exec(move || plan.enter())
        }
    }
}

struct Plan {
    how: Isolation,
    uid_map: CString,
    gid_map: CString,
}

impl Plan {
    fn new(how: Isolation) -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let text = |line: String| CString::new(line).expect("a decimal line has no NUL");
        Self { how, uid_map: text(format!("0 {uid} 1")), gid_map: text(format!("0 {gid} 1")) }
    }

    #[expect(unsafe_code, reason = "only raw system calls are safe between fork and exec")]
    fn enter(&self) -> io::Result<()> {
        // SAFETY: plain system calls with valid pointers; no allocation, no lock.
        unsafe {
            if self.how.detached {
                check(libc::setsid())?;
            } else {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            }
            let users = if self.how.own_users { libc::CLONE_NEWUSER } else { 0 };
            check(libc::unshare(users | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET))?;
            if self.how.own_users {
                write(c"/proc/self/setgroups", c"deny")?;
                write(c"/proc/self/uid_map", &self.uid_map)?;
                write(c"/proc/self/gid_map", &self.gid_map)?;
            }
            match check(libc::fork())? {
                0 => self.first_process(),
                child => wait_for(child),
            }
        }
    }

    /// In PID 1 of the new namespaces.
    #[expect(unsafe_code, reason = "only raw system calls are safe between fork and exec")]
    fn first_process(&self) -> io::Result<()> {
        // SAFETY: as in `enter`.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            let none = std::ptr::null();
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
            check(libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), 0, none.cast()))?;
            check(libc::mount(c"sysfs".as_ptr(), c"/sys".as_ptr(), c"sysfs".as_ptr(), 0, none.cast()))?;
            if self.how.own_run {
                check(libc::mount(c"tmpfs".as_ptr(), c"/run".as_ptr(), c"tmpfs".as_ptr(), 0, none.cast()))?;
            }
            loopback_up()?;
            match check(libc::fork())? {
                0 => Ok(()),
                child => wait_for(child),
            }
        }
    }
}

/// Brings up `lo` of the calling thread's network namespace.
#[expect(unsafe_code, reason = "only raw system calls are safe between fork and exec")]
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is a plain structure, filled in; the descriptor is ours.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l'.cast_signed();
        request.ifr_name[1] = b'o'.cast_signed();
        request.ifr_ifru.ifru_flags = UP;
        let result = check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request));
        libc::close(socket);
        result.map(drop)
    }
}

/// In the processes between: they take in orphans, end as `child` ends, and hold nothing open meanwhile.
#[expect(unsafe_code, reason = "only raw system calls are safe between fork and exec")]
fn wait_for(child: libc::pid_t) -> ! {
    // SAFETY: as in `enter`; `_exit` runs no destructor of the forked copy.
    unsafe {
        libc::close_range(0, libc::c_uint::MAX, 0);
        let mut status = 0;
        loop {
            match libc::waitpid(-1, &mut status, 0) {
                pid if pid == child => break,
                pid if pid < 0 && *libc::__errno_location() != libc::EINTR => libc::_exit(1),
                _ => {}
            }
        }
        if libc::WIFSIGNALED(status) {
            libc::_exit(128 + libc::WTERMSIG(status));
        }
        libc::_exit(libc::WEXITSTATUS(status))
    }
}

#[expect(unsafe_code, reason = "only raw system calls are safe between fork and exec")]
fn write(path: &std::ffi::CStr, text: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: both strings end in NUL and outlive the calls.
    unsafe {
        let file = check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let written = libc::write(file, text.as_ptr().cast(), text.count_bytes());
        let result = if written < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        libc::close(file);
        result
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs `body` isolated: the test named `test` of this very program is run again by itself, in namespaces of
/// its own, and there `body` is called. Use it through [`isolated!`](crate::isolated).
///
/// # Panics
/// When the isolated run fails; its output is printed first.
pub fn isolated(test: &str, body: impl FnOnce()) {
    isolated_as(test, Isolation { detached: false, own_run: true, own_users: true }, body);
}

/// As [`isolated`], but with all users of the system, for a test that has to be somebody else for a while ([`as_user`]). That
/// needs root: for anybody else it is left out, with a line that says so. Use it through
/// [`isolated_with_users!`](crate::isolated_with_users).
#[expect(clippy::print_stdout, reason = "who runs the tests has to know which were left out")]
pub fn isolated_with_users(test: &str, body: impl FnOnce()) {
    if !nix::unistd::geteuid().is_root() {
        println!("LEFT OUT: {test} needs more than one user, and so root");
        return;
    }
    isolated_as(test, Isolation { detached: false, own_run: true, own_users: false }, body);
}

#[expect(clippy::print_stdout, reason = "the output of the test inside belongs to the test outside")]
fn isolated_as(test: &str, how: Isolation, body: impl FnOnce()) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return body();
    }
    let program = std::env::current_exe().expect("a running test has a program");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"]);
    command.env(INSIDE, test).stdin(Stdio::null());
    let output = how.apply(&mut command).output().unwrap_or_else(|error| {
        panic!("no namespaces for {test}: {error}; are user namespaces allowed here?")
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // Indented, so that whoever counts results does not count those inside.
    text.lines().for_each(|line| println!("    {line}"));
    assert!(output.status.success(), "{test} failed in its namespaces: {}", output.status);
    assert!(text.contains("1 passed"), "{test} did not run in its namespaces");
}

/// Runs the rest of a test in user, mount, PID and network namespaces of its own: `isolated!(|| { ... })`.
#[macro_export]
macro_rules! isolated {
    ($body:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        $crate::isolate::isolated(name, $body)
    }};
}

/// The same for a test that is to be [several users](isolate::isolated_with_users).
#[macro_export]
macro_rules! isolated_with_users {
    ($body:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        $crate::isolate::isolated_with_users(name, $body)
    }};
}

/// Runs `body` as another user, without groups and capabilities, on a thread of its own: the kernel keeps that for each
/// thread, and so the rest of the process stays what it is.
///
/// # Errors
/// When this process may not become that user.
///
/// # Panics
/// When `body` does.
pub fn as_user<T: Send>(user: u32, body: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user(user)?;
            Ok(body())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[expect(unsafe_code, reason = "the C library changes all threads, the system calls only this one")]
fn become_user(user: u32) -> io::Result<()> {
    let call = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: system calls without pointers, but for an empty list of groups.
    unsafe {
        call(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        call(libc::syscall(libc::SYS_setresgid, user, user, user))?;
        call(libc::syscall(libc::SYS_setresuid, user, user, user))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn another_user_is_only_who_asked_to_be() {
        crate::isolated_with_users!(|| {
            std::fs::set_permissions("/run", std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
            let seen = || (nix::unistd::geteuid().as_raw(), std::fs::read_dir("/run").is_ok());
            assert_eq!(super::as_user(65_534, seen).unwrap(), (65_534, false));
            assert_eq!(seen(), (0, true));
        });
    }

    #[test]
    fn a_test_runs_alone_in_its_network() {
        crate::isolated!(|| {
            assert_eq!(std::process::id(), 2, "PID 1 takes in orphans");
            let devices: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap()).collect();
            assert_eq!(devices.len(), 1, "only loopback: {devices:?}");
            std::net::TcpListener::bind("127.0.0.1:80").unwrap();
        });
    }
}
