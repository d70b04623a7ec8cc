//! The table in the kernel: what `nft` makes of it, and what packets do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::kernel::nft::{self, Connection};
use crate::service::balancer::Balancer;
use crate::service::class::Class;
use crate::service::object::TrafficPolicy;
use crate::service::table::{Structure, TABLE, counters};

pub(super) fn structure() -> Structure {
    Structure {
        pod_cidrs: ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|cidr| cidr.parse().unwrap()).into(),
        fabric_addresses: vec![address("10.244.1.1"), address("fd00:10:244:1::1")],
    }
}

/// Runs `nft`; nothing when it is not installed.
fn run_nft(arguments: &[&str], input: &str) -> Option<String> {
    let spawned = Command::new("nft").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        child => child.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One Service of each family with these backends.
pub(super) fn balancer(v4: &[&str], v6: &[&str]) -> Balancer {
    let mut balancer = Balancer::default();
    add_web(&mut balancer, v4, v6);
    balancer
}

pub(super) fn add_web(balancer: &mut Balancer, v4: &[&str], v6: &[&str]) {
    balancer.set_node(node());
    let mut both = service("10.96.0.1");
    both.cluster_ips.push(address("fd96::1"));
    both.ports[0].node_port = Some(30_080);
    balancer.set_service(&name("web"), Some(Arc::new(both)));
    set_backends(balancer, "web", v4, v6);
    balancer.update();
}

pub(super) fn set_backends(balancer: &mut Balancer, service: &str, v4: &[&str], v6: &[&str]) {
    for (slice_name, addresses) in [("v4", v4), ("v6", v6)] {
        let endpoints = addresses.iter().map(|at| endpoint(at, "here")).collect();
        balancer.set_slice(&name(service), slice_name, Some(Arc::new(slice(endpoints))));
    }
}

/// Another Service, `sticky`, with session affinity and an ingress IP of each family that these sources may use.
pub(super) fn add_sticky(
    balancer: &mut Balancer,
    v4: &[&str],
    v6: &[&str],
    timeout: Duration,
    sources: &[&str],
) {
    let mut sticky = service("10.96.0.2");
    sticky.cluster_ips.push(address("fd96::2"));
    sticky.ingress_ips = vec![address("198.51.100.7"), address("2001:db8::7")];
    sticky.affinity = Some(timeout);
    sticky.external_policy = TrafficPolicy::Local;
    sticky.source_ranges = Some(sources.iter().map(|range| range.parse().unwrap()).collect());
    balancer.set_service(&name("sticky"), Some(Arc::new(sticky)));
    set_backends(balancer, "sticky", v4, v6);
}

pub(super) fn wanted(balancer: &Balancer) -> nft::Table {
    let mut table = structure().table();
    balancer.fill(&mut table);
    table
}

#[test]
fn the_kernel_has_what_is_wanted_and_nft_takes_its_listing_back() {
    selvedge_lab::isolated!(|| {
        let mut balancer = balancer(&["10.244.1.2", "10.244.2.2"], &["fd00::2"]);
        let sources = ["192.0.2.0/24", "198.51.100.0/25", "2001:db8::/48"];
        add_sticky(
            &mut balancer,
            &["10.244.1.2", "10.244.2.2"],
            &["fd00::2"],
            Duration::from_secs(10_800),
            &sources,
        );
        balancer.update();
        let whole = wanted(&balancer);
        nft::apply(std::slice::from_ref(&whole)).unwrap();
        assert_eq!(nft::read(whole.family, TABLE).unwrap().unwrap().table, whole);
        // Without privileges nft does not send more than wmem_default at once.
        let mut table = structure().table_for([1, 2, 3, 100].into_iter().map(Class::of));
        balancer.fill(&mut table);
        let start = std::time::Instant::now();
        nft::apply(std::slice::from_ref(&table)).unwrap();
        println!("written in {:?}", start.elapsed());
        assert_eq!(nft::read(table.family, TABLE).unwrap().unwrap().table, table);
        assert!(nft::apply(std::slice::from_ref(&table)).unwrap().is_empty());
        let Some(listing) = run_nft(&["list", "ruleset"], "") else { return println!("skipped: no nft") };
        let interesting = |line: &&str| {
            line.contains("10.96.0.") || line.contains("numgen random mod 2 ") || line.contains("clients4")
        };
        listing.lines().filter(interesting).for_each(|line| println!("{line}"));
        nft::delete(table.family, TABLE).unwrap();
        run_nft(&["-f", "-"], &listing);
        let changes = nft::apply(std::slice::from_ref(&table)).unwrap();
        assert!(changes.is_empty(), "{changes}");
    });
}

/// Servers at these addresses, whose answer is their own.
pub(super) fn serve(addresses: &[&str]) {
    for at in addresses {
        let listener = TcpListener::bind((address(at), 8080)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                write!(stream, "{}", stream.local_addr().unwrap().ip()).unwrap();
            }
        });
    }
}

/// Who answers.
pub(super) fn ask(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Adds these addresses, the fabric addresses and a route to Services to the namespace.
pub(super) fn lay(addresses: &[&str]) {
    let ip = |arguments: &[&str]| {
        assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
    };
    ip(&["link", "set", "lo", "up"]);
    let fabric = structure().fabric_addresses.into_iter().map(|address| address.to_string());
    for at in addresses.iter().map(|at| (*at).to_owned()).chain(fabric) {
        ip(&["address", "add", &at, "dev", "lo", "nodad"]);
    }
    ip(&["route", "add", "10.96.0.0/16", "dev", "lo"]);
    ip(&["-6", "route", "add", "fd96::/64", "dev", "lo"]);
}

#[test]
fn connections_are_spread_evenly_and_refused_without_endpoints() {
    selvedge_lab::isolated!(|| {
        const V4: [&str; 3] = ["10.244.1.2", "10.244.2.2", "10.244.2.3"];
        const V6: [&str; 2] = ["fd00::2", "fd00::3"];
        const EACH: usize = 300;
        lay(&[&V4[..], &V6].concat());
        serve(&[&V4[..], &V6].concat());
        let mut balancer = balancer(&V4, &V6);
        let mut connection = Connection::open().unwrap();
        connection.apply(&[wanted(&balancer)]).unwrap();
        for (to, backends) in [("10.96.0.1:80", &V4[..]), ("[fd96::1]:80", &V6)] {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for _ in 0..EACH * backends.len() {
                *seen.entry(ask(to.parse().unwrap()).unwrap()).or_default() += 1;
            }
            // Chi-squared with at most 2 degrees of freedom: above 27.6 once in a million runs.
            let squares: f64 =
                seen.values().map(|count| (f64::from(u32::try_from(*count).unwrap()) - 300.0).powi(2)).sum();
            assert_eq!(seen.len(), backends.len(), "{seen:?}");
            assert!(squares / 300.0 < 27.6, "{seen:?}");
        }
        let refused = |to: &str| ask(to.parse().unwrap()).unwrap_err().kind();
        assert_eq!(refused("10.96.0.1:81"), ErrorKind::ConnectionRefused, "a port that it has not");
        balancer.set_slice(&name("web"), "v4", None);
        connection.update(&balancer.update()).unwrap();
        assert_eq!(refused("10.96.0.1:80"), ErrorKind::ConnectionRefused);
        assert_eq!(ask("[fd96::1]:80".parse().unwrap()).map(|at| V6.contains(&at.as_str())).ok(), Some(true));
        assert!(counters().unwrap()["rejected"].packets >= 2);
    });
}

/// Who answers a client with this address.
pub(super) fn ask_from(from: &str, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(address(from), 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text)?;
    Ok(text)
}

const V4: [&str; 3] = ["10.244.1.2", "10.244.1.3", "10.244.1.4"];
const V6: [&str; 3] = ["fd00::2", "fd00::3", "fd00::4"];

#[test]
fn clients_come_back_to_their_backend_as_long_as_it_serves() {
    selvedge_lab::isolated!(|| {
        let clients: Vec<String> = (1..=40).map(|number| format!("172.16.0.{number}")).collect();
        let clients6: Vec<String> = (1..=40).map(|number| format!("fd16::{number}")).collect();
        let all: Vec<&str> =
            clients.iter().chain(&clients6).map(String::as_str).chain(V4).chain(V6).collect();
        lay(&all);
        serve(&[&V4[..], &V6].concat());
        let mut balancer = balancer(&[], &[]);
        let timeout = Duration::from_secs(4);
        add_sticky(&mut balancer, &V4, &V6, timeout, &[]);
        balancer.update();
        let mut connection = Connection::open().unwrap();
        connection.apply(&[wanted(&balancer)]).unwrap();
        for (clients, to, backends) in [(&clients, "10.96.0.2:80", V4), (&clients6, "[fd96::2]:80", V6)] {
            let answers =
                || -> Vec<String> { clients.iter().map(|from| ask_from(from, to).unwrap()).collect() };
            let first = answers();
            let all: BTreeSet<&str> = first.iter().map(String::as_str).collect();
            assert_eq!(all.len(), backends.len(), "{all:?}");
            // For longer than the timeout: each connection begins it again.
            for _ in 0..5 {
                std::thread::sleep(timeout / 4);
                assert_eq!(answers(), first);
            }
            // One is gone: its clients find others, and keep them; all others keep theirs.
            let set = |balancer: &mut Balancer, backends: &[&str]| {
                let (v4, v6) = if to.starts_with('[') { (&V4[..], backends) } else { (backends, &V6[..]) };
                set_backends(balancer, "sticky", v4, v6);
                balancer.update()
            };
            connection.update(&set(&mut balancer, &backends[1..])).unwrap();
            let second = answers();
            assert!(!second.iter().any(|at| at == backends[0]), "{second:?}");
            for (before, now) in first.iter().zip(&second).filter(|(before, _)| *before != backends[0]) {
                assert_eq!(before, now);
            }
            // It comes back, and nobody is moved. Nor where another agent starts.
            connection.update(&set(&mut balancer, &backends)).unwrap();
            assert_eq!(answers(), second);
            let kernel = nft::read(nft::Family::Inet, TABLE).unwrap().unwrap().table;
            let mut next = Balancer::default();
            next.keep(&kernel);
            next.set_node(node());
            add_sticky(&mut next, &V4, &V6, timeout, &[]);
            next.update();
            let mut wanted = structure().table();
            next.fill(&mut wanted);
            let sticky = |table: &nft::Table| {
                let sets =
                    table.sets.iter().filter(|(name, _)| name.contains("slots") || name.contains("numbers"));
                sets.map(|(name, set)| (name.clone(), set.clone())).collect::<Vec<_>>()
            };
            assert_eq!(sticky(&wanted), sticky(&kernel));
        }
        // Whoever does not come back in time is forgotten.
        let remembered = |connection: &mut Connection| {
            connection.elements(nft::Family::Inet, TABLE, "clients6-default/sticky/tcp/80").unwrap().len()
        };
        assert!(remembered(&mut connection) > 0);
        selvedge_lab::process::wait_for("no client", timeout * 10, || remembered(&mut connection) == 0)
            .unwrap();
        assert_eq!(counters().unwrap()["affinity-full"].packets, 0);
    });
}

#[test]
fn a_client_that_finds_no_room_is_served_without_affinity() {
    selvedge_lab::isolated!(|| {
        lay(&[&V4[..], &["172.16.0.1", "172.16.0.2", "172.16.0.3"]].concat());
        serve(&V4);
        let mut balancer = balancer(&[], &[]);
        add_sticky(&mut balancer, &V4, &[], Duration::from_secs(60), &[]);
        balancer.update();
        let mut table = wanted(&balancer);
        let clients = table.sets.get_mut("clients4-default/sticky/tcp/80").unwrap();
        clients.size = Some(2);
        nft::apply(&[table]).unwrap();
        let answer = |client: &str| ask_from(client, "10.96.0.2:80").unwrap();
        let kept: Vec<String> = ["172.16.0.1", "172.16.0.2"].map(answer).into();
        let others: BTreeSet<String> = (0..40).map(|_| answer("172.16.0.3")).collect();
        assert_eq!(others.len(), V4.len());
        assert_eq!(["172.16.0.1", "172.16.0.2"].map(answer).as_slice(), kept);
        assert_eq!(counters().unwrap()["affinity-full"].packets, 40);
    });
}

/// Source ranges are for ingress IPs alone, and for new connections alone.
#[test]
fn an_ingress_ip_is_for_its_sources() {
    selvedge_lab::isolated!(|| {
        lay(&[&V4[..], &["172.16.0.1", "172.16.0.2", "198.51.100.7"], &V6, &["fd16::1", "2001:db8::7"]]
            .concat());
        serve(&[&V4[..], &V6].concat());
        let mut balancer = balancer(&[], &[]);
        let minute = Duration::from_secs(60);
        add_sticky(&mut balancer, &V4, &V6, minute, &["172.16.0.1/32", "192.0.2.0/24"]);
        balancer.update();
        let mut connection = Connection::open().unwrap();
        connection.apply(&[wanted(&balancer)]).unwrap();
        let refused = |from: &str, to: &str| {
            let kind = ask_from(from, to).map_err(|error| error.kind());
            assert!(matches!(kind, Err(ErrorKind::TimedOut)), "{from} {to}: {kind:?}");
        };
        ask_from("172.16.0.1", "198.51.100.7:80").unwrap();
        ask_from("198.51.100.7", "198.51.100.7:80").unwrap();
        refused("172.16.0.2", "198.51.100.7:80");
        refused("fd16::1", "[2001:db8::7]:80");
        for (from, to) in [("172.16.0.2", "10.96.0.2:80"), ("fd16::1", "[fd96::2]:80")] {
            ask_from(from, to).unwrap();
        }
        assert!(counters().unwrap()["refused"].packets >= 2);
        // The list changes, under a connection that runs.
        let server = TcpListener::bind((address(V4[0]), 9090)).unwrap();
        let mut long = service("10.96.0.3");
        long.ingress_ips = vec![address("198.51.100.7")];
        long.ports[0].port = 90;
        let mut slice = slice(vec![endpoint(V4[0], "here")]);
        slice.ports[0].port = 9090;
        balancer.set_slice(&name("long"), "v4", Some(Arc::new(slice)));
        let mut set = |ranges: Option<&str>| {
            long.source_ranges = ranges.map(|range| vec![range.parse().unwrap()]);
            balancer.set_service(&name("long"), Some(Arc::new(long.clone())));
            connection.update(&balancer.update()).unwrap();
        };
        set(None);
        let mut running = TcpStream::connect("198.51.100.7:90").unwrap();
        let mut served = server.accept().unwrap().0;
        set(Some("203.0.113.0/24"));
        running.write_all(b"still").unwrap();
        served.read_exact(&mut [0; 5]).unwrap();
        refused("172.16.0.1", "198.51.100.7:90");
        set(Some("172.16.0.0/16"));
        let client = std::thread::spawn(|| ask_from("172.16.0.1", "198.51.100.7:90"));
        drop(server.accept().unwrap());
        client.join().unwrap().unwrap();
    });
}

/// A client of UDP that never changes its port is heard by whoever serves now: through no endpoint, a Service that is deleted,
/// and back; and connections of others stay.
#[test]
fn a_datagram_follows_the_endpoints() {
    selvedge_lab::isolated!(|| {
        lay(&[&V4[..], &["172.16.0.1", "192.0.2.1"], &V6].concat());
        let (first, second) = (V4[0], V4[1]);
        let servers = [first, second].map(|at| UdpSocket::bind((address(at), 8080)).unwrap());
        let bystander = UdpSocket::bind("192.0.2.1:30081").unwrap();
        for server in servers.iter().chain([&bystander]) {
            server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        }
        let mut balancer = Balancer::default();
        balancer.set_node(node());
        let mut udp = service("10.96.0.1");
        udp.ports[0].protocol = Protocol::Udp;
        udp.ports[0].node_port = Some(30_080);
        let with = |addresses: &[&str]| {
            let mut slice = slice(addresses.iter().map(|at| endpoint(at, "here")).collect());
            slice.ports[0].protocol = Protocol::Udp;
            Some(Arc::new(slice))
        };
        balancer.set_service(&name("web"), Some(Arc::new(udp.clone())));
        balancer.set_slice(&name("web"), "v4", with(&[first]));
        balancer.update();
        let mut connection = Connection::open().unwrap();
        connection.apply(&[wanted(&balancer)]).unwrap();
        let forget = |balancer: &mut Balancer| {
            let stale = balancer.take_stale();
            crate::kernel::conntrack::forget(Protocol::Udp, |found| stale.has(found)).unwrap()
        };
        forget(&mut balancer);
        let client = UdpSocket::bind("172.16.0.1:4000").unwrap();
        let hears = |server: &UdpSocket| server.recv(&mut [0; 8]).is_ok();
        let send = |to: &str| drop(client.send_to(b"x", to));
        let targets = ["10.96.0.1:80", "192.0.2.1:30080"];
        let assert_heard_by = |server: Option<usize>| {
            for to in targets {
                send(to);
                let heard = [0, 1].map(|at| hears(&servers[at]));
                assert_eq!(heard, [server == Some(0), server == Some(1)], "{to}");
            }
            send("192.0.2.1:30081");
            assert!(hears(&bystander));
        };
        assert_heard_by(Some(0));
        balancer.set_slice(&name("web"), "v4", with(&[first, second]));
        connection.update(&balancer.update()).unwrap();
        assert_eq!(forget(&mut balancer), 0, "who is served stays");
        assert_heard_by(Some(0));
        // Another client, of the endpoint that stays.
        let heard = |from: u16| {
            let other = UdpSocket::bind(("172.16.0.1".parse::<IpAddr>().unwrap(), from)).unwrap();
            other.send_to(b"x", targets[0]).unwrap();
            [0, 1].map(|at| hears(&servers[at])) == [false, true]
        };
        assert!((5000..5100).any(heard));
        crate::kernel::conntrack::forget(Protocol::Udp, |found| {
            found.client.port() >= 5000 && found.server.ip() != address(second)
        })
        .unwrap();
        // The other client's goes with the last endpoint.
        for (addresses, heard_by, stale) in
            [(&[second][..], Some(1), 2), (&[], None, 3), (&[first], Some(0), 0)]
        {
            balancer.set_slice(&name("web"), "v4", with(addresses));
            connection.update(&balancer.update()).unwrap();
            assert_eq!(forget(&mut balancer), stale, "{addresses:?}");
            assert_heard_by(heard_by);
        }
        balancer.set_service(&name("web"), None);
        connection.update(&balancer.update()).unwrap();
        assert_eq!(forget(&mut balancer), targets.len());
        assert_heard_by(None);
        // One that began while there was no Service.
        balancer.set_service(&name("web"), Some(Arc::new(udp)));
        connection.update(&balancer.update()).unwrap();
        assert_eq!(forget(&mut balancer), targets.len());
        assert_heard_by(Some(0));
    });
}

/// Packets that draw an index while backends go find another one.
#[test]
fn every_datagram_finds_a_backend_while_backends_come_and_go() {
    selvedge_lab::isolated!(|| {
        const V4: [&str; 20] = [
            "10.244.1.2",
            "10.244.1.3",
            "10.244.1.4",
            "10.244.1.5",
            "10.244.1.6",
            "10.244.1.7",
            "10.244.1.8",
            "10.244.1.9",
            "10.244.1.10",
            "10.244.1.11",
            "10.244.1.12",
            "10.244.1.13",
            "10.244.1.14",
            "10.244.1.15",
            "10.244.1.16",
            "10.244.1.17",
            "10.244.1.18",
            "10.244.1.19",
            "10.244.1.20",
            "10.244.1.21",
        ];
        const CHANGES: usize = 3000;
        lay(&V4);
        let servers: Vec<UdpSocket> = V4
            .iter()
            .map(|at| {
                let socket = UdpSocket::bind((address(at), 8080)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        let with = |count: usize| {
            let mut slice = slice(V4[..count].iter().map(|at| endpoint(at, "here")).collect());
            slice.ports[0].protocol = Protocol::Udp;
            Some(Arc::new(slice))
        };
        let mut balancer = Balancer::default();
        let mut udp = service("10.96.0.1");
        udp.ports[0].protocol = Protocol::Udp;
        balancer.set_service(&name("web"), Some(Arc::new(udp)));
        balancer.set_slice(&name("web"), "v4", with(V4.len()));
        balancer.update();
        Connection::open().unwrap().apply(&[wanted(&balancer)]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let (sent, received) = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut connection = Connection::open().unwrap();
                for change in 0..CHANGES {
                    balancer.set_slice(&name("web"), "v4", with(1 + (change * 7) % V4.len()));
                    connection.update(&balancer.update()).unwrap();
                }
                done.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            let (mut sent, mut received) = (0_usize, 0_usize);
            let drain = |received: &mut usize| {
                for server in &servers {
                    while server.recv(&mut [0; 8]).is_ok() {
                        *received += 1;
                    }
                }
            };
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // A socket of its own: a connection of its own.
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.send_to(b"x", "10.96.0.1:80").unwrap();
                sent += 1;
                if sent % 16 == 0 {
                    drain(&mut received);
                }
            }
            drain(&mut received);
            (sent, received)
        });
        println!("{sent} datagrams during {CHANGES} changes");
        assert_eq!((sent, counters().unwrap()["rejected"].packets), (received, 0));
    });
}
