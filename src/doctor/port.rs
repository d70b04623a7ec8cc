//! Whether the tunnel's UDP port is free, or the tunnel's.

use std::io;

use super::finding::Finding;
use super::host::Host;

const CHECK: &str = "port";
/// The first bytes of any of our processes' names (`/proc/PID/comm`).
const OURS: &str = "selvedge";

/// Who has the port.
#[derive(Debug)]
pub(super) struct Facts {
    /// Somebody has.
    taken: io::Result<bool>,
    /// Name of the process, where it can be seen.
    process: Option<String>,
    /// The tunnel says that it has it.
    tunnel: bool,
}

impl Facts {
    /// `tunnel`: the port that the tunnel says it has, if it answers.
    pub(super) fn gather(host: &Host, port: u16, tunnel: Option<u16>) -> Self {
        let inodes = inodes(host, port);
        let process = inodes.iter().flatten().find_map(|inode| process(host, inode));
        Self { taken: inodes.map(|inodes| !inodes.is_empty()), process, tunnel: tunnel == Some(port) }
    }
}

/// Inodes of the sockets on `port`. A kernel without IPv6 has one table alone.
fn inodes(host: &Host, port: u16) -> io::Result<Vec<String>> {
    let mut inodes = sockets(&host.try_read("/proc/net/udp")?, port);
    match host.try_read("/proc/net/udp6") {
        Ok(table) => inodes.extend(sockets(&table, port)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(inodes)
}

/// Inodes of the sockets on `port` in a table like `/proc/net/udp` (proc(5)).
fn sockets(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        if fields.get(1).is_some_and(|local| local.ends_with(&suffix)) {
            inodes.extend(fields.get(9).map(|inode| (*inode).to_owned()));
        }
    }
    inodes
}

/// Name of the process that has the socket open.
fn process(host: &Host, inode: &str) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    let is_it = |path: String| {
        std::fs::read_link(host.path(path)).is_ok_and(|target| target.as_os_str() == socket.as_str())
    };
    let pids = host.list("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.into_iter().find_map(|pid| {
        let folder = format!("/proc/{pid}/fd");
        let found = host.list(&folder).into_iter().any(|fd| is_it(format!("{folder}/{fd}")));
        found.then(|| host.read(format!("/proc/{pid}/comm"))).flatten()
    })
}

pub(super) fn judge(facts: &Facts, port: u16) -> Finding {
    if facts.tunnel {
        return Finding::ok(CHECK, format!("UDP {port} is the tunnel's"));
    }
    match &facts.taken {
        Ok(true) => taken(facts.process.as_deref(), port),
        Ok(false) => Finding::ok(CHECK, format!("UDP {port} is free")),
        Err(error) => Finding::skipped(CHECK, format!("what has UDP {port} cannot be read: {error}")),
    }
}

fn taken(process: Option<&str>, port: u16) -> Finding {
    let remedy = "end it, or set another listenPort on every node and open that";
    match process {
        Some(name) if name.starts_with(OURS) => Finding::warning(
            CHECK,
            format!("UDP {port} is taken by {name}, and the tunnel does not say that it has it"),
            "see whether it is the tunnel, and whether that answers: `selvedge status`",
        ),
        Some(name) => Finding::problem(CHECK, format!("UDP {port} is taken by {name}"), remedy),
        None => Finding::problem(
            CHECK,
            format!("UDP {port} is taken, by a process that cannot be seen or by the kernel"),
            format!("see whether a WireGuard device of the kernel has it; {remedy}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
    const TAKEN: &str = "  12: 00000000:CA76 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n";

    fn gather(udp: &str, comm: Option<&str>, tunnel: Option<u16>) -> Facts {
        let fake = Fake::with(&[("/proc/net/udp", &format!("{HEADER}{udp}"))]);
        if let Some(comm) = comm {
            fake.write("/proc/77/comm", &format!("{comm}\n"));
            let folder = fake.host.path("/proc/77/fd");
            std::fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink("socket:[4711]", folder.join("5")).unwrap();
        }
        Facts::gather(&fake.host, 51830, tunnel)
    }

    #[test]
    fn a_free_port_and_our_own_are_well() {
        assert_eq!(judge(&gather("", None, None), 51830).seen, "UDP 51830 is free");
        assert_eq!(judge(&gather(TAKEN, Some("selvedge"), None), 51830).severity, Severity::Warning);
        let blind = Facts::gather(&Fake::with(&[]).host, 51830, None);
        assert_eq!(judge(&blind, 51830).severity, Severity::Skipped);
        assert_eq!(judge(&gather(TAKEN, None, Some(51830)), 51830).severity, Severity::Ok);
    }

    #[test]
    fn a_strangers_port_is_a_problem_that_names_the_stranger() {
        let finding = judge(&gather(TAKEN, Some("flanneld"), Some(4000)), 51830);
        assert_eq!(
            (finding.severity, finding.seen.as_str()),
            (Severity::Problem, "UDP 51830 is taken by flanneld")
        );
        assert_eq!(judge(&gather(TAKEN, None, None), 51830).severity, Severity::Problem);
    }
}
