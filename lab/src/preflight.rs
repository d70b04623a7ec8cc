//! What the machine has to allow, checked before anything is begun, each with its remedy.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::path::Path;

const TUN: &str = "/dev/net/tun";

/// Switches that forbid user namespaces to ordinary users: file, the value that forbids, and the remedy.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Everything that is missing, one text each; nothing when a lab can run.
#[must_use]
pub fn missing(binary: &Path) -> Vec<String> {
    [tun(), program(binary)].into_iter().flatten().chain(forbidden()).collect()
}

/// As [`missing`], for a real Kubernetes.
#[must_use]
pub fn missing_for_kubernetes(binary: &Path) -> Vec<String> {
    let root = nix::unistd::geteuid().is_root();
    let user = (!root).then(|| {
        "a real Kubernetes needs root, for control groups and overlay mounts: run it with sudo -E".to_owned()
    });
    let nft = find("nft")
        .is_none()
        .then(|| "the checks need the program nft, and so does kube-proxy: install your distribution's package nftables".to_owned());
    let checks = ["ss", "curl", "openssl"].into_iter().filter(|program| find(program).is_none()).map(|program| {
        format!("the checks need the program {program}: install it (ss is in your distribution's package iproute2)")
    });
    [tun(), user, program(binary), nft].into_iter().flatten().chain(checks).collect()
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// What to do when the namespaces could not be entered although no switch forbids them.
#[must_use]
pub fn explain(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; a container or a security module forbids it: run it on the host itself, or as root"
        }
        Some(libc::ENOSPC | libc::EUSERS) => "; the limits in /proc/sys/user are used up",
        Some(libc::EINVAL | libc::ENOSYS) => "; the kernel has no user, mount, PID or network namespaces",
        _ => "",
    };
    format!("cannot enter namespaces of its own: {error}{remedy}")
}

fn tun() -> Option<String> {
    let error = OpenOptions::new().read(true).write(true).open(TUN).err()?;
    Some(match error.kind() {
        ErrorKind::NotFound => format!(
            "{TUN} does not exist: as root, modprobe tun, or mkdir -p /dev/net && mknod {TUN} c 10 200 && chmod 0666 {TUN}"
        ),
        ErrorKind::PermissionDenied => {
            format!("{TUN} may not be opened by this user: as root, chmod 0666 {TUN} (the usual mode)")
        }
        _ => format!("{TUN} cannot be opened: {error}"),
    })
}

fn program(binary: &Path) -> Option<String> {
    let there = binary.is_file();
    (!there).then(|| {
        let binary = binary.display();
        format!("{binary} does not exist: build it (make lab), or name another with SELVEDGE_BIN")
    })
}

fn forbidden() -> Vec<String> {
    let ordinary = !nix::unistd::geteuid().is_root();
    let set = |(file, value, remedy): &(&str, &str, &str)| {
        let found = std::fs::read_to_string(file).unwrap_or_default();
        let concerns = ordinary || file.contains("max_user");
        (concerns && found.trim() == *value)
            .then(|| format!("user namespaces are forbidden by {file}: as root, {remedy}"))
    };
    SWITCHES.iter().filter_map(set).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_remedy() {
        let missing = missing(Path::new("/none/selvedge"));
        assert!(
            missing.iter().any(|text| text.contains("/none/selvedge") && text.contains("make lab")),
            "{missing:?}"
        );
    }

    #[test]
    fn errors_are_explained() {
        let text = explain(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(text.contains("as root"), "{text}");
    }
}
