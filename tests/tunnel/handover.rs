//! One tunnel process after the other has the same device: what is lost meanwhile, and what becomes of the device
//! when one of the two dies.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use selvedge::tunnel::api::{Applied, PeerState};
use selvedge_lab::isolated;
use selvedge_lab::stop::StopOnDrop;
use selvedge_lab::traffic::{Ping, PingReport, Server, upload};

use crate::managed::{Managed, Node};
use crate::source::{FIREWALL, nft};
use crate::support::tunnel::Tunnel;
use crate::support::{Host, SOON, until};
use crate::{MS, pings, refused};

const TAKE_OVER: [&str; 2] = ["--managed", "--take-over"];
/// When one of the two is killed, from the start of the heir on.
const MOMENTS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

impl Node {
    /// Starts a second tunnel that is to take the device over.
    fn heir(&self) -> Tunnel {
        heir(&self.host, &self.name, &self.tunnel)
    }

    /// Has a new tunnel take the device over, and ends the one before.
    fn replace(&mut self) -> Duration {
        replace(&self.host, &self.name, &mut self.tunnel)
    }
}

fn heir(host: &Host, name: &str, before: &Tunnel) -> Tunnel {
    // Its log is its own: the other one's says the same things.
    let log = format!("log-{}", std::fs::read_dir(&before.run).unwrap().count());
    Tunnel::start_beside(host, name, &TAKE_OVER, &log)
}

fn replace(host: &Host, name: &str, tunnel: &mut Tunnel) -> Duration {
    let start = Instant::now();
    let mut heir = heir(host, name, tunnel);
    took_over(&heir);
    let took = start.elapsed();
    std::mem::swap(tunnel, &mut heir);
    until("the one before rests", SOON, || heir.log().contains("the device is handed over").then_some(()));
    heir.signal(Signal::SIGTERM);
    assert!(heir.ended().success());
    took
}

/// The parent, and its worker with it.
fn kill_all(tunnel: &mut Tunnel) {
    tunnel.child.kill().unwrap();
    tunnel.child.wait().unwrap();
}

fn took_over(heir: &Tunnel) {
    until("the heir has the device", SOON, || heir.log().contains("took the device over").then_some(()));
}

fn inside(node: &Node) -> IpAddr {
    format!("10.9.0.{}", node.number()).parse().unwrap()
}

/// A ping each way, a millisecond apart.
struct Pings([Ping; 2]);

impl Pings {
    fn start(net: &Managed) -> Self {
        pings(&net.a.host, inside(&net.b), &net.canary);
        let pings = Self(
            [(&net.a, &net.b), (&net.b, &net.a)]
                .map(|(from, to)| Ping::start(&from.host.ns, inside(to), MS, &net.canary).unwrap()),
        );
        pings.go_on();
        pings
    }

    /// Waits until 200 more have come back each way.
    fn go_on(&self) {
        for ping in &self.0 {
            let before = ping.received();
            until("traffic goes on", SOON, || (ping.received() > before + 200).then_some(()));
        }
    }

    /// Ends them; none was without an answer for a second.
    fn end_with_short_gaps(self) {
        for report in self.stop() {
            println!("{} sent, {} lost, longest gap {:?}", report.sent, report.lost(), report.longest_gap);
            assert!(report.longest_gap < Duration::from_secs(1), "{report:?}");
        }
    }

    fn stop(self) -> [PingReport; 2] {
        self.0.map(Ping::stop)
    }
}

#[test]
fn a_tunnel_hands_over_without_losing_a_packet() {
    isolated!(|| {
        let mut net = Managed::configured();
        let index = net.a.host.link("wg1").unwrap().index;
        let running = Pings::start(&net);
        for round in 1..=3 {
            for sender in [true, false] {
                let node = if sender { &mut net.a } else { &mut net.b };
                println!("round {round}, sender: {sender}: took {:?}", node.replace());
                running.go_on();
            }
        }
        for report in running.stop() {
            println!("{} sent, {} lost, longest gap {:?}", report.sent, report.lost(), report.longest_gap);
            assert_eq!(report.lost(), 0, "{report:?}");
        }
        assert_eq!(net.a.host.link("wg1").unwrap().index, index, "the same device");
        assert_eq!(net.a.get_config(), net.a.config(vec![net.b.as_peer()]), "and the same configuration");
        assert_eq!(net.a.tunnel.status().peers[0].state, PeerState::Established);
    });
}

#[test]
fn a_tunnel_hands_over_under_load() {
    isolated!(|| {
        let mut net = Managed::configured();
        let running = Pings::start(&net);
        let server = Server::start(&net.b.host.ns, "b", &[0], &net.canary).unwrap();
        let to = SocketAddr::new(inside(&net.b), server.ports()[0]);
        let stop = AtomicBool::new(false);
        let Managed { a, b, canary } = &mut net;
        let bytes = std::thread::scope(|scope| {
            let stopping = StopOnDrop(&stop);
            let bulk = scope.spawn(|| {
                let mut bytes = 0;
                while !stop.load(Ordering::Relaxed) {
                    let bulk = upload(&a.host.ns, to, 16 << 20, canary, &mut || ()).unwrap();
                    assert_eq!(bulk.sent, bulk.received);
                    bytes += bulk.bytes;
                }
                bytes
            });
            for (host, name, tunnel) in [(&a.host, &a.name, &mut a.tunnel), (&b.host, &b.name, &mut b.tunnel)]
            {
                println!("took {:?}", replace(host, name, tunnel));
                running.go_on();
            }
            drop(stopping);
            bulk.join().unwrap()
        });
        for report in running.stop() {
            println!("{bytes} bytes beside; {} pings sent, {} lost", report.sent, report.lost());
            assert_eq!(report.lost(), 0, "{report:?}");
        }
    });
}

#[test]
fn an_heir_that_dies_leaves_the_device_where_it_was() {
    isolated!(|| {
        let mut net = Managed::configured();
        let running = Pings::start(&net);
        for wait in MOMENTS {
            let mut heir = net.a.heir();
            std::thread::sleep(wait);
            kill_all(&mut heir);
            running.go_on();
            net.a.tunnel.wait_ready();
            let config = net.a.config(vec![net.b.as_peer()]);
            let put = || net.a.put("/v1/config", &config).ok();
            until("the one before takes configurations again", SOON, put);
        }
        net.a.replace();
        running.go_on();
        running.end_with_short_gaps();
    });
}

#[test]
fn a_predecessor_that_dies_leaves_the_device_to_its_heir() {
    isolated!(|| {
        let mut net = Managed::configured();
        let running = Pings::start(&net);
        for wait in MOMENTS {
            let mut heir = net.a.heir();
            std::thread::sleep(wait);
            std::mem::swap(&mut net.a.tunnel, &mut heir);
            kill_all(&mut heir);
            running.go_on();
            net.a.tunnel.wait_ready();
        }
        running.end_with_short_gaps();
    });
}

#[test]
fn a_predecessor_that_is_told_to_stop_hands_over_first() {
    isolated!(|| {
        let mut net = Managed::configured();
        let running = Pings::start(&net);
        let mut heir = net.a.heir();
        until("it hands over", SOON, || net.a.tunnel.log().contains("takes the device over").then_some(()));
        net.a.tunnel.signal(Signal::SIGTERM);
        assert!(net.a.tunnel.ended().success());
        assert!(net.a.tunnel.log().contains("the device is handed over"), "{}", net.a.tunnel.log());
        took_over(&heir);
        std::mem::swap(&mut net.a.tunnel, &mut heir);
        running.go_on();
        net.a.get_config();
        for report in running.stop() {
            assert_eq!(report.lost(), 0, "{report:?}");
        }
    });
}

#[test]
fn a_device_whose_heir_is_gone_is_taken_back() {
    isolated!(|| {
        let mut net = Managed::configured();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let mut heir = net.a.heir();
            took_over(&heir);
            until("it rests", SOON, || {
                net.a.tunnel.log().contains("the device is handed over").then_some(())
            });
            assert_eq!(net.a.tunnel.child.try_wait().unwrap(), None);
            heir.signal(signal);
            heir.ended();
            net.a.tunnel.wait_ready();
            pings(&net.a.host, inside(&net.b), &net.canary);
            net.a.tunnel.clear_log();
            net.a.replace();
        }
    });
}

#[test]
fn a_predecessor_that_hangs_is_gone_past() {
    isolated!(|| {
        let mut net = Managed::configured();
        let running = Pings::start(&net);
        let worker = net.a.tunnel.worker();
        kill(worker, Signal::SIGSTOP).unwrap();
        let mut heir = net.a.heir();
        took_over(&heir);
        running.go_on();
        kill(worker, Signal::SIGCONT).unwrap();
        until("it sees that it is late", SOON, || {
            net.a.tunnel.log().contains("the device is handed over").then_some(())
        });
        std::mem::swap(&mut net.a.tunnel, &mut heir);
        running.go_on();
        net.a.get_config();
    });
}

#[test]
fn whoever_does_not_know_how_gets_nothing_and_changes_nothing() {
    isolated!(|| {
        let net = Managed::configured();
        let door = net.a.tunnel.run.join("tunnel-wg1.door");
        assert_eq!(std::fs::metadata(&door).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ask_door(&door, "take 99"), "no this version understands `take 1`");
        // An heir that takes all it is given and never asks for UDP: the one before serves on.
        let silent = knock(&door, "take 1");
        until("it is asked for", SOON, || net.a.tunnel.log().contains("takes the device over").then_some(()));
        pings(&net.a.host, inside(&net.b), &net.canary);
        drop(silent);
        until("it answers again", SOON, || net.a.tunnel.log().contains("going on").then_some(()));
        net.a.put("/v1/config", &net.a.config(vec![net.b.as_peer()])).unwrap();
    });
}

#[test]
fn a_data_plane_is_not_made_anew_before_it_has_the_device() {
    isolated!(|| {
        let net = Managed::configured();
        let running = Pings::start(&net);
        let heir = net.a.heir();
        until("the heir reads the TUN", SOON, || heir.log().contains("reading the TUN").then_some(()));
        let mut config = net.a.config(vec![net.b.as_peer()]);
        assert_eq!(net.a.put("/v1/config", &config).unwrap(), Applied::default(), "the same may be said");
        config.mtu = 1300;
        net.a.put("/v1/config", &config).unwrap();
        assert_eq!(net.a.host.link("wg1").unwrap().mtu, 1300, "the MTU takes no other data plane");
        config.listen_port = 51899;
        let (status, error) = refused(net.a.put("/v1/config", &config));
        assert!(status == 409 && error.contains("handed over"), "{status} {error}");
        took_over(&heir);
        running.go_on();
        for report in running.stop() {
            assert_eq!(report.lost(), 0, "{report:?}");
        }
        net.a.put("/v1/config", &config).unwrap();
        assert_eq!(net.a.tunnel.status().listen_port, 51899);
    });
}

/// Says `text` at `door`, and keeps the connection.
fn knock(door: &Path, text: &str) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, socket};
    use std::os::fd::AsRawFd as _;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(door).unwrap()).unwrap();
    send(socket.as_raw_fd(), text.as_bytes(), MsgFlags::empty()).unwrap();
    socket
}

fn ask_door(door: &Path, text: &str) -> String {
    let socket = std::fs::File::from(knock(door, text));
    let mut answer = [0; 256];
    let length = std::io::Read::read(&mut &socket, &mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// B's next tunnel is heard through A's firewall only if it sends from the address by which A knows B.
#[test]
fn the_next_tunnel_sends_from_the_address_that_peers_know() {
    isolated!(|| {
        let mut net = Managed::new();
        net.b.host.address("wire", "192.0.2.3/24");
        nft(&net.a.host, FIREWALL);
        let mut peer = net.b.as_peer();
        peer.endpoints = vec!["192.0.2.3:51830".parse().unwrap()];
        net.b.put("/v1/config", &net.b.config(vec![net.a.as_peer()])).unwrap();
        net.a.put("/v1/config", &net.a.config(vec![peer])).unwrap();
        let pings = Pings::start(&net);
        let took = net.b.replace();
        pings.go_on();
        println!("handed over within {took:?}");
        pings.end_with_short_gaps();
        let source = net.b.tunnel.status().peers[0].source;
        assert_eq!(source, Some("192.0.2.3".parse().unwrap()));
    });
}
