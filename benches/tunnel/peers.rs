//! The implementations that are compared, all configured by the standard WireGuard protocol.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use selvedge_keys::PrivateKey;

use crate::network::{DEVICES, INNER, Network, OUTER};

const UAPI: &str = "/var/run/wireguard";
const PORT: u16 = 51830;
const PATIENCE: Duration = Duration::from_secs(10);

/// One of them.
pub(crate) struct Implementation {
    pub(crate) name: &'static str,
    /// Program and arguments before the device's name; none for the bare veth pair.
    pub(crate) command: Option<(PathBuf, &'static [&'static str])>,
}

/// Running tunnels; they end when this is dropped.
pub(crate) struct Running(Vec<Child>);

impl Implementation {
    pub(crate) fn all() -> Vec<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
            PathBuf::from,
        );
        let bin = cache.join("selvedge/bin");
        let before = std::env::var_os("BENCH_BEFORE")
            .map(|program| Self { name: "selvedge before", command: Some((program.into(), &["tunnel"])) });
        let mut all = vec![
            Self { name: "selvedge", command: Some((env!("CARGO_BIN_EXE_selvedge").into(), &["tunnel"])) },
            Self { name: "wireguard-go", command: Some((bin.join("wireguard-go"), &["-f"])) },
            Self {
                name: "boringtun-cli",
                command: Some((bin.join("boringtun-cli"), &["-f", "--disable-drop-privileges"])),
            },
            Self { name: "bare veth", command: None },
        ];
        all.extend(before);
        all
    }

    /// Starts a tunnel in each namespace, configures both and brings them up.
    pub(crate) fn start(&self, network: &Network) -> anyhow::Result<Running> {
        let mut running = Running(Vec::new());
        let Some((program, arguments)) = &self.command else { return Ok(running) };
        let keys = [PrivateKey::generate()?, PrivateKey::generate()?];
        for (ns, device) in network.ends().into_iter().zip(DEVICES) {
            let socket = PathBuf::from(UAPI).join(format!("{device}.sock"));
            let _ = std::fs::remove_file(&socket);
            let mut command = Command::new(program);
            command.args(*arguments).arg(device).env("LOG_LEVEL", "error");
            command.stdin(Stdio::null()).stdout(Stdio::null());
            if std::env::var_os("BENCH_VERBOSE").is_none() {
                command.stderr(Stdio::null());
            }
            let child = ns.run(|| command.spawn())?;
            running.0.push(child.with_context(|| format!("starting {}", program.display()))?);
        }
        for own in 0..2 {
            configure(own, &keys)?;
        }
        network.bring_up_tunnels()?;
        Ok(running)
    }
}

/// Tells one tunnel of the other.
fn configure(own: usize, keys: &[PrivateKey; 2]) -> anyhow::Result<()> {
    let other = 1 - own;
    let path = PathBuf::from(UAPI).join(format!("{}.sock", DEVICES[own]));
    let mut stream = connect(&path)?;
    let request = format!(
        "set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={}\nendpoint={}:{PORT}\n\
         replace_allowed_ips=true\nallowed_ip={}/32\n\n",
        hex(keys[own].as_bytes()),
        hex(keys[other].public_key().to_dalek().as_bytes()),
        OUTER[other],
        INNER[other],
    );
    stream.write_all(request.as_bytes())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    let mut bytes = [0; 256];
    while !answer.contains("errno=") {
        let count = stream.read(&mut bytes).context("waiting for the answer to set=1")?;
        ensure!(count > 0, "no answer to set=1, only {answer:?}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    let _ = stream.shutdown(Shutdown::Both);
    ensure!(answer.contains("errno=0"), "set=1 was refused: {answer:?}");
    Ok(())
}

fn connect(path: &std::path::Path) -> anyhow::Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                bail!("no UAPI socket {} within {PATIENCE:?}: {error}", path.display())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
