//! The real program, and the two sockets it is talked to by.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use selvedge::local::Client;
use selvedge_keys::{PrivateKey, PublicKey};

use super::{Host, RUNTIME, SOON, until};

/// Where `wg` looks for sockets.
pub(crate) const UAPI: &str = "/var/run/wireguard";

/// A running `selvedge tunnel`. Killed when dropped.
pub(crate) struct Tunnel {
    pub(crate) name: String,
    pub(crate) child: Child,
    pub(crate) run: PathBuf,
    log: PathBuf,
}

/// Something that listens on a UAPI socket.
pub(crate) struct Uapi(pub(crate) PathBuf);

pub(crate) fn program(name: &str, arguments: &[&str]) -> Command {
    let run = run_folder(name);
    std::fs::create_dir_all(&run).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["tunnel", name]).args(arguments);
    command.env("SELVEDGE_RUN_DIR", &run).env("SELVEDGE_UAPI_DIR", UAPI).env("SELVEDGE_LOG", "debug");
    command.stdin(Stdio::null());
    command
}

fn run_folder(name: &str) -> PathBuf {
    Path::new("/run").join(format!("selvedge-{name}"))
}

impl Tunnel {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(host: &Host, name: &str, arguments: &[&str]) -> Self {
        let tunnel = Self::start_unready(host, name, arguments);
        tunnel.wait_ready();
        tunnel
    }

    pub(crate) fn start_unready(host: &Host, name: &str, arguments: &[&str]) -> Self {
        Self::start_beside(host, name, arguments, "log")
    }

    /// As [`Tunnel::start_unready`], with a log of its own in the file `log`.
    pub(crate) fn start_beside(host: &Host, name: &str, arguments: &[&str], log: &str) -> Self {
        let run = run_folder(name);
        let mut command = program(name, arguments);
        let log = run.join(log);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        command.stderr(file);
        let child = host.spawn(&mut command);
        Self { name: name.into(), child, run, log }
    }

    pub(crate) fn wait_ready(&self) {
        let what = format!("{} answers on its UAPI socket", self.name);
        until(&what, SOON, || self.uapi().try_ask("get=1\n\n").filter(|answer| answer.contains("errno=0")));
    }

    pub(crate) fn uapi(&self) -> Uapi {
        Uapi(Path::new(UAPI).join(format!("{}.sock", self.name)))
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.run.join(format!("tunnel-{}.sock", self.name)))
    }

    pub(crate) fn status(&self) -> selvedge::tunnel::api::DeviceStatus {
        RUNTIME.block_on(self.client().get("/v1/status")).unwrap()
    }

    pub(crate) fn kept_config(&self) -> PathBuf {
        self.run.join(format!("tunnel-{}.json", self.name))
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn clear_log(&self) {
        std::fs::write(&self.log, "").unwrap();
    }

    /// The worker process: the one whose parent is ours.
    pub(crate) fn worker(&self) -> Pid {
        until("the parent has a worker", SOON, || child_of(self.child.id()))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the tunnel ends", SOON, || child.try_wait().unwrap())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("--- log of {}:\n{}", self.name, self.log());
        }
    }
}

fn child_of(parent: u32) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // "PID (name) STATE PPID ..."; a zombie is no worker.
            let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            words.next().is_some_and(|state| state != "Z") && words.next() == Some(&parent.to_string())
        })
        .map(Pid::from_raw)
}

impl Uapi {
    /// Sends one request and gives the whole answer.
    pub(crate) fn ask(&self, request: &str) -> String {
        self.try_ask(request).unwrap_or_else(|| panic!("no answer on {}", self.0.display()))
    }

    pub(crate) fn try_ask(&self, request: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.0).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.ok()?;
            if line.is_empty() {
                return Some(answer);
            }
            writeln!(answer, "{line}").unwrap();
        }
        None
    }

    /// Sends a `set` that must be accepted.
    pub(crate) fn set(&self, lines: &str) {
        let answer = self.ask(&format!("set=1\n{lines}\n\n"));
        assert_eq!(answer, "errno=0\n", "{lines}");
    }

    /// The value of `key` in the answer to `get`.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let answer = self.try_ask("get=1\n\n")?;
        let found = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(found.to_owned())
    }
}

/// A key pair.
pub(crate) struct Keys {
    pub(crate) private: PrivateKey,
    pub(crate) public: PublicKey,
}

impl Keys {
    pub(crate) fn generate() -> Self {
        let private = PrivateKey::generate().unwrap();
        let public = private.public_key();
        Self { private, public }
    }

    pub(crate) fn private_hex(&self) -> String {
        hex(self.private.as_bytes())
    }

    pub(crate) fn public_hex(&self) -> String {
        hex(self.public.as_bytes())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Sets up two devices as each other's only peer, with the addresses 10.9.0.1 and .2, fd09::1 and ::2 inside.
pub(crate) struct Pair {
    pub(crate) a: Side,
    pub(crate) b: Side,
}

/// One side of a [`Pair`].
pub(crate) struct Side {
    pub(crate) keys: Keys,
    pub(crate) port: u16,
    pub(crate) number: u8,
    pub(crate) device: String,
    /// Further lines for its peer to have about it.
    pub(crate) more: String,
}

impl Side {
    fn new(number: u8, device: &str) -> Self {
        Self {
            keys: Keys::generate(),
            port: 51800 + u16::from(number),
            number,
            device: device.into(),
            more: String::new(),
        }
    }

    /// Where its tunnel listens.
    pub(crate) fn endpoint(&self, v6: bool) -> String {
        let Self { number, port, .. } = self;
        if v6 { format!("[2001:db8::{number}]:{port}") } else { format!("192.0.2.{number}:{port}") }
    }

    /// Its address inside the tunnel.
    pub(crate) fn inside(&self, v6: bool) -> std::net::IpAddr {
        let text = if v6 { format!("fd09::{}", self.number) } else { format!("10.9.0.{}", self.number) };
        text.parse().unwrap()
    }

    /// The lines that make it a peer: key, allowed IPs and, if given, endpoint.
    pub(crate) fn as_peer(&self, endpoint: Option<String>) -> String {
        let mut lines = format!("public_key={}\nreplace_allowed_ips=true\n", self.keys.public_hex());
        for v6 in [false, true] {
            let length = if v6 { 128 } else { 32 };
            writeln!(lines, "allowed_ip={}/{length}", self.inside(v6)).unwrap();
        }
        if let Some(endpoint) = endpoint {
            writeln!(lines, "endpoint={endpoint}").unwrap();
        }
        lines += &self.more;
        lines.trim_end().to_owned()
    }

    /// The lines that set up its own side.
    pub(crate) fn as_self(&self) -> String {
        format!("private_key={}\nlisten_port={}", self.keys.private_hex(), self.port)
    }

    /// Gives the device its addresses and brings it up.
    pub(crate) fn bring_up(&self, host: &Host) {
        host.address(&self.device, &format!("{}/24", self.inside(false)));
        host.address(&self.device, &format!("{}/64", self.inside(true)));
        host.up(&self.device);
    }
}

impl Pair {
    pub(crate) fn new(a: &str, b: &str) -> Self {
        Self { a: Side::new(1, a), b: Side::new(2, b) }
    }

    /// Configures both over UAPI and brings the devices up. Only the side that `a_starts` names knows where the
    /// other is, and is set up last, so that it starts the handshake and nobody has to wait for a second one.
    pub(crate) fn set_up(
        &self,
        (host_a, uapi_a): (&Host, &Uapi),
        (host_b, uapi_b): (&Host, &Uapi),
        v6: bool,
        a_starts: bool,
    ) {
        let set_a = |endpoint| uapi_a.set(&format!("{}\n{}", self.a.as_self(), self.b.as_peer(endpoint)));
        let set_b = |endpoint| uapi_b.set(&format!("{}\n{}", self.b.as_self(), self.a.as_peer(endpoint)));
        if a_starts {
            set_b(None);
            self.b.bring_up(host_b);
            set_a(Some(self.b.endpoint(v6)));
            self.a.bring_up(host_a);
        } else {
            set_a(None);
            self.a.bring_up(host_a);
            set_b(Some(self.a.endpoint(v6)));
            self.b.bring_up(host_b);
        }
    }
}
