//! Other WireGuard implementations, installed by `tests/setup.sh`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::tunnel::{UAPI, Uapi};
use crate::support::{Host, SOON, until};

/// Who we talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    WireguardGo,
    Boringtun,
}

/// A running one. Killed when dropped.
pub(crate) struct Peer {
    child: Child,
    name: String,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::WireguardGo, Self::Boringtun];

    fn command(self, name: &str) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            Self::WireguardGo => ("wireguard-go", &["--foreground"]),
            Self::Boringtun => ("boringtun-cli", &["--foreground", "--disable-drop-privileges"]),
        };
        let mut command = Command::new(cached(program));
        command.args(arguments).arg(name);
        command
    }
}

fn cached(program: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(PathBuf::from(home).join(".cache"))
    });
    let path = cache.unwrap().join("selvedge/bin").join(program);
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

/// `wg` with these arguments, in the namespace of `host`: standard output, or standard error if it fails.
pub(crate) fn wg(host: &Host, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("wg");
    command.args(arguments).stdin(Stdio::null());
    let output = host.run(|| command.output());
    let output = output.unwrap_or_else(|error| panic!("wg: {error}: run tests/setup.sh"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Peer {
    /// Starts it and waits until it can be configured.
    pub(crate) fn start(kind: Kind, host: &Host, name: &str) -> Self {
        let mut command = kind.command(name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let peer = Self { child: host.spawn(&mut command), name: name.into() };
        until(&format!("{kind:?} can be configured"), SOON, || peer.uapi().try_ask("get=1\n\n"));
        peer
    }

    pub(crate) fn uapi(&self) -> Uapi {
        Uapi(PathBuf::from(UAPI).join(format!("{}.sock", self.name)))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
