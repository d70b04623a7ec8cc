//! `selvedge tunnel`: the real program in namespaces of its own, standalone and managed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

mod handover;
mod load;
mod managed;
mod mtu;
mod nat;
mod source;
#[path = "../support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use managed::Managed;
use nix::sys::signal::{Signal, kill};
use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::link::{Id, delete};
use selvedge::local::ClientError;
use selvedge::tunnel::api::{
    Applied, DeviceConfig, DeviceStatus, Event, IdentityConfig, PeerConfig, PeerKeyConfig, PeerState,
};
use selvedge_lab::isolated;
use selvedge_lab::trace::{Call, trace};
use selvedge_lab::traffic::{Canary, Ping, Server, ask, ask_udp, upload};
use support::tunnel::{Keys, Pair, Tunnel, hex, program};
use support::{Host, RUNTIME, SOON, until, wire};

const MS: Duration = Duration::from_millis(1);

/// Two standalone tunnels, set up and in contact.
struct Standalone {
    pair: Pair,
    a: (Host, Tunnel),
    b: (Host, Tunnel),
    canary: Canary,
}

impl Standalone {
    fn new(v6: bool) -> Self {
        let (host_a, host_b) = wire();
        let pair = Pair::new("wga", "wgb");
        let a = Tunnel::start(&host_a, "wga", &[]);
        let b = Tunnel::start(&host_b, "wgb", &[]);
        pair.set_up((&host_a, &a.uapi()), (&host_b, &b.uapi()), v6, true);
        Self { pair, a: (host_a, a), b: (host_b, b), canary: Canary::random().unwrap() }
    }

    fn reaches(&self, to: IpAddr) {
        pings(&self.a.0, to, &self.canary);
    }
}

fn pings(from: &Host, to: IpAddr, canary: &Canary) {
    let ping = Ping::start(&from.ns, to, 20 * MS, canary).unwrap();
    until(&format!("{to} answers a ping"), SOON, || (ping.received() > 2).then_some(()));
}

#[test]
fn standalone_tunnels_carry_everything_both_families_inside_and_outside() {
    isolated!(|| {
        for outer_v6 in [false, true] {
            let net = Standalone::new(outer_v6);
            let server = Server::start(&net.b.0.ns, "b", &[0], &net.canary).unwrap();
            for inner_v6 in [false, true] {
                let (own, to) = (net.pair.a.inside(inner_v6), net.pair.b.inside(inner_v6));
                net.reaches(to);
                let to = SocketAddr::new(to, server.ports()[0]);
                let from = &net.a.0.ns;
                assert_eq!(ask_udp(from, to, &net.canary, SOON).unwrap().told.source.ip(), own);
                assert_eq!(ask(from, to, &net.canary).unwrap().told.source.ip(), own);
                let bulk = upload(from, to, 8 << 20, &net.canary, &mut || ()).unwrap();
                assert_eq!((bulk.bytes, &bulk.sent), (8 << 20, &bulk.received), "outer v6: {outer_v6}");
            }
            let rx: u64 = net.b.1.uapi().get("rx_bytes").unwrap().parse().unwrap();
            assert!(rx > 16 << 20, "UAPI counts what came: {rx}");
            assert_ne!(net.a.1.uapi().get("last_handshake_time_sec").unwrap(), "0");
        }
    });
}

#[test]
fn killing_a_worker_costs_less_than_a_second() {
    isolated!(|| {
        let net = Standalone::new(false);
        let to = net.pair.b.inside(false);
        net.reaches(to);
        for (side, tunnel) in [("sender", &net.a.1), ("receiver", &net.b.1)] {
            let ping = Ping::start(&net.a.0.ns, to, MS, &net.canary).unwrap();
            until("the ping runs", SOON, || (ping.received() > 200).then_some(()));
            let worker = tunnel.worker();
            kill(worker, Signal::SIGKILL).unwrap();
            let before = ping.received();
            until("traffic goes on", SOON, || (ping.received() > before + 200).then_some(()));
            let report = ping.stop();
            println!(
                "worker of the {side} killed: longest gap {:?}, {} of {} lost",
                report.longest_gap,
                report.lost(),
                report.sent
            );
            assert!(report.longest_gap < Duration::from_secs(1), "{report:?}");
            assert_ne!(tunnel.worker(), worker);
            assert_eq!(tunnel.status().counters.worker_restarts, 1);
        }
    });
}

#[test]
fn a_worker_that_comes_back_has_the_configuration_and_the_port() {
    isolated!(|| {
        let net = Standalone::new(false);
        net.reaches(net.pair.b.inside(false));
        let strip = |answer: String| -> Vec<String> {
            let counters = ["last_handshake", "tx_bytes", "rx_bytes"];
            let keep = |line: &&str| !counters.iter().any(|counter| line.starts_with(counter));
            answer.lines().filter(keep).map(str::to_owned).collect()
        };
        let before = strip(net.a.1.uapi().ask("get=1\n\n"));
        let index = net.a.0.link("wga").unwrap().index;
        let worker = net.a.1.worker();
        kill(worker, Signal::SIGKILL).unwrap();
        until("another worker", SOON, || (net.a.1.worker() != worker).then_some(()));
        net.a.1.wait_ready();
        assert_eq!(strip(net.a.1.uapi().ask("get=1\n\n")), before);
        assert_eq!(net.a.0.link("wga").unwrap().index, index, "the same device");
        net.reaches(net.pair.b.inside(true));
    });
}

#[test]
fn an_endpoint_that_roamed_outlives_the_worker() {
    isolated!(|| {
        let (host_a, host_b) = wire();
        let pair = Pair::new("wga", "wgb");
        let a = Tunnel::start(&host_a, "wga", &[]);
        let b = Tunnel::start(&host_b, "wgb", &[]);
        let canary = Canary::random().unwrap();
        // B is told a wrong place, and learns the right one from what A sends.
        b.uapi().set(&format!("{}\n{}", pair.b.as_self(), pair.a.as_peer(Some("192.0.2.99:9".into()))));
        a.uapi().set(&format!("{}\n{}", pair.a.as_self(), pair.b.as_peer(Some(pair.b.endpoint(false)))));
        pair.a.bring_up(&host_a);
        pair.b.bring_up(&host_b);
        pings(&host_a, pair.b.inside(false), &canary);
        assert_eq!(b.uapi().get("endpoint"), Some(pair.a.endpoint(false)));
        let worker = b.worker();
        kill(worker, Signal::SIGKILL).unwrap();
        until("another worker", SOON, || (b.worker() != worker).then_some(()));
        b.wait_ready();
        assert_eq!(b.uapi().get("endpoint"), Some(pair.a.endpoint(false)));
        pings(&host_b, pair.a.inside(false), &canary);
    });
}

#[test]
fn a_set_is_all_or_nothing_and_the_keys_are_shown_on_the_socket_alone() {
    isolated!(|| {
        let host = Host::new();
        let tunnel = Tunnel::start(&host, "wg0", &[]);
        let free = tunnel.uapi().get("listen_port").unwrap();
        tunnel.uapi().set(&format!("listen_port={free}"));
        assert_eq!(tunnel.uapi().get("listen_port").unwrap(), free, "its own port is not in its way");
        let (own, peer) = (Keys::generate(), Keys::generate());
        let psk = "5a".repeat(32);
        tunnel.uapi().set(&format!(
            "private_key={}\nlisten_port=40001\nfwmark=77\npublic_key={}\npreshared_key={psk}\nallowed_ip=10.0.0.0/8",
            own.private_hex(),
            peer.public_hex()
        ));
        let shown = tunnel.uapi().ask("get=1\n\n");
        assert!(shown.contains("listen_port=40001\nfwmark=77\n"), "{shown}");
        assert!(shown.contains(&format!("public_key={}\n", peer.public_hex())), "{shown}");
        for line in [format!("private_key={}\n", own.private_hex()), format!("preshared_key={psk}\n")] {
            assert!(shown.contains(&line), "{shown}");
        }
        let mode = std::fs::metadata(tunnel.uapi().0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "the socket is the user's alone");
        let taken = host.run(|| std::net::UdpSocket::bind("0.0.0.0:40002").unwrap());
        for (lines, errno) in [
            ("listen_port=40003\nfwmark=1\npublic_key=zz", -libc::EINVAL),
            ("fwmark=1\nlisten_port=40002", -libc::EADDRINUSE),
        ] {
            let answer = tunnel.uapi().ask(&format!("set=1\n{lines}\n\n"));
            assert_eq!(answer, format!("errno={errno}\n"), "{lines}");
            assert_eq!(tunnel.uapi().ask("get=1\n\n"), shown, "nothing changed by {lines}");
        }
        drop(taken);
        assert!(tunnel.log().contains("another program uses the port"), "{}", tunnel.log());
        assert!(!tunnel.log().contains(&own.private_hex()) && !tunnel.log().contains(&psk));
        tunnel.uapi().set("listen_port=40002");
        assert_eq!(tunnel.uapi().get("listen_port").unwrap(), "40002");
        let files = std::fs::read_dir(&tunnel.run).unwrap().flatten();
        let files: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        assert!(!files.iter().any(|name| name.contains(".json")), "no configuration on disk: {files:?}");
    });
}

#[test]
fn a_standalone_device_goes_with_its_tunnel() {
    isolated!(|| {
        let host = Host::new();
        let start = || Tunnel::start(&host, "wg0", &["--mtu", "1380"]);
        let mut tunnel = start();
        let link = host.link("wg0").unwrap();
        assert_eq!((link.up, link.mtu, link.group), (false, 1380, 0), "the rest is the user's to configure");
        tunnel.signal(Signal::SIGTERM);
        assert!(tunnel.ended().success());
        assert_eq!(host.link("wg0"), None);
        assert!(!tunnel.uapi().0.exists());
        let left = || {
            let files = std::fs::read_dir(&tunnel.run).unwrap().flatten().map(|file| file.file_name());
            files.filter(|name| name != "log").collect::<Vec<_>>()
        };
        assert_eq!(left(), [""; 0], "not even its lock stays");

        tunnel = start();
        std::fs::remove_file(tunnel.uapi().0).unwrap();
        assert!(tunnel.ended().success(), "removing the socket ends it");
        assert_eq!(host.link("wg0"), None);

        tunnel = start();
        host.apply(delete(Id::Name("wg0")));
        assert!(tunnel.ended().success(), "removing the device ends it");
        assert!(!tunnel.uapi().0.exists());

        tunnel = start();
        tunnel.child.kill().unwrap();
        tunnel.child.wait().unwrap();
        until("the worker goes with its parent", SOON, || host.link("wg0").is_none().then_some(()));

        tunnel = Tunnel::start(&host, "wg0", &["--persistent"]);
        let index = host.link("wg0").unwrap().index;
        tunnel.signal(Signal::SIGINT);
        assert!(tunnel.ended().success());
        let _again = Tunnel::start(&host, "wg0", &[]);
        assert_eq!(host.link("wg0").unwrap().index, index, "a persistent one stays, and is taken again");
    });
}

#[test]
fn one_device_has_one_tunnel() {
    isolated!(|| {
        let host = Host::new();
        let tunnel = Tunnel::start(&host, "wg0", &["--managed"]);
        let mut second = program("wg0", &["--managed"]);
        let output = host.run(|| second.output().unwrap());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("wg0 is run by another `selvedge tunnel`"), "{text}");
        tunnel.wait_ready();
    });
}

/// A standalone tunnel takes its lock's file away. Who waits for the lock meanwhile keeps others out all the same.
#[test]
fn a_lock_that_was_waited_for_keeps_others_out() {
    isolated!(|| {
        let host = Host::new();
        let mut first = Tunnel::start(&host, "wg0", &[]);
        let second = Tunnel::start_beside(&host, "wg0", &[], "log2");
        first.signal(Signal::SIGTERM);
        assert!(first.ended().success());
        until("the second has the device", SOON, || host.link("wg0"));
        second.wait_ready();
        let mut third = program("wg0", &[]);
        let output = host.run(|| third.output().unwrap());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("wg0 is run by another `selvedge tunnel`"), "{text}");
    });
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    isolated!(|| {
        let host = Host::new();
        let run = |arguments: &[&str]| {
            let mut command = program("wg0", arguments);
            let output = host.run(|| command.output().unwrap());
            assert_eq!(output.status.code(), Some(1));
            assert!(!Path::new("/var/run/wireguard/wg0.sock").exists());
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let _taken = host.run(|| std::net::UdpSocket::bind("0.0.0.0:40002").unwrap());
        let text = run(&["--listen-port", "40002"]);
        assert!(text.contains("40002") && text.contains("choose another port"), "{text}");
        assert_eq!(host.link("wg0"), None, "nothing is left of a failed start");
        nix::mount::mount(
            Some("tmpfs"),
            "/dev/net",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let text = run(&[]);
        assert!(text.contains("/dev/net/tun") && text.contains("modprobe tun"), "{text}");
    });
}

fn refused(result: Result<Applied, ClientError>) -> (u16, String) {
    match result {
        Err(ClientError::Refused { status, error }) => (status.as_u16(), error),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_managed_tunnel_is_configured_over_the_control_api() {
    isolated!(|| {
        let net = Managed::new();
        let link = net.a.host.link("wg1").unwrap();
        assert!(link.up && link.group == LINK_GROUP, "{link:?}");
        let none = RUNTIME.block_on(net.a.tunnel.client().get::<DeviceConfig>("/v1/config"));
        assert!(matches!(none, Err(ClientError::Refused { status, .. }) if status.as_u16() == 404));
        let mut events = RUNTIME.block_on(net.a.tunnel.client().lines::<Event>("/v1/events")).unwrap();

        for (node, other) in [(&net.a, &net.b), (&net.b, &net.a)] {
            let config = node.config(vec![other.as_peer()]);
            assert_eq!(node.put("/v1/config", &config).unwrap().added, [other.name.as_str()]);
            assert_eq!(node.put("/v1/config", &config).unwrap(), Applied::default(), "the same is no change");
            assert_eq!(node.get_config(), config);
        }
        assert_eq!(net.a.host.link("wg1").unwrap().mtu, 1400);
        pings(&net.a.host, "10.9.0.2".parse().unwrap(), &net.canary);
        let first = RUNTIME.block_on(async { tokio::time::timeout(SOON, events.next()).await });
        let confirmed = Event::Confirmed { peer: "wg2".into(), own_epoch: 1, peer_epoch: 1 };
        assert_eq!(first.unwrap().unwrap(), Some(confirmed));

        let status: DeviceStatus = net.a.tunnel.status();
        assert_eq!((status.device.as_str(), status.managed, status.listen_port), ("wg1", true, 51830));
        let peer = &status.peers[0];
        assert_eq!((peer.name.as_str(), peer.state), ("wg2", PeerState::Established));
        let shown = net.a.tunnel.uapi().ask("get=1\n\n");
        assert!(shown.contains(&format!("public_key={}\n", hex(net.b.key.as_bytes()))), "{shown}");
        let set = net.a.tunnel.uapi().ask("set=1\nlisten_port=1\n\n");
        assert_eq!(set, format!("errno={}\n", -libc::EBUSY));

        let extra = PeerConfig {
            name: "extra".into(),
            keys: vec![PeerKeyConfig { public_key: Keys::generate().public, epoch: 3, retired: false }],
            endpoints: vec![],
            allowed_ips: vec!["10.77.0.0/16".parse().unwrap()],
            persistent_keepalive: None,
        };
        assert_eq!(net.a.put("/v1/peers/extra", &extra).unwrap().added, ["extra"]);
        assert_eq!(net.a.get_config().peers.len(), 2);
        let get = || RUNTIME.block_on(net.a.tunnel.client().get::<PeerConfig>("/v1/peers/extra"));
        assert_eq!(get().unwrap(), extra);
        let delete = || RUNTIME.block_on(net.a.tunnel.client().delete::<Applied>("/v1/peers/extra")).unwrap();
        assert_eq!(delete().removed, ["extra"]);
        assert_eq!(delete(), Applied::default());
        assert_eq!(net.a.get_config().peers.len(), 1);
    });
}

#[test]
fn a_bad_configuration_changes_nothing() {
    isolated!(|| {
        let net = Managed::configured();
        let (node, path) = (&net.a, net.a.tunnel.kept_config());
        let good = node.config(vec![net.b.as_peer()]);
        let kept = std::fs::read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let peer = || net.b.as_peer();
        let other = |name: &str| PeerConfig {
            name: name.into(),
            keys: vec![PeerKeyConfig { public_key: Keys::generate().public, epoch: 1, retired: false }],
            ..peer()
        };
        let cases = [
            (node.config(vec![peer(), other("other")]), 400, "10.9.0.2/32"),
            (node.config(vec![PeerConfig { allowed_ips: vec![], ..peer() }, peer()]), 400, "wg2"),
            (
                node.config(vec![
                    peer(),
                    PeerConfig { keys: peer().keys, allowed_ips: vec![], ..other("other") },
                ]),
                400,
                "other",
            ),
            (node.config(vec![net.a.as_peer()]), 400, "this device"),
            (
                DeviceConfig {
                    identities: vec![IdentityConfig { epoch: 9, withdrawn: false }],
                    ..good.clone()
                },
                400,
                "epoch 9",
            ),
            (DeviceConfig { key_store: "/nowhere".into(), ..good.clone() }, 400, "/nowhere"),
            (DeviceConfig { mtu: 500, ..good.clone() }, 400, "mtu 500"),
            (DeviceConfig { listen_port: 40002, ..good.clone() }, 409, "choose another port"),
        ];
        let _taken = node.host.run(|| std::net::UdpSocket::bind("0.0.0.0:40002").unwrap());
        for (config, expected, word) in cases {
            let (status, error) = refused(node.put("/v1/config", &config));
            assert!(status == expected && error.contains(word), "{word}: {status} {error}");
            assert_eq!(std::fs::read(&path).unwrap(), kept, "{word}");
        }
        let mut unknown = serde_json::to_value(&good).unwrap();
        unknown["surprise"] = 1.into();
        let (status, error) = refused(node.put("/v1/config", &unknown));
        assert!(status == 400 && error.contains("surprise"), "{status} {error}");
        let (status, error) = refused(node.put("/v1/peers/x", &peer()));
        assert!(status == 400 && error.contains("name"), "{status} {error}");
        assert_eq!(node.get_config(), good);
        assert_eq!(node.put("/v1/config", &good).unwrap(), Applied::default());
        assert!(!Path::new("/nowhere").exists());
        pings(&node.host, "10.9.0.2".parse().unwrap(), &net.canary);
        let files = std::fs::read_dir(&node.tunnel.run).unwrap().flatten();
        assert!(files.into_iter().all(|file| file.path().extension().is_none_or(|end| end != "new")));
    });
}

#[test]
fn a_standalone_tunnel_refuses_the_control_api() {
    isolated!(|| {
        let host = Host::new();
        let tunnel = Tunnel::start(&host, "wg0", &[]);
        let config = DeviceConfig {
            key_store: "/run".into(),
            identities: vec![],
            listen_port: 0,
            mtu: 1400,
            firewall_mark: None,
            peers: vec![],
        };
        let (status, error) = refused(RUNTIME.block_on(tunnel.client().put("/v1/config", &config)));
        assert!(status == 409 && error.contains("--managed"), "{status} {error}");
    });
}

#[test]
fn a_managed_device_outlives_its_tunnel_and_is_made_again_when_deleted() {
    isolated!(|| {
        let mut net = Managed::configured();
        let to = "10.9.0.2".parse().unwrap();
        pings(&net.a.host, to, &net.canary);
        let index = net.a.host.link("wg1").unwrap().index;
        net.a.tunnel.signal(Signal::SIGTERM);
        assert!(net.a.tunnel.ended().success());
        assert_eq!(net.a.host.link("wg1").unwrap().index, index, "the device stays");
        net.a.tunnel = Tunnel::start(&net.a.host, "wg1", &["--managed"]);
        assert_eq!(net.a.get_config(), net.a.config(vec![net.b.as_peer()]), "the configuration too");
        assert_eq!(net.a.host.link("wg1").unwrap().index, index);
        pings(&net.a.host, to, &net.canary);

        net.a.host.apply(delete(Id::Name("wg1")));
        let link = until("the device is made again", SOON, || {
            net.a.host.link("wg1").filter(|link| link.up && link.group == LINK_GROUP && link.mtu == 1400)
        });
        assert_ne!(link.index, index);
        net.a.tunnel.wait_ready();
        net.a.host.address("wg1", "10.9.0.1/24");
        pings(&net.a.host, to, &net.canary);

        for socket in [net.a.tunnel.uapi().0, net.a.tunnel.run.join("tunnel-wg1.sock")] {
            std::fs::remove_file(&socket).unwrap();
            until("a removed socket is back", SOON, || socket.exists().then_some(()));
        }
        net.a.tunnel.wait_ready();
        net.a.get_config();
    });
}

#[test]
fn killing_the_parent_costs_what_its_supervisor_takes() {
    isolated!(|| {
        let mut net = Managed::configured();
        let to = "10.9.0.2".parse().unwrap();
        pings(&net.a.host, to, &net.canary);
        let ping = Ping::start(&net.a.host.ns, to, MS, &net.canary).unwrap();
        until("the ping runs", SOON, || (ping.received() > 200).then_some(()));
        let worker = net.a.tunnel.worker();
        let start = Instant::now();
        net.a.tunnel.child.kill().unwrap();
        net.a.tunnel.child.wait().unwrap();
        // What a supervisor does, without the wait that one adds.
        net.a.tunnel = Tunnel::start(&net.a.host, "wg1", &["--managed"]);
        let ready = start.elapsed();
        assert_ne!(net.a.tunnel.worker(), worker, "no orphan goes on");
        let before = ping.received();
        until("traffic goes on", SOON, || (ping.received() > before + 200).then_some(()));
        let report = ping.stop();
        println!(
            "parent killed, started again at once: ready after {ready:?}, longest gap {:?}, {} of {} lost",
            report.longest_gap,
            report.lost(),
            report.sent
        );
        assert!(report.longest_gap < Duration::from_secs(3), "{report:?}");
    });
}

#[test]
fn a_worker_reads_its_keys_without_a_write_or_a_sync() {
    isolated!(|| {
        let net = Managed::configured();
        let config = net.a.config(vec![net.b.as_peer()]);
        let worker = net.a.tunnel.worker();
        let calls = std::thread::scope(|scope| {
            let put = || {
                let put = net.a.put("/v1/config", &config);
                kill(worker, Signal::SIGKILL).unwrap(); // ends the trace
                put.unwrap();
            };
            trace(worker, || {
                scope.spawn(put);
                Ok(())
            })
        });
        let calls = calls.unwrap();
        assert!(
            calls.contains(&Call::Open(config.key_store.join("epoch-1"))),
            "the detector sees reads: {calls:#?}"
        );
        let written = |call: &&Call| match call {
            Call::Sync(_) => true,
            Call::Open(_) => false,
            other => other.path().starts_with(&config.key_store),
        };
        assert_eq!(calls.iter().filter(written).collect::<Vec<_>>(), Vec::<&Call>::new());
    });
}
