//! Which of a host's addresses datagrams leave from.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use selvedge::kernel::address::Address;
use selvedge_lab::isolated;
use selvedge_lab::traffic::{Canary, Ping, Server, upload};

use super::{MS, pings};
use crate::support::tunnel::{Pair, Tunnel};
use crate::support::{Host, SOON, until, wire};

/// Lets in on the wire only what answers to what went out there.
pub(crate) const FIREWALL: &str = "table inet firewall {
    chain input {
        type filter hook input priority filter; policy accept;
        iifname != wire accept
        meta l4proto ipv6-icmp accept
        ct state established,related accept
        drop
    }
}";

pub(crate) fn nft(host: &Host, ruleset: &str) {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut child = host.spawn(&mut command);
    child.stdin.take().unwrap().write_all(ruleset.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refused {ruleset}");
}

/// The address that the kernel of `host` chooses for what goes to `to`.
fn chosen(host: &Host, to: IpAddr) -> IpAddr {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    host.run(|| {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect((to, 9)).unwrap();
        socket.local_addr().unwrap().ip()
    })
}

fn remove(host: &Host, net: &str) {
    let index = host.link("wire").unwrap().index;
    host.apply(Address::new(index, net.parse::<ipnet::IpNet>().unwrap()).delete());
}

/// A knows B by the address that B's kernel would not choose, and stands behind a firewall that lets only answers in.
struct Behind {
    pair: Pair,
    a: (Host, Tunnel),
    b: (Host, Tunnel),
    /// The address of B that A knows, and the other.
    addressed: IpAddr,
    other: IpAddr,
    canary: Canary,
}

impl Behind {
    fn new(v6: bool) -> Self {
        let (host_a, host_b) = wire();
        host_b.address("wire", if v6 { "2001:db8::3/64" } else { "192.0.2.3/24" });
        let pair = Pair::new("wga", "wgb");
        let (a, b) = (Tunnel::start(&host_a, "wga", &[]), Tunnel::start(&host_b, "wgb", &[]));
        nft(&host_a, FIREWALL);
        let place: SocketAddr = pair.a.endpoint(v6).parse().unwrap();
        let both = if v6 { ["2001:db8::2", "2001:db8::3"] } else { ["192.0.2.2", "192.0.2.3"] };
        let both: [IpAddr; 2] = both.map(|text| text.parse().unwrap());
        // The kernel takes an IPv6 address into use a moment later.
        for address in both {
            until(&format!("{address} is in use"), SOON, || {
                host_b.run(|| UdpSocket::bind((address, 0)).ok())
            });
        }
        let other = chosen(&host_b, place.ip());
        let addressed = *both.iter().find(|address| **address != other).unwrap();
        let endpoint = SocketAddr::new(addressed, pair.b.port);
        b.uapi().set(&format!("{}\n{}", pair.b.as_self(), pair.a.as_peer(None)));
        a.uapi().set(&format!("{}\n{}", pair.a.as_self(), pair.b.as_peer(Some(endpoint.to_string()))));
        pair.a.bring_up(&host_a);
        pair.b.bring_up(&host_b);
        let (a, b, canary) = ((host_a, a), (host_b, b), Canary::random().unwrap());
        Self { pair, a, b, addressed, other, canary }
    }

    fn source(&self) -> Option<IpAddr> {
        self.b.1.status().peers[0].source
    }

    fn uploads(&self) {
        for (from, to, at) in [(&self.a, &self.b, &self.pair.b), (&self.b, &self.a, &self.pair.a)]
            .map(|(from, to, at)| (&from.0, &to.0, at))
        {
            let server = Server::start(&to.ns, "server", &[0], &self.canary).unwrap();
            let to = SocketAddr::new(at.inside(false), server.ports()[0]);
            let bulk = upload(&from.ns, to, 8 << 20, &self.canary, &mut || ()).unwrap();
            assert_eq!((bulk.bytes, &bulk.sent), (8 << 20, &bulk.received));
        }
    }
}

#[test]
fn answers_leave_from_the_address_that_was_addressed() {
    isolated!(|| {
        for v6 in [false, true] {
            let net = Behind::new(v6);
            for inner_v6 in [false, true] {
                pings(&net.a.0, net.pair.b.inside(inner_v6), &net.canary);
            }
            net.uploads();
            assert_eq!(net.source(), Some(net.addressed));

            // Without the firewall, because A is not told.
            nft(&net.a.0, "delete table inet firewall");
            let ping = Ping::start(&net.b.0.ns, net.pair.a.inside(false), MS, &net.canary).unwrap();
            until("the ping runs", SOON, || (ping.received() > 200).then_some(()));
            remove(&net.b.0, &format!("{}/{}", net.addressed, if v6 { 64 } else { 24 }));
            let before = ping.received();
            until("traffic goes by the other address", SOON, || {
                (ping.received() > before + 200).then_some(())
            });
            let report = ping.stop();
            println!(
                "address removed under a ping: longest gap {:?}, {} of {} lost",
                report.longest_gap,
                report.lost(),
                report.sent
            );
            assert!(report.longest_gap < Duration::from_secs(1), "{report:?}");
            let now = SocketAddr::new(net.other, net.pair.b.port).to_string();
            assert_eq!(net.a.1.uapi().get("endpoint"), Some(now));
            until("the other address is the one addressed", SOON, || {
                (net.source() == Some(net.other)).then_some(())
            });
            net.uploads();
        }
    });
}
