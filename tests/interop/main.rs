//! Our tunnel with other implementations of WireGuard, and with the standard tool.
//!
//! They are no part of the product: `tests/setup.sh` installs them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

mod middlebox;
mod peer;
mod quick;
#[expect(dead_code, reason = "shared with another test program, which uses all of it")]
#[path = "../support/mod.rs"]
mod support;
mod zone;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use middlebox::{Middlebox, Mischief, Way};
use peer::{Kind, Peer, wg};
use selvedge_keys::PrivateKey;
use selvedge_lab::isolated;
use selvedge_lab::traffic::{Canary, Ping, Server, upload};
use support::tunnel::{Keys, Pair, Tunnel, Uapi};
use support::{Host, SOON, until, wire};

const MS: Duration = Duration::from_millis(1);

/// Our tunnel on host A, the other implementation on host B.
struct Net {
    pair: Pair,
    a: Host,
    b: Host,
    ours: Tunnel,
    theirs: Peer,
    canary: Canary,
}

impl Net {
    /// `tag` makes the names of the devices different from those of other nets.
    fn new(kind: Kind, tag: &str) -> Self {
        let (a, b) = wire();
        let pair = Pair::new(&format!("ours{tag}"), &format!("theirs{tag}"));
        let ours = Tunnel::start(&a, &pair.a.device, &[]);
        let theirs = Peer::start(kind, &b, &pair.b.device);
        Self { pair, a, b, ours, theirs, canary: Canary::random().unwrap() }
    }

    fn set_up(self, v6: bool, we_start: bool) -> Self {
        self.pair.set_up((&self.a, &self.ours.uapi()), (&self.b, &self.theirs.uapi()), v6, we_start);
        self
    }

    /// Has both sides use `line` for each other, from the start: boringtun-cli can't change a peer.
    fn with(mut self, line: &str) -> Self {
        self.pair.a.more = line.into();
        self.pair.b.more = line.into();
        self
    }

    fn ping(&self, from_us: bool, v6: bool, interval: Duration) -> Ping {
        let (host, to) = if from_us { (&self.a, &self.pair.b) } else { (&self.b, &self.pair.a) };
        Ping::start(&host.ns, to.inside(v6), interval, &self.canary).unwrap()
    }

    /// A ping gets through; `from_us` says from which side.
    fn reaches(&self, from_us: bool, v6: bool) {
        let ping = self.ping(from_us, v6, 20 * MS);
        let what = format!("a ping {} gets through", if from_us { "from us" } else { "from them" });
        until(&what, SOON, || (ping.received() > 2).then_some(()));
    }

    fn uploads(&self, from_us: bool, v6: bool, bytes: u64) {
        let (from, to, at) =
            if from_us { (&self.a, &self.b, &self.pair.b) } else { (&self.b, &self.a, &self.pair.a) };
        let server = Server::start(&to.ns, "server", &[0], &self.canary).unwrap();
        let to = SocketAddr::new(at.inside(v6), server.ports()[0]);
        let bulk = upload(&from.ns, to, bytes, &self.canary, &mut || ()).unwrap();
        assert_eq!((bulk.bytes, &bulk.sent), (bytes, &bulk.received));
    }
}

/// The public key of a private one, both in base64.
fn public_of(private: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(private).unwrap();
    PrivateKey::from_bytes(bytes.try_into().unwrap()).public_key().to_string()
}

fn number(uapi: &Uapi, key: &str) -> u64 {
    uapi.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[test]
fn wg_shows_and_sets_our_tunnel() {
    isolated!(|| {
        let host = Host::new();
        let tunnel = Tunnel::start(&host, "wg0", &[]);
        let (own, peer) = (Keys::generate(), Keys::generate());
        let (key, psk) = ("/run/key", "/run/psk");
        let base64 = wg(&host, &["genpsk"]).unwrap();
        std::fs::write(psk, &base64).unwrap();
        let private = wg(&host, &["genkey"]).unwrap();
        std::fs::write(key, &private).unwrap();
        let name = peer.public.to_string();
        wg(
            &host,
            &[
                "set",
                "wg0",
                "private-key",
                key,
                "listen-port",
                "40001",
                "fwmark",
                "0x7",
                "peer",
                &name,
                "preshared-key",
                psk,
                "endpoint",
                "[2001:db8::2]:51820",
                "persistent-keepalive",
                "25",
                "allowed-ips",
                "10.0.0.0/8,fd00::/64",
            ],
        )
        .unwrap();
        let dump = wg(&host, &["show", "wg0", "dump"]).unwrap();
        let rows: Vec<Vec<&str>> = dump.lines().map(|line| line.split('\t').collect()).collect();
        let public = public_of(private.trim());
        assert_eq!(rows[0], [private.trim(), &public, "40001", "0x7"], "{dump}");
        assert_eq!(
            rows[1][..5],
            [&name, base64.trim(), "[2001:db8::2]:51820", "10.0.0.0/8,fd00::/64", "0"],
            "{dump}"
        );
        assert_eq!(rows[1][7], "25");
        let shown = wg(&host, &["show"]).unwrap();
        assert!(shown.contains(&name) && shown.contains(&public), "{shown}");
        assert!(!tunnel.log().contains(private.trim()) && !tunnel.log().contains(base64.trim()));

        let file = "/run/wg0.conf";
        std::fs::write(file, wg(&host, &["showconf", "wg0"]).unwrap()).unwrap();
        wg(&host, &["setconf", "wg0", file]).unwrap();
        assert_eq!(wg(&host, &["show", "wg0", "dump"]).unwrap(), dump, "what wg writes makes the same again");
        wg(&host, &["set", "wg0", "private-key", "/dev/null"]).unwrap();
        let keyless = wg(&host, &["show", "wg0", "dump"]).unwrap();
        let peer = |dump: &str| dump.lines().nth(1).map(str::to_owned);
        assert!(peer(&keyless).is_some_and(|row| Some(row) == peer(&dump)), "without a key too: {keyless}");
        wg(&host, &["set", "wg0", "peer", &own.public.to_string(), "allowed-ips", "10.1.0.0/16"]).unwrap();
        assert_eq!(wg(&host, &["show", "wg0", "peers"]).unwrap().lines().count(), 2);
        wg(&host, &["set", "wg0", "peer", &name, "remove"]).unwrap();
        assert_eq!(wg(&host, &["show", "wg0", "peers"]).unwrap().trim(), own.public.to_string());
        drop(tunnel);

        let managed = Tunnel::start(&host, "wg1", &["--managed"]);
        let refused = wg(&host, &["set", "wg1", "listen-port", "1"]).unwrap_err();
        assert!(refused.contains("busy"), "{refused}");
        assert!(managed.log().contains("an agent manages this device"), "{}", managed.log());
        let shown = managed.uapi().ask("get=1\n\n");
        assert!(!shown.contains("private_key") && !shown.contains("preshared_key"), "{shown}");
    });
}

fn passes_everything(kind: Kind) {
    for outer_v6 in [false, true] {
        for from_us in [true, false] {
            let psk = format!("preshared_key={}", "5a".repeat(32));
            let net = Net::new(kind, "").with(&psk).set_up(outer_v6, from_us);
            for inner_v6 in [false, true] {
                net.reaches(from_us, inner_v6);
                net.reaches(!from_us, inner_v6);
                net.uploads(from_us, inner_v6, 4 << 20);
                net.uploads(!from_us, inner_v6, 4 << 20);
            }
        }
    }
}

#[test]
fn wireguard_go_passes_everything_with_a_preshared_key() {
    isolated!(|| passes_everything(Kind::WireguardGo));
}

#[test]
fn boringtun_cli_passes_everything_with_a_preshared_key() {
    isolated!(|| passes_everything(Kind::Boringtun));
}

#[test]
fn a_wrong_preshared_key_passes_nothing() {
    isolated!(|| {
        let mut net = Net::new(Kind::WireguardGo, "");
        let psk = |byte: &str| format!("preshared_key={}", byte.repeat(32));
        (net.pair.a.more, net.pair.b.more) = (psk("5a"), psk("5b"));
        let net = net.set_up(false, true);
        let ping = net.ping(true, false, 20 * MS);
        until("a handshake is tried", SOON, || (number(&net.ours.uapi(), "tx_bytes") > 0).then_some(()));
        assert_eq!(ping.received(), 0);
        net.theirs.uapi().set(&format!("public_key={}\n{}", net.pair.a.keys.public_hex(), psk("5b")));
        until("the right key lets it through", 3 * SOON, || (ping.received() > 0).then_some(()));
    });
}

#[test]
fn keepalives_go_without_traffic() {
    isolated!(|| {
        for kind in Kind::ALL {
            for from_us in [true, false] {
                let mut net = Net::new(kind, "");
                let sender = if from_us { &mut net.pair.b } else { &mut net.pair.a };
                sender.more = "persistent_keepalive_interval=1".into();
                let (net, middlebox) = boxed(net, Mischief::default());
                net.reaches(true, false);
                let way = if from_us { Way::ToTarget } else { Way::ToClient };
                let keepalives = || {
                    let seen = middlebox.seen(way);
                    seen.iter().filter(|message| message[0] == TRANSPORT && message.len() == 32).count()
                };
                let before = keepalives();
                let what = format!("three keepalives, {kind:?}, from us: {from_us}");
                until(&what, SOON, || (keepalives() >= before + 3).then_some(()));
            }
        }
    });
}

#[test]
fn each_side_follows_the_other_to_a_new_port() {
    isolated!(|| {
        for kind in Kind::ALL {
            let net = Net::new(kind, "").set_up(false, true);
            net.reaches(true, false);
            net.theirs.uapi().set("listen_port=52002");
            net.reaches(false, false);
            let moved = until("we follow them", SOON, || {
                net.ours.uapi().get("endpoint").filter(|endpoint| endpoint.ends_with(":52002"))
            });
            assert_eq!(moved, "192.0.2.2:52002");
            net.reaches(true, false);
            net.ours.uapi().set("listen_port=52001");
            net.reaches(true, false);
            until("they follow us", SOON, || {
                net.theirs.uapi().get("endpoint").filter(|endpoint| endpoint == "192.0.2.1:52001")
            });
            net.reaches(false, false);
        }
    });
}

/// A rekey is due 120 s after a handshake, so all of them are waited for at once: a bit over two minutes.
#[test]
fn a_rekey_loses_nothing() {
    isolated!(|| {
        let nets = [
            ("we start, wireguard-go", true, Net::new(Kind::WireguardGo, "1").set_up(false, true)),
            ("wireguard-go starts", false, Net::new(Kind::WireguardGo, "2").set_up(true, false)),
            ("we start, boringtun", true, Net::new(Kind::Boringtun, "3").set_up(true, true)),
            ("boringtun starts", false, Net::new(Kind::Boringtun, "4").set_up(false, false)),
        ];
        let start = Instant::now();
        let runs = nets.map(|(what, from_us, net)| {
            net.reaches(from_us, false);
            let first = number(&net.ours.uapi(), "last_handshake_time_sec");
            assert_ne!(first, 0, "{what}");
            // A loss in the first handshake is none of this test's.
            let pings = [net.ping(from_us, false, 10 * MS), net.ping(!from_us, true, 10 * MS)];
            (what, net, first, pings)
        });
        for (what, net, first, pings) in runs {
            let handshake = || number(&net.ours.uapi(), "last_handshake_time_sec");
            until(&format!("{what}: a rekey"), Duration::from_secs(150), || {
                (handshake() >= first + 100).then_some(())
            });
            let after = start.elapsed();
            for ping in pings {
                let before = ping.received();
                until(&format!("{what}: traffic goes on"), SOON, || {
                    (ping.received() > before + 100).then_some(())
                });
                let report = ping.stop();
                println!(
                    "{what}: rekeyed within {after:?}; {} of {} lost, longest gap {:?}",
                    report.lost(),
                    report.sent,
                    report.longest_gap
                );
                assert_eq!((report.lost(), report.duplicates), (0, 0), "{what}: {report:?}");
            }
        }
    });
}

/// Sets up a net with a box in front of their side.
fn boxed(net: Net, mischief: Mischief) -> (Net, Middlebox) {
    let target = SocketAddr::from(([127, 0, 0, 1], net.pair.b.port));
    let middlebox = Middlebox::start(&net.b.ns, target, mischief);
    let place = format!("192.0.2.2:{}", middlebox.port);
    let Pair { a, b } = &net.pair;
    net.theirs.uapi().set(&format!("{}\n{}", b.as_self(), a.as_peer(None)));
    net.ours.uapi().set(&format!("{}\n{}", a.as_self(), b.as_peer(Some(place))));
    a.bring_up(&net.a);
    b.bring_up(&net.b);
    (net, middlebox)
}

#[test]
fn losses_repetitions_swaps_and_damage_are_borne() {
    isolated!(|| {
        for kind in Kind::ALL {
            let mischief = Mischief { lose: 23, repeat: 7, swap: 5, damage: 31 };
            let (net, middlebox) = boxed(Net::new(kind, ""), mischief);
            net.reaches(true, false);
            for from_us in [true, false] {
                let ping = net.ping(from_us, true, 2 * MS);
                until("many pings get through", SOON, || (ping.received() > 300).then_some(()));
                let report = ping.stop();
                assert_eq!(report.duplicates, 0, "{kind:?}: a repeated datagram is no second packet");
                // Two ways, each losing 1 of 23 and damaging 1 of 31.
                assert!(report.lost() > 0 && report.lost() < report.sent / 4, "{kind:?}: {report:?}");
                net.uploads(from_us, false, 512 << 10);
            }
            let counters = net.ours.status().counters;
            assert!(counters.replayed > 10 && counters.bad_mac > 2, "{kind:?}: {counters:?}");
            assert!(middlebox.seen(Way::ToClient).len() > 300);
        }
    });
}

/// The first byte of a message (WireGuard paper, section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const TRANSPORT: u8 = 4;

#[test]
fn replayed_messages_are_refused() {
    isolated!(|| {
        for kind in Kind::ALL {
            // They sit behind the box and start, so their initiation is what we get.
            let net = Net::new(kind, "");
            let target = SocketAddr::from(([127, 0, 0, 1], net.pair.a.port));
            let middlebox = Middlebox::start(&net.a.ns, target, Mischief::default());
            let place = format!("192.0.2.1:{}", middlebox.port);
            let Pair { a, b } = &net.pair;
            net.ours.uapi().set(&format!("{}\n{}", a.as_self(), b.as_peer(None)));
            net.theirs.uapi().set(&format!("{}\n{}", b.as_self(), a.as_peer(Some(place))));
            a.bring_up(&net.a);
            b.bring_up(&net.b);
            let ping = net.ping(false, false, 5 * MS);
            until("a session", SOON, || (ping.received() > 50).then_some(()));

            let came = middlebox.seen(Way::ToTarget);
            let of = |kind| came.iter().filter(move |message| message[0] == kind);
            let transport: Vec<_> = of(TRANSPORT).take(40).collect();
            let answers = || {
                let sent = middlebox.seen(Way::ToClient);
                sent.iter().filter(|message| message[0] == RESPONSE).count()
            };
            let (replayed, answered) = (net.ours.status().counters.replayed, answers());
            for message in &transport {
                middlebox.inject(Way::ToTarget, message);
            }
            until("replayed transport messages are counted", SOON, || {
                (net.ours.status().counters.replayed >= replayed + transport.len() as u64).then_some(())
            });
            let initiation = of(INITIATION).next().unwrap();
            let before = net.ours.status().counters;
            for _ in 0..10 {
                middlebox.inject(Way::ToTarget, initiation);
            }
            until("traffic goes on", SOON, || (ping.received() > 400).then_some(()));
            let after = net.ours.status().counters;
            assert_eq!(answers(), answered, "{kind:?}: a replayed initiation is not answered");
            assert!(after != before, "{kind:?}: they are counted: {after:?}");
            let report = ping.stop();
            assert_eq!((report.lost(), report.duplicates), (0, 0), "{kind:?}: {report:?}");
        }
    });
}
