//! A host laid out by a test, and the program run on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A folder that stands for a node's root, with what every node has.
pub(crate) struct Host {
    folder: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        for (path, content) in [
            ("/proc/sys/kernel/osrelease", "6.8.0-45-generic\n"),
            ("/proc/self/status", "Name:\tselvedge\nCapEff:\t000001ffffffffff\n"),
            ("/dev/net/tun", ""),
            ("/proc/net/udp", "  sl  local_address\n"),
            ("/proc/sys/net/ipv4/ip_forward", "0\n"),
            ("/proc/sys/net/ipv4/conf/all/rp_filter", "2\n"),
            ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n"),
        ] {
            host.write(path, content);
        }
        host
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The program with these arguments, and nothing of this machine's environment that could mislead it.
    pub(crate) fn selvedge(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("SELVEDGE_") || name.starts_with("KUBE") || name == "HOME" {
                command.env_remove(name.as_ref());
            }
        }
        command.env("HOME", self.folder.path());
        command.args(arguments).current_dir(self.folder.path()).output().unwrap()
    }

    /// What the doctor says, as JSON, and its exit code.
    pub(crate) fn doctor(&self, options: &[&str]) -> (Value, i32) {
        let root = self.folder.path().to_str().unwrap();
        let arguments = [&["doctor", "--output", "json", "--root", root], options].concat();
        let output = self.selvedge(&arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        (report, output.status.code().unwrap())
    }

    /// Every file and folder below, to see that nothing changed.
    pub(crate) fn tree(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path.clone());
                }
                all.push(path);
            }
        }
        all.sort();
        all
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// The findings of a check: severity and what was seen.
pub(crate) fn found(report: &Value, check: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    let of_check = findings.filter(|finding| finding["check"] == check);
    of_check.map(|finding| (text(&finding["severity"]), text(&finding["seen"]))).collect()
}

/// What `admission` finds in a cluster without any policy.
pub(crate) const NO_POLICIES: [(&str, &str); 4] = [
    ("problem", "no policy selvedge-nodes"),
    ("problem", "no policy selvedge-events"),
    ("problem", "no policy selvedge-key-rotations"),
    ("problem", "no policy selvedge-key-revocations"),
];

/// Checks that a check has found just this, by the beginning of the severity and a part of what was seen.
pub(crate) fn expect(report: &Value, check: &str, expected: &[(&str, &str)]) {
    let found = found(report, check);
    let fits = |((severity, seen), (wanted, part)): (&(String, String), &(&str, &str))| {
        severity == wanted && seen.contains(part)
    };
    let all = found.len() == expected.len() && found.iter().zip(expected).all(fits);
    assert!(all, "{check}: expected {expected:?}, found {found:#?}");
}
