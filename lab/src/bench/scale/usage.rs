//! CPU time and memory of processes, from `/proc` (proc(5)).

use std::time::Duration;

use nix::unistd::Pid;

use crate::process::{Process, children};

/// Unit of times in `/proc`, per second; 100 on all architectures that Selvedge supports.
const USER_HZ: u64 = 100;

/// CPU time in user and system mode of the process and its present child processes, all threads.
pub(super) fn cpu(process: &Process) -> Duration {
    let Some(pid) = process.pid() else { return Duration::ZERO };
    std::iter::once(pid).chain(children(pid)).filter_map(cpu_of).sum()
}

fn cpu_of(pid: Pid) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_in(&stat)
}

/// Fields 14 and 15: `utime` and `stime`; field 3 is the first behind the name in parentheses.
fn cpu_in(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / USER_HZ))
}

/// Resident memory in KiB: present and peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) now: u64,
    pub(super) peak: u64,
}

/// Memory of the process and its present child processes.
pub(super) fn memory(process: &Process) -> Memory {
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
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 9 9 20 0 1 0 5 1 1";
        assert_eq!(cpu_in(stat), Some(Duration::from_secs(3)));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(memory_in(status), Memory { now: 1024, peak: 2048 });
        assert!(cpu_of(nix::unistd::getpid()).is_some());
    }
}
