//! Services with many endpoints, and what real packets make of them. All addresses of endpoints and clients are this namespace's
//! own, by a route: one socket receives what is for any endpoint, and sees for which.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use super::kernel::{lay, wanted};
use super::*;
use crate::kernel::nft::{Concat, Connection, Family, Ip, Update};
use crate::kernel::{conntrack, sysctl};
use crate::service::balancer::Balancer;
use crate::service::table::{TABLE, counters};

/// A Service of UDP with the endpoints of these numbers, of one family.
fn set_endpoints(balancer: &mut Balancer, ip: Ip, endpoints: Range<u32>) {
    let (slice_name, at) = match ip {
        Ip::V4 => ("v4", endpoint_v4 as fn(u32) -> IpAddr),
        Ip::V6 => ("v6", endpoint_v6 as fn(u32) -> IpAddr),
    };
    let endpoints = endpoints.map(|number| endpoint(&at(number).to_string(), "there")).collect();
    let mut slice = slice(endpoints);
    slice.ports[0].protocol = Protocol::Udp;
    balancer.set_slice(&name("web"), slice_name, Some(Arc::new(slice)));
}

fn endpoint_v4(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0af4_0000 + number).into()
}

fn endpoint_v6(number: u32) -> IpAddr {
    Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(number)).into()
}

/// Clients and endpoints of one family, in the namespace of the calling thread.
struct Net {
    ip: Ip,
    to: SocketAddr,
    server: UdpSocket,
    /// The next client.
    client: AtomicUsize,
}

impl Net {
    fn all() -> [Self; 2] {
        lay(&[]);
        for (family, range) in
            [("-4", "10.244.0.0/16"), ("-4", "172.16.0.0/12"), ("-6", "fd00::/64"), ("-6", "fd16::/64")]
        {
            let status =
                Command::new("ip").args([family, "route", "add", "local", range, "dev", "lo"]).status();
            assert!(status.unwrap().success(), "{range}");
        }
        for setting in ["ipv6/ip_nonlocal_bind", "ipv6/bindv6only"] {
            sysctl::write(setting, "1").unwrap();
        }
        Ip::BOTH.map(Self::new)
    }

    fn new(ip: Ip) -> Self {
        let (to, any) = match ip {
            Ip::V4 => ("10.96.0.1:80", "0.0.0.0:8080"),
            Ip::V6 => ("[fd96::1]:80", "[::]:8080"),
        };
        let server = UdpSocket::bind(any).unwrap();
        match ip {
            Ip::V4 => setsockopt(&server, sockopt::Ipv4PacketInfo, &true),
            Ip::V6 => setsockopt(&server, sockopt::Ipv6RecvPacketInfo, &true),
        }
        .unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { ip, to: to.parse().unwrap(), server, client: AtomicUsize::new(0) }
    }

    /// A socket of a client that has not sent anything before.
    fn client(&self) -> UdpSocket {
        let number = u32::try_from(self.client.fetch_add(1, Ordering::Relaxed)).unwrap();
        self.socket(number, 4000)
    }

    fn socket(&self, client: u32, port: u16) -> UdpSocket {
        let from: IpAddr = match self.ip {
            Ip::V4 => Ipv4Addr::from_bits(0xac10_0001 + client).into(),
            Ip::V6 => Ipv6Addr::from_bits((0xfd16_u128 << 112) + 1 + u128::from(client)).into(),
        };
        UdpSocket::bind((from, port)).unwrap()
    }

    /// Sends the first packet of a connection; returns the number of the endpoint that it is for.
    fn draw(&self) -> u32 {
        self.client().send_to(b"x", self.to).unwrap();
        self.receive()
    }

    /// The number of the endpoint that the next datagram is for.
    fn receive(&self) -> u32 {
        self.receive_with_content().0
    }

    fn receive_with_content(&self) -> (u32, [u8; 4]) {
        let mut buffer = [0; 4];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let flags = MsgFlags::empty();
        let fd = self.server.as_raw_fd();
        let message = recvmsg::<()>(fd, &mut parts, Some(&mut control), flags).expect("a datagram arrives");
        let number = message.cmsgs().unwrap().find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(u32::from_be(info.ipi_addr.s_addr) - 0x0af4_0000)
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let [.., a, b, c, d] = info.ipi6_addr.s6_addr;
                Some(u32::from_be_bytes([a, b, c, d]))
            }
            _ => None,
        });
        let number = number.expect("the kernel says for which address");
        (number, buffer)
    }
}

/// A Service of both families without any endpoint yet, and the kernel's table of it.
fn start() -> (Balancer, Connection) {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let mut both = service("10.96.0.1");
    both.cluster_ips.push(address("fd96::1"));
    both.ports[0].protocol = Protocol::Udp;
    balancer.set_service(&name("web"), Some(Arc::new(both)));
    balancer.update();
    let mut connection = Connection::open().unwrap();
    connection.apply(&[wanted(&balancer)]).unwrap();
    (balancer, connection)
}

/// There is not room for all connections of a test at once.
fn forget() {
    conntrack::forget(Protocol::Udp, |_| true).unwrap();
}

fn rejected() -> u64 {
    counters().unwrap()["rejected"].packets
}

/// What chi-squared exceeds once in a million times, by the approximation of Wilson and Hilferty.
fn limit(degrees: u32) -> f64 {
    const DEVIATIONS: f64 = 4.7534;
    let part = 2.0 / (9.0 * f64::from(degrees));
    f64::from(degrees) * (1.0 - part + DEVIATIONS * part.sqrt()).powi(3)
}

#[test]
fn many_endpoints_get_as_many_connections_each() {
    selvedge_lab::isolated!(|| {
        let nets = Net::all();
        let (mut balancer, mut connection) = start();
        for (net, (count, each)) in
            nets.iter().flat_map(|net| [(255, 20), (1000, 20), (5000, 10)].map(|some| (net, some)))
        {
            set_endpoints(&mut balancer, net.ip, 0..count);
            connection.update(&balancer.update()).unwrap();
            let mut seen = vec![0_u32; usize::try_from(count).unwrap()];
            for _ in 0..count * each {
                seen[usize::try_from(net.draw()).unwrap()] += 1;
            }
            let squares: f64 =
                seen.iter().map(|seen| (f64::from(*seen) - f64::from(each)).powi(2)).sum::<f64>();
            let (squares, limit) = (squares / f64::from(each), limit(count - 1));
            println!("{:?}, {count} endpoints: chi-squared {squares:.0}, limit {limit:.0}", net.ip);
            assert!(squares < limit, "{squares} {seen:?}");
            forget();
        }
        assert_eq!(rejected(), 0);
    });
}

/// The packet has looked up how many endpoints there are, and then nearly all of them go: whatever it draws is of nobody.
#[test]
fn an_index_that_has_become_free_leads_to_the_first_endpoint() {
    selvedge_lab::isolated!(|| {
        const ENDPOINTS: u32 = 1000;
        let nets = Net::all();
        let (mut balancer, mut connection) = start();
        nets.iter().for_each(|net| set_endpoints(&mut balancer, net.ip, 0..ENDPOINTS));
        connection.update(&balancer.update()).unwrap();
        let mut update = Update::new(Family::Inet, TABLE);
        for (net, index) in nets.iter().flat_map(|net| (1..ENDPOINTS).map(move |index| (net, index))) {
            let target = Concat::new().address(net.to.ip()).protocol(Protocol::Udp.number()).port(80);
            update.delete(&format!("cluster{}", net.ip.digit()), target.number(index));
        }
        connection.update(&update).unwrap();
        for net in &nets {
            assert!((0..500).all(|_| net.draw() == 0));
        }
        assert_eq!(rejected(), 0);
    });
}

/// Each datagram is received by an endpoint that was there when it was sent or when it had arrived.
#[test]
fn endpoints_that_change_a_thousand_times_a_second_lose_no_datagram() {
    selvedge_lab::isolated!(|| {
        const CHANGES: usize = 3000;
        const EACH: Duration = Duration::from_millis(1);
        let nets = Net::all();
        let (mut balancer, mut connection) = start();
        // From one class of counts to others, and back; one family at a time.
        let endpoints = |ip: Ip, change: usize| {
            let at = usize::from(ip == Ip::V6);
            let change = u32::try_from(change.saturating_sub(at) / 2).unwrap();
            let (first, count) = (change * 37 % 10, 18 + change * 71 % 50);
            first..first + count
        };
        let change = |balancer: &mut Balancer, connection: &mut Connection, number: usize| {
            Ip::BOTH.iter().for_each(|ip| set_endpoints(balancer, *ip, endpoints(*ip, number)));
            connection.update(&balancer.update()).unwrap();
        };
        change(&mut balancer, &mut connection, 0);
        let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sent: usize = std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let start = Instant::now();
                for number in 1..=CHANGES {
                    begun.store(number, Ordering::SeqCst);
                    change(&mut balancer, &mut connection, number);
                    done.store(number, Ordering::SeqCst);
                    std::thread::sleep(
                        (EACH * u32::try_from(number).unwrap()).saturating_sub(start.elapsed()),
                    );
                }
                println!("{CHANGES} changes in {:?}", start.elapsed());
            });
            let mut sent = 0;
            while !changes.is_finished() {
                for net in &nets {
                    let before = done.load(Ordering::SeqCst);
                    let endpoint = net.draw();
                    let mut states = before..=begun.load(Ordering::SeqCst);
                    assert!(
                        states.any(|state| endpoints(net.ip, state).contains(&endpoint)),
                        "{endpoint} {states:?}"
                    );
                    sent += 1;
                    if sent % 20_000 == 0 {
                        forget();
                    }
                }
            }
            sent
        });
        println!("{sent} datagrams");
        assert_eq!(rejected(), 0);
    });
}

/// A Service with session affinity and these endpoints.
fn start_sticky(endpoints: u32) -> (Balancer, Connection) {
    let (mut balancer, mut connection) = start();
    let mut sticky = service("10.96.0.1");
    sticky.cluster_ips.push(address("fd96::1"));
    sticky.ports[0].protocol = Protocol::Udp;
    sticky.affinity = Some(Duration::from_secs(600));
    balancer.set_service(&name("web"), Some(Arc::new(sticky)));
    Ip::BOTH.iter().for_each(|ip| set_endpoints(&mut balancer, *ip, 0..endpoints));
    connection.update(&balancer.update()).unwrap();
    (balancer, connection)
}

/// Every packet is one that has not found its client, although another packet of it has drawn since.
#[test]
fn of_two_first_packets_of_a_client_the_number_of_one_counts() {
    selvedge_lab::isolated!(|| {
        let nets = Net::all();
        let (balancer, mut connection) = start_sticky(20);
        let mut table = wanted(&balancer);
        for digit in ['4', '6'] {
            let chain = table.chains.get_mut(&format!("affinity{digit}-default/web/udp/80")).unwrap();
            // Without the two that look for the client.
            chain.rules.drain(..2);
        }
        connection.apply(&[table]).unwrap();
        for net in &nets {
            let endpoints: Vec<u32> = (0..50)
                .map(|packet| {
                    net.socket(7, 5000 + packet).send_to(b"x", net.to).unwrap();
                    net.receive()
                })
                .collect();
            assert!(endpoints.iter().all(|endpoint| *endpoint == endpoints[0]), "{endpoints:?}");
        }
        assert_eq!(counters().unwrap()["affinity-full"].packets, 0);
    });
}

/// As the packets of two processors meet: both go to one endpoint, and so does what follows.
#[test]
fn two_packets_of_a_client_at_the_same_time_go_to_one_endpoint() {
    selvedge_lab::isolated!(|| {
        /// As many datagrams of each as the socket has room for.
        const CLIENTS: u32 = 50;
        const ROUNDS: u32 = 20;
        let nets = Net::all();
        let _kept = start_sticky(20);
        for (net, round) in nets.iter().flat_map(|net| (0..ROUNDS).map(move |round| (net, round))) {
            let clients = round * CLIENTS..(round + 1) * CLIENTS;
            let meeting = AtomicUsize::new(0);
            let send = |port: u16| {
                for (client, turn) in clients.clone().zip(1..) {
                    let socket = net.socket(client, port);
                    meet(&meeting, 2 * turn);
                    socket.send_to(&client.to_ne_bytes(), net.to).unwrap();
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| send(5000));
                send(5001);
            });
            for client in clients.clone() {
                net.socket(client, 5002).send_to(&client.to_ne_bytes(), net.to).unwrap();
            }
            let mut endpoints: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for _ in 0..3 * CLIENTS {
                let (endpoint, client) = net.receive_with_content();
                endpoints.entry(u32::from_ne_bytes(client)).or_default().insert(endpoint);
            }
            assert!(endpoints.keys().copied().eq(clients), "{endpoints:?}");
            assert!(endpoints.values().all(|endpoints| endpoints.len() == 1), "{endpoints:?}");
        }
        assert_eq!(counters().unwrap()["affinity-full"].packets, 0);
    });
}

/// Waits until as many have come here, all at once.
fn meet(meeting: &AtomicUsize, count: usize) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let start = Instant::now();
    meeting.fetch_add(1, Ordering::SeqCst);
    while meeting.load(Ordering::SeqCst) < count {
        std::thread::yield_now();
        assert!(start.elapsed() < PATIENCE, "the other thread does not come");
    }
}
