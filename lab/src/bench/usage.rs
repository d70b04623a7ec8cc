//! CPU time and memory of processes, from `/proc` (proc(5)).

use std::time::Duration;

use nix::unistd::Pid;

use crate::process::{Process, children};

/// Unit of times in `/proc`, per second; 100 on all architectures that Selvedge supports.
const USER_HZ: u64 = 100;

/// CPU time in user and system mode of the process and its present child processes, all threads.
pub(in crate::bench) fn cpu(process: &Process) -> Duration {
    of_all(process, |[own, _]| own)
}

/// The same with the child processes that have ended.
pub(in crate::bench) fn cpu_with_ended(process: &Process) -> Duration {
    of_all(process, |[own, ended]| own + ended)
}

fn of_all(process: &Process, which: fn([Duration; 2]) -> Duration) -> Duration {
    let Some(pid) = process.pid() else { return Duration::ZERO };
    std::iter::once(pid).chain(children(pid)).filter_map(cpu_of).map(which).sum()
}

/// Of the process, and of its child processes that have ended.
fn cpu_of(pid: Pid) -> Option<[Duration; 2]> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_in(&stat)
}

/// Fields 14 to 17: `utime`, `stime`, `cutime` and `cstime`; field 3 is the first behind the name in parentheses.
fn cpu_in(stat: &str) -> Option<[Duration; 2]> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let mut both = || Some(Duration::from_millis((next()? + next()?) * 1000 / USER_HZ));
    Some([both()?, both()?])
}

/// Resident memory in KiB: present and peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::bench) struct Memory {
    pub(in crate::bench) now: u64,
    pub(in crate::bench) peak: u64,
}

/// Memory of the process and its present child processes.
pub(in crate::bench) fn memory(process: &Process) -> Memory {
    let Some(pid) = process.pid() else { return Memory::default() };
    let all = std::iter::once(pid).chain(children(pid));
    let read = all.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    read.map(|status| memory_in(&status))
        .fold(Memory::default(), |sum, one| Memory { now: sum.now + one.now, peak: sum.peak + one.peak })
}

fn memory_in(status: &str) -> Memory {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    Memory { now: field("VmRSS:").unwrap_or(0), peak: field("VmHWM:").unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 90 10 20 0 1 0 5 1 1";
        assert_eq!(cpu_in(stat), Some([3, 1].map(Duration::from_secs)));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(memory_in(status), Memory { now: 1024, peak: 2048 });
        assert!(cpu_of(nix::unistd::getpid()).is_some());
    }
}
