//! `selvedge support bundle`: what is in it, and that no secret is.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use selvedge_keys::{KeyStore, PrivateKey};
use selvedge_lab::isolated;
use serde_json::{Value, json};

use crate::host::Host;

const JWT: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
const PEM: &str =
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIPlantedPlantedPlantedPlanted\n-----END EC PRIVATE KEY-----\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A host with keys of two epochs; the private ones.
fn with_keys(host: &Host) -> Vec<PrivateKey> {
    let store = KeyStore::open(host.path("/var/lib/selvedge/keys")).unwrap();
    let now = jiff::Timestamp::now();
    vec![store.ensure(now).unwrap().private_key, store.create(2, now).unwrap().private_key]
}

/// Plants each secret in each form in what the bundle takes its files from.
fn plant(host: &Host, keys: &[PrivateKey]) {
    let [first, second] = keys else { panic!("two keys") };
    let base64 = STANDARD.encode(first.as_bytes());
    // Messages about a configuration quote what is wrong in it.
    let quoted = URL_SAFE_NO_PAD.encode(second.as_bytes());
    host.write("/etc/selvedge/config.toml", &format!("nodeName = \"{quoted}\"\nlocation = \"{base64}\"\n"));
    host.write(
        "/var/lib/selvedge/records.json",
        &json!({ "note": JWT, "pem": PEM, "key": hex(first.as_bytes()) }).to_string(),
    );
    let nested = STANDARD.encode(format!("{{\"nested\": \"{base64}\"}}"));
    host.write(
        "/var/lib/selvedge/node.json",
        &json!({ "nested": nested, "upper": hex(second.as_bytes()).to_uppercase() }).to_string(),
    );
    let numbers = second.as_bytes().to_vec();
    host.write("/run/selvedge/tunnel-selvedge0.json", &json!({ "bytes": numbers }).to_string());
    let raw = [b"before ", &first.as_bytes()[..], b" behind", &second.as_bytes()[..]].concat();
    std::fs::write(host.path("/proc/net/snmp"), raw).unwrap();
    host.write("/proc/net/netstat", &format!("private_key={}\nBearer {JWT}\n", hex(first.as_bytes())));
    // A runtime cuts long lines.
    let (one, other) = base64.split_at(20);
    host.write(
        "/var/log/pods/selvedge-system_selvedge-agent-x7k2p_1/agent/0.log",
        &format!("2026-11-26T09:00:00Z stderr P key {one}\n2026-11-26T09:00:00Z stderr F {other} behind\n"),
    );
    let numbers = first.as_bytes().map(|byte| format!("{byte:02x}"));
    let wrapped = STANDARD.encode(PEM);
    host.write(
        "/proc/net/sockstat",
        &format!("[{}] \\x{} {wrapped}\n", numbers.join(", "), numbers.join("\\x")),
    );
}

/// Answers every request on a unix socket with `body`, for as long as the test runs.
fn answer(socket: &Path, body: String) {
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
}

/// Every form in which a key could stand in a file, that is a text.
fn forms(key: &PrivateKey) -> Vec<Vec<u8>> {
    let bytes = key.as_bytes();
    let list = |separator: &str| bytes.map(|byte| byte.to_string()).join(separator);
    let mut forms = vec![
        bytes.to_vec(),
        STANDARD.encode(bytes).as_bytes()[..43].to_vec(),
        URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        hex(bytes).into_bytes(),
        hex(bytes).to_uppercase().into_bytes(),
        list(",").into_bytes(),
        list(", ").into_bytes(),
        list(",\n    ").into_bytes(),
    ];
    let hexes = |separator: &str| bytes.map(|byte| format!("{byte:02x}")).join(separator);
    forms.extend([", ", ",", ":", " ", "\\x", ",0x", ", 0x"].map(|separator| hexes(separator).into_bytes()));
    // Inside something that is base64 again.
    let text = STANDARD.encode(bytes);
    for outer in 0..3 {
        let wrapped = STANDARD.encode([&b"xyz"[..outer], text.as_bytes()].concat());
        forms.push(wrapped.as_bytes()[4..52].to_vec());
    }
    forms
}

pub(crate) fn assert_clean(files: &BTreeMap<String, Vec<u8>>, keys: &[PrivateKey]) {
    let has = |content: &[u8], what: &[u8]| content.windows(what.len()).any(|window| window == what);
    for (name, content) in files {
        for key in keys {
            for (number, form) in forms(key).iter().enumerate() {
                assert!(!has(content, form), "{name} holds a private key in form {number}");
            }
        }
        assert!(!has(content, &JWT.as_bytes()[..40]), "{name} holds a token");
        assert!(!has(content, b"PlantedPlanted"), "{name} holds a PEM key");
        let inside = STANDARD.encode(PEM);
        assert!(!has(content, &inside.as_bytes()[..40]), "{name} holds a PEM key inside base64");
    }
}

fn unpack(archive: impl Read) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = BTreeMap::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(name, content);
    }
    files
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn bundle(host: &Host, output: &str) -> std::process::Output {
    let root = host.root().to_str().unwrap();
    host.selvedge(&["support", "bundle", "--offline", "--root", root, "--output", output])
}

#[test]
fn no_planted_secret_comes_through_in_any_form() {
    isolated!(|| {
        let host = Host::new();
        let keys = with_keys(&host);
        plant(&host, &keys);
        let base64 = STANDARD.encode(keys[0].as_bytes());
        answer(
            &host.path("/run/selvedge/agent.sock"),
            json!({ "problems": [base64, JWT, PEM], "bytes": keys[0].as_bytes() }).to_string(),
        );
        let output = bundle(&host, "b.tar.gz");
        assert!(output.status.success(), "{output:?}");
        let archive = host.path("/b.tar.gz");
        assert_eq!(mode(&archive), 0o600);
        let files = unpack(std::fs::File::open(&archive).unwrap());
        assert_clean(&files, &keys);
        // What was planted was there to be found: most files tell of it.
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let listed = manifest["files"].as_array().unwrap();
        let redacted = |name: &str| {
            let file = listed.iter().find(|file| file["name"] == name);
            file.unwrap_or_else(|| panic!("no {name} in {manifest:#}"))["redacted"].as_u64().unwrap()
        };
        for name in ["records.json", "node.json", "tunnel-config.json", "agent-status.json", "doctor.json"] {
            assert!(redacted(name) > 0, "{name} in {manifest:#}");
        }
        assert_eq!((redacted("counters-snmp.txt"), redacted("key-store.json")), (2, 0));
        let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
        assert_eq!(text("log-selvedge-agent-x7k2p_agent.txt"), "key [redacted] behind\n");
        assert_eq!(text("counters-snmp.txt"), "before [redacted] behind[redacted]");
        assert!(text("key-store.json").contains("epoch-1") && text("key-store.json").contains("0600"));
        let said = [("stdout".to_owned(), output.stdout), ("stderr".to_owned(), output.stderr)];
        assert_clean(&said.into(), &keys);
    });
}

#[test]
fn a_bundle_of_a_bare_host_says_what_it_lacks() {
    isolated!(|| {
        let host = Host::new();
        let output = bundle(&host, "folder");
        assert!(output.status.success(), "{output:?}");
        let folder = host.path("/folder");
        assert_eq!(mode(&folder), 0o700);
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        for name in
            ["version.json", "doctor.json", "nftables.txt", "network.txt", "sysctls.json", "manifest.json"]
        {
            assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
        }
        assert!(read("nftables.txt").contains("table inet selvedge-guard is not there"));
        let doctor: Value = serde_json::from_str(&read("doctor.json")).unwrap();
        assert_eq!(doctor["installed"], false);
        let manifest: Value = serde_json::from_str(&read("manifest.json")).unwrap();
        let missing = manifest["missing"].as_array().unwrap();
        let why = |what: &str| {
            let found = missing.iter().find(|missing| missing["what"] == what);
            found.unwrap_or_else(|| panic!("{what} in {manifest:#}"))["why"].as_str().unwrap().to_owned()
        };
        assert!(why("agent-status.json").contains("nothing answers on"));
        assert!(why("metrics.txt").contains("no agent at 127.0.0.1:51831"));
        assert!(why("events.json").contains("left out"));
        assert!(why("logs").contains("/var/log/pods"));
        assert!(why("config.json").contains("required but not set"));
        // Nothing is overwritten.
        let again = bundle(&host, "folder");
        assert_eq!(again.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&again.stderr).contains("choose another --output"), "{again:?}");
        // In a container that has no place for it, and no tar.
        let piped = bundle(&host, "-");
        assert!(piped.status.success(), "{piped:?}");
        assert!(String::from_utf8_lossy(&piped.stderr).starts_with("wrote standard output: "), "{piped:?}");
        assert!(unpack(&piped.stdout[..]).contains_key("manifest.json"));
    });
}
