//! The MTU of a device, as the tunnel sets it and as an administrator does.

use std::io::Read as _;
use std::net::UdpSocket;

use jiff::SignedDuration;
use nix::sys::signal::{Signal, kill};
use selvedge::kernel::link::{Id, Update, update};
use selvedge::kernel::netns::NetNs;
use selvedge::tunnel::api::DeviceConfig;
use selvedge_lab::isolated;
use selvedge_lab::traffic::Ping;
use socket2::{Domain, Protocol, Socket, Type};

use crate::managed::Managed;
use crate::support::tunnel::Tunnel;
use crate::support::{Host, SOON, until};
use crate::{MS, Standalone};

/// Sees the IPv4 packets that arrive at a host.
struct Tap(Socket);

impl Tap {
    fn new(host: &Host) -> Self {
        let every_ipv4 = Protocol::from(i32::from(0x0800_u16.to_be()));
        let socket = host.run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(every_ipv4)).unwrap());
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// The UDP payload of the next WireGuard transport message that is not a keepalive.
    fn next(&self) -> usize {
        const TRANSPORT: u8 = 4;
        let mut packet = [0; 4096];
        until("a packet is carried", SOON, || {
            let length = (&self.0).read(&mut packet).ok()?;
            (length > 28 + 32 && packet[28] == TRANSPORT).then_some(length - 28)
        })
    }
}

/// The UDP payload that carries an IP packet of `size` bytes from `from` to the other side.
fn carrier(from: &NetNs, tap: &Tap, size: usize) -> usize {
    let socket = from.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).unwrap();
    socket.send_to(&vec![0; size - 28], "10.9.0.2:9").unwrap();
    tap.next()
}

fn set_mtu(host: &Host, mtu: u32) {
    host.apply(update(Id::Name("wga"), &Update { mtu: Some(mtu), ..Update::default() }));
}

/// Packets are padded to 16 bytes, but not beyond the MTU (WireGuard paper, section 5.4.6); 32 more surround them.
#[test]
fn an_mtu_that_an_administrator_set_stays_and_padding_follows_it() {
    isolated!(|| {
        let net = Standalone::new(false);
        let (host, tunnel) = (&net.a.0, &net.a.1);
        net.reaches(net.pair.b.inside(false));
        let tap = Tap::new(&net.b.0);
        let follows = |ns: &NetNs, what: &str, size, payload| {
            until(what, SOON, || (carrier(ns, &tap, size) == payload).then_some(()));
        };
        let mtu = || host.link("wga").unwrap().mtu;
        assert_eq!((mtu(), carrier(&host.ns, &tap, 1380)), (1420, 1392 + 32));

        set_mtu(host, 1380);
        let keepalive =
            format!("public_key={}\npersistent_keepalive_interval=25", net.pair.b.keys.public_hex());
        tunnel.uapi().set(&keepalive);
        assert_eq!(mtu(), 1380, "a set that does not name it leaves it alone");
        follows(&host.ns, "padding ends at the new MTU", 1380, 1412);
        assert_eq!(carrier(&host.ns, &tap, 1370), 1376 + 32);

        tunnel.uapi().set("listen_port=51899");
        assert_eq!(mtu(), 1380, "another port");
        follows(&host.ns, "padding ends there on another port too", 1380, 1412);

        let worker = tunnel.worker();
        kill(worker, Signal::SIGKILL).unwrap();
        until("another worker", SOON, || (tunnel.worker() != worker).then_some(()));
        tunnel.wait_ready();
        assert_eq!(mtu(), 1380, "another worker");
        follows(&host.ns, "padding ends there in another worker too", 1380, 1412);

        set_mtu(host, 1440);
        follows(&host.ns, "padding grows with the MTU", 1430, 1440 + 32);

        let inner = Host::new();
        host.apply(update(Id::Name("wga"), &Update { ns: Some(&inner.ns), ..Update::default() }));
        inner.address("wga", "10.9.0.1/24");
        inner.up("wga");
        set_mtu(&inner, 1380);
        follows(&inner.ns, "padding follows a device into another namespace", 1380, 1412);
    });
}

#[test]
fn sessions_stay_when_an_agent_changes_the_mtu() {
    isolated!(|| {
        let net = Managed::configured();
        let to = "10.9.0.2".parse().unwrap();
        let ping = Ping::start(&net.a.host.ns, to, MS, &net.canary).unwrap();
        let replies = |count| {
            let before = ping.received();
            until("replies", SOON, || (ping.received() > before + count).then_some(()));
        };
        replies(100);
        let handshake = || net.a.tunnel.status().peers[0].last_handshake.unwrap();
        let before = handshake();
        let config = DeviceConfig { mtu: 1300, ..net.a.config(vec![net.b.as_peer()]) };
        net.a.put("/v1/config", &config).unwrap();
        assert_eq!(net.a.host.link("wg1").unwrap().mtu, 1300);
        replies(200);
        // The time is reckoned back from that of the report.
        let between = handshake().duration_since(before).abs();
        assert!(between < SignedDuration::from_millis(50), "another session, {between} later");
        assert_eq!(ping.stop().lost(), 0);
    });
}

#[test]
fn a_device_that_exists_keeps_its_mtu_unless_another_is_asked_for() {
    isolated!(|| {
        let host = Host::new();
        let mtu = || host.link("wga").unwrap().mtu;
        for (set, options, expected) in [
            (None, &["--persistent"][..], 1420),
            (Some(1380), &["--persistent"], 1380),
            (None, &["--persistent", "--mtu", "1390"], 1390),
            (None, &["--managed"], 1390),
        ] {
            if let Some(set) = set {
                set_mtu(&host, set);
            }
            let mut tunnel = Tunnel::start(&host, "wga", options);
            assert_eq!(mtu(), expected, "{options:?}");
            tunnel.signal(Signal::SIGTERM);
            assert!(tunnel.ended().success());
        }
    });
}
