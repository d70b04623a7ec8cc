//! `wg-quick`, with our tunnel as `WG_QUICK_USERSPACE_IMPLEMENTATION`.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use selvedge_lab::isolated;
use selvedge_lab::traffic::{Canary, Ping};

use crate::MS;
use crate::peer::wg;
use crate::support::tunnel::{Keys, Pair, Tunnel, UAPI};
use crate::support::{Host, SOON, until, wire};

const PROGRAM: &str = "/run/bin/selvedge-wireguard";
const FILE: &str = "/run/quick/wgq.conf";

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Runs a program until it and all that holds its output have ended; what it wrote.
fn run(host: &Host, program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).env("WG_QUICK_USERSPACE_IMPLEMENTATION", PROGRAM).stdin(Stdio::null());
    let output = host.run(|| command.output()).unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    if output.status.success() { Ok(out) } else { Err(format!("{out}{err}")) }
}

fn quick(host: &Host, verb: &str) -> String {
    run(host, "wg-quick", &[verb, FILE]).unwrap_or_else(|error| panic!("wg-quick {verb}: {error}"))
}

/// Whether this kernel has WireGuard, which `wg-quick` then uses.
fn kernel_has_wireguard(host: &Host) -> bool {
    run(host, "ip", &["link", "add", "probe", "type", "wireguard"]).is_ok()
}

fn configuration(pair: &Pair) -> String {
    format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51801\nAddress = 10.9.0.1/24, fd09::1/64\nSaveConfig = true\n\n\
         [Peer]\nPublicKey = {}\nPresharedKey = {}\nAllowedIPs = 10.9.0.2/32, fd09::2/128\n\
         Endpoint = 192.0.2.2:51802\n",
        base64(pair.a.keys.private.as_bytes()),
        pair.b.keys.public,
        base64(&[0x5a; 32])
    )
}

/// The lines of the saved file, sorted, without the empty ones.
fn saved() -> Vec<String> {
    let text = std::fs::read_to_string(FILE).unwrap();
    let mut lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn wg_quick_brings_it_up_saves_its_configuration_with_the_keys_and_takes_it_down() {
    isolated!(|| {
        let (a, b) = wire();
        if kernel_has_wireguard(&a) {
            println!("wg-quick uses this kernel's own WireGuard: nothing of ours to be seen");
            return;
        }
        std::fs::create_dir_all("/run/bin").unwrap();
        std::fs::create_dir_all("/run/quick").unwrap();
        symlink(env!("CARGO_BIN_EXE_selvedge"), PROGRAM).unwrap();
        let mut pair = Pair::new("wgq", "wgb");
        pair.a.more = format!("preshared_key={}", "5a".repeat(32));
        let theirs = Tunnel::start(&b, "wgb", &[]);
        theirs.uapi().set(&format!("{}\n{}", pair.b.as_self(), pair.a.as_peer(None)));
        pair.b.bring_up(&b);
        std::fs::write(FILE, configuration(&pair)).unwrap();
        std::fs::set_permissions(FILE, Permissions::from_mode(0o600)).unwrap();
        let canary = Canary::random().unwrap();
        let reaches = || {
            for v6 in [false, true] {
                let ping = Ping::start(&a.ns, pair.b.inside(v6), 20 * MS, &canary).unwrap();
                until("a ping gets through", SOON, || (ping.received() > 2).then_some(()));
            }
        };

        // It returns although the tunnel runs on, so that holds no output of it.
        quick(&a, "up");
        assert!(wg(&a, &["show", "interfaces"]).unwrap().contains("wgq"), "it can be configured at once");
        reaches();
        quick(&a, "save");
        let first = saved();
        let text = first.join("\n");
        for line in configuration(&pair).lines().filter(|line| line.contains("Key = ")) {
            assert!(first.iter().any(|saved| saved == line), "{line} is missing in\n{text}");
        }
        let addresses: Vec<_> = first.iter().filter(|line| line.starts_with("Address = ")).collect();
        assert_eq!(addresses, ["Address = 10.9.0.1/24", "Address = fd09::1/64"], "no others: {text}");

        let other = Keys::generate().public.to_string();
        wg(&a, &["set", "wgq", "peer", &other, "allowed-ips", "10.7.0.0/16"]).unwrap();
        let ping = Ping::start(&a.ns, pair.b.inside(false), 5 * MS, &canary).unwrap();
        until("the ping runs", SOON, || (ping.received() > 20).then_some(()));
        let stripped = quick(&a, "strip");
        assert!(!stripped.contains("Address") && !stripped.contains("SaveConfig"), "{stripped}");
        std::fs::write("/run/quick/stripped", stripped).unwrap();
        wg(&a, &["syncconf", "wgq", "/run/quick/stripped"]).unwrap();
        assert!(!wg(&a, &["show", "wgq", "peers"]).unwrap().contains(&other), "as the file says");
        let before = ping.received();
        until("the ping goes on", SOON, || (ping.received() > before + 20).then_some(()));
        assert_eq!(ping.stop().lost(), 0, "the session stays");

        // What `down` saves is what `up` needs, also with a peer more.
        wg(&a, &["set", "wgq", "peer", &other, "allowed-ips", "10.7.0.0/16"]).unwrap();
        for _ in 0..2 {
            quick(&a, "down");
            assert_eq!(a.link("wgq"), None);
            let socket = Path::new(UAPI).join("wgq.sock");
            until("the tunnel has ended", SOON, || (!socket.exists()).then_some(()));
            let mode = std::fs::metadata(FILE).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let mut lines = saved();
            lines.retain(|line| !line.contains(&other) && line != "AllowedIPs = 10.7.0.0/16");
            lines.dedup_by(|one, same| one == "[Peer]" && same == "[Peer]");
            assert_eq!(lines, first, "nothing is lost and nothing is added");
            assert!(saved().iter().any(|line| line.contains(&other)));
            quick(&a, "up");
            reaches();
        }
        quick(&a, "down");

        let refused = run(&a, PROGRAM, &["lo"]).unwrap_err();
        assert!(refused.contains("delete it or choose another name"), "why it did not start: {refused}");
    });
}
