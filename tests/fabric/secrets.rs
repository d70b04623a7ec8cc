//! Where a node's private key is to be found, in any form, while it is in use and once it is not: nowhere but in the key
//! store and in the memory of the tunnel's worker.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use selvedge::local::Client;
use selvedge::mesh::annotation::{KEY_EPOCH, PUBLIC_KEY};
use selvedge::tunnel::api::{DeviceConfig, DeviceStatus, PeerState};
use selvedge_keys::{KeyStore, PrivateKey};
use selvedge_lab::api::resource::{self, NODES};
use selvedge_lab::isolated;
use selvedge_lab::lab::{Lab, logs};
use selvedge_lab::node::{Node, environment};
use selvedge_lab::plan::Families;
use selvedge_lab::process::{children, wait_for};
use selvedge_lab::traffic::Ping;
use serde_json::json;

use crate::cluster::lab;

const SOON: Duration = Duration::from_secs(30);
const CHUNK: usize = 1 << 20;

/// The forms in which a secret is looked for.
struct Needles(Vec<(&'static str, Vec<u8>)>);

impl Needles {
    fn of(key: &PrivateKey) -> Self {
        let bytes = key.as_bytes();
        let hex = |upper: bool| {
            bytes
                .map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") })
                .concat()
                .into_bytes()
        };
        let list = |separator: &str| bytes.map(|byte| byte.to_string()).join(separator).into_bytes();
        Self(vec![
            ("raw", bytes.to_vec()),
            // What is left of a copy that was overwritten in part.
            ("first half", bytes[..16].to_vec()),
            ("second half", bytes[16..].to_vec()),
            ("hexadecimal", hex(false)),
            ("hexadecimal", hex(true)),
            ("base64", STANDARD.encode(bytes).into_bytes()),
            ("base64 for URLs", URL_SAFE.encode(bytes).into_bytes()),
            ("list", list(",")),
            ("list", list(", ")),
        ])
    }

    /// The forms that are in `bytes`.
    fn in_bytes(&self, bytes: &[u8]) -> Vec<&'static str> {
        let found = self.0.iter().filter(|(_, form)| memchr::memmem::find(bytes, form).is_some());
        found.map(|(name, _)| *name).collect()
    }

    /// The places in a process's memory that hold it.
    fn in_memory(&self, pid: Pid) -> Vec<String> {
        let found = regions(pid).into_iter().flat_map(|(name, bytes)| {
            let forms = self.in_bytes(&bytes);
            forms.into_iter().map(move |form| format!("{form} in {name}"))
        });
        found.collect()
    }

    /// The files below `folder` that hold it.
    fn in_files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                found.extend(self.in_files(&path));
            } else if kind.is_file() && !self.in_bytes(&std::fs::read(&path).unwrap()).is_empty() {
                found.push(path);
            }
        }
        found
    }
}

/// All that a process can write to, while it stands still.
fn regions(pid: Pid) -> Vec<(String, Vec<u8>)> {
    kill(pid, Signal::SIGSTOP).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let regions =
        maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.starts_with("rw")));
    let regions = regions.map(|line| {
        let range = line.split_whitespace().next().unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        for (chunk, at) in bytes.chunks_mut(CHUNK).zip((start..end).step_by(CHUNK)) {
            // Device memory cannot be read, and is not where a key is.
            let _ = memory.read_exact_at(chunk, at);
        }
        (line.to_owned(), bytes)
    });
    let regions = regions.collect();
    kill(pid, Signal::SIGCONT).unwrap();
    regions
}

/// The worker of a node's tunnel.
fn worker(node: &Node) -> Pid {
    let pid = node.tunnel.pid().unwrap();
    let mut found = Vec::new();
    wait_for("a worker", SOON, || {
        found = children(pid);
        found.len() == 1
    })
    .unwrap();
    found[0]
}

fn store(node: &Node) -> KeyStore {
    KeyStore::open(node.disk().join("state/keys")).unwrap()
}

/// Everything that a node says to whoever asks, by what was asked.
fn answers(lab: &Lab, node: &Node) -> BTreeMap<String, Vec<u8>> {
    let run = PathBuf::from(format!("/proc/{}/root/run", node.tunnel.pid().unwrap()));
    let mut answers = BTreeMap::new();
    for (socket, paths) in [
        ("agent.sock", &["/v1/status"][..]),
        ("tunnel-selvedge0.sock", &["/v1/status", "/v1/config", "/v1/peers/node1", "/v1/peers/node2"]),
    ] {
        let client = Client::new(&run.join("selvedge").join(socket));
        for path in paths {
            let answer = lab.runtime().block_on(client.get_text(path));
            let answer = answer.unwrap_or_else(|error| error.to_string());
            answers.insert(format!("{socket} {path}"), answer.into_bytes());
        }
    }
    let mut uapi = UnixStream::connect(run.join("wireguard/selvedge0.sock")).unwrap();
    uapi.set_read_timeout(Some(SOON)).unwrap();
    uapi.write_all(b"get=1\n\n").unwrap();
    uapi.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    uapi.read_to_end(&mut answer).unwrap();
    answers.insert("UAPI get".into(), answer);
    for args in [
        &["status", "--output", "json"][..],
        &["status"],
        &["doctor", "--output", "json"],
        &["support", "bundle", "--output", "-"],
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(args).envs(environment()).stdin(std::process::Stdio::null());
        let output = node.space().place(&mut command).output().unwrap();
        assert!(output.stdout.len() > 100, "{args:?} says little: {output:?}");
        let name = args.join(" ");
        answers.insert(format!("{name}, errors"), output.stderr);
        answers.insert(name, output.stdout);
    }
    let bundle = answers.remove("support bundle --output -").unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&bundle[..]).read_to_end(&mut tar).unwrap();
    answers.insert("support bundle".into(), tar);
    answers
}

/// The processes of a node that have no business with its private key.
fn others(node: &Node) -> [(&'static str, Pid); 2] {
    [("the agent", node.agent.pid().unwrap()), ("the tunnel's parent", node.tunnel.pid().unwrap())]
}

/// Nobody but the worker holds it in memory, and nobody says it.
fn is_kept(lab: &Lab, node: &Node, key: &Needles) {
    for (who, pid) in others(node) {
        assert_eq!(key.in_memory(pid), [""; 0], "{who} of {} has the key in memory", node.name());
    }
    for (what, answer) in answers(lab, node) {
        assert_eq!(key.in_bytes(&answer), [""; 0], "{what} on {} shows the key", node.name());
    }
    for resource in resource::ALL {
        for object in lab.store().list(resource, None).1 {
            let text = object.to_string();
            assert_eq!(key.in_bytes(text.as_bytes()), [""; 0], "{} show the key", resource.plural);
        }
    }
}

/// Waits until a node uses keys of this epoch or a later one, and its peers have confirmed them.
fn uses(lab: &Lab, node: &Node, least: u64) -> u64 {
    let socket = format!("/proc/{}/root/run/selvedge/tunnel-selvedge0.sock", node.tunnel.pid().unwrap());
    let client = Client::new(Path::new(&socket));
    let mut epoch = 0;
    let waited = wait_for(&format!("{} to use keys of epoch {least}", node.name()), SOON, || {
        let config = lab.runtime().block_on(client.get::<DeviceConfig>("/v1/config"));
        let status = lab.runtime().block_on(client.get::<DeviceStatus>("/v1/status"));
        let (Ok(config), Ok(status)) = (config, status) else { return false };
        let [identity] = &config.identities[..] else { return false };
        epoch = identity.epoch;
        epoch >= least && status.peers.iter().all(|peer| peer.state == PeerState::Established)
    });
    waited.unwrap_or_else(|why| panic!("{why}\n{}", logs(node)));
    epoch
}

#[test]
fn a_private_key_is_nowhere_but_in_the_store_and_the_worker() {
    isolated!(|| {
        let lab = lab(Families::Dual, 2);
        let (near, _) = lab.create_pod("near", "node1", &[("main", 8080)]).unwrap();
        let (_, far) = lab.create_pod("far", "node2", &[("main", 8080)]).unwrap();
        let ping = Ping::start(&near, far[0], Duration::from_millis(2), lab.canary()).unwrap();
        wait_for("answers", SOON, || ping.received() > 100).unwrap();
        let node = &lab.nodes()[0];
        let epoch = uses(&lab, node, 1);
        let first = Needles::of(&store(node).load(epoch).unwrap().private_key);
        // The positive control: where it is, it is found.
        let held = first.in_memory(worker(node));
        println!("epoch {epoch}, in use: {held:#?}");
        assert!(held.iter().any(|place| place.starts_with("raw")), "the worker uses the key");
        is_kept(&lab, node, &first);
        let file = |epoch: u64| node.disk().join(format!("state/keys/epoch-{epoch}"));
        assert_eq!(first.in_files(&lab.options().folder), [file(epoch)]);

        // Somebody else's key on its Node object makes it take a newer one of its own.
        let foreign = PrivateKey::generate().unwrap().public_key().to_string();
        let annotations = json!({PUBLIC_KEY: foreign, KEY_EPOCH: (epoch + 1).to_string()});
        lab.store()
            .patch(&NODES, "", node.name(), &json!({"metadata": {"annotations": annotations}}))
            .unwrap();
        let next = uses(&lab, node, epoch + 1);
        let second = Needles::of(&store(node).load(next).unwrap().private_key);
        let before = ping.received();
        wait_for("answers with the new key", SOON, || ping.received() > before + 100).unwrap();
        let held = second.in_memory(worker(node));
        assert!(held.iter().any(|place| place.starts_with("raw")), "the worker uses the new key");
        is_kept(&lab, node, &second);
        is_kept(&lab, node, &first);
        // Each of the worker's threads takes the configuration for itself.
        let gone = wait_for("the key to be gone", SOON, || first.in_memory(worker(node)).is_empty());
        gone.unwrap_or_else(|why| {
            panic!("{why}: the worker still has it at {:#?}", first.in_memory(worker(node)))
        });
        assert_eq!(second.in_files(&lab.options().folder), [file(next)]);
        store(node).retire(epoch).unwrap();
        assert_eq!(first.in_files(&lab.options().folder), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_secret_is_found_in_every_form() {
    let key = PrivateKey::generate().unwrap();
    let needles = Needles::of(&key);
    for (name, form) in &needles.0 {
        let text = [b"before ", &form[..], b" behind"].concat();
        assert!(needles.in_bytes(&text).contains(name), "{name}");
    }
    let other = STANDARD.encode(PrivateKey::generate().unwrap().as_bytes());
    assert_eq!(needles.in_bytes(other.as_bytes()), [""; 0]);
}
