use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket as Socket};
use std::os::fd::AsFd as _;
use std::thread;

use selvedge_keys::PrivateKey;
use tokio::sync::oneshot;

use super::*;
use crate::kernel::address::Address;
use crate::kernel::link::{End, Id, Update, Veth, delete, update};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::NetNs;
use crate::tunnel::device::config::{Config, Identity, Peer, PeerKey};
use crate::tunnel::io::joins::Joins;

const OUTER: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];
const LIMIT: Duration = Duration::from_secs(20);

/// A worker in a namespace.
struct Side {
    ns: NetNs,
    worker: WorkerHandle,
    port: u16,
    events: mpsc::Receiver<DeviceEvent>,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn bring_up(ns: &NetNs, name: &str, address: Option<Ipv4Addr>) {
    block_on(async {
        let netlink = Netlink::in_ns(ns).unwrap();
        let link = netlink.link_named(name).await.unwrap().expect(name);
        let up = Update { up: Some(true), ..Update::default() };
        netlink.apply([update(Id::Index(link.index), &up)]).await.unwrap();
        if let Some(address) = address {
            let net = ipnet::IpNet::new(address.into(), 24).unwrap();
            netlink.apply([Address::new(link.index, net).add()]).await.unwrap();
        }
    });
}

/// Two namespaces with a veth pair between them and a worker in each, not yet configured.
fn ends() -> [Side; 2] {
    let namespaces = [NetNs::create().unwrap(), NetNs::create().unwrap()];
    block_on(async {
        let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
        let veth = Veth { end: end("veth0"), peer: end("veth1"), peer_ns: Some(&namespaces[1]) };
        Netlink::in_ns(&namespaces[0]).unwrap().apply([veth.create()]).await.unwrap();
    });
    let mut at = 0;
    namespaces.map(|ns| {
        let (veth, outer, inner) = (["veth0", "veth1"][at], OUTER[at], INNER[at]);
        at += 1;
        bring_up(&ns, "lo", None);
        bring_up(&ns, veth, Some(outer));
        let (tun, udp) = ns.run(|| (TunQueue::open("sel0").unwrap(), UdpSockets::bind(0).unwrap())).unwrap();
        ns.run(|| tun.set_mtu(1420)).unwrap().unwrap();
        bring_up(&ns, "sel0", Some(inner));
        let (sender, events) = mpsc::channel(16);
        let port = udp.port();
        let worker = Worker::spawn(Parts { tun, udp, mtu: 1420, events: sender, inheritance: None }).unwrap();
        Side { ns, worker, port, events }
    })
}

fn connect(ends: &[Side; 2]) {
    let keys = [(); 2].map(|()| PrivateKey::generate().unwrap());
    for own in 0..2 {
        let other = 1 - own;
        let config = Config {
            identities: vec![Identity { epoch: 1, private_key: keys[own].clone(), is_withdrawn: false }],
            peers: vec![Peer {
                name: "other".into(),
                keys: vec![PeerKey {
                    public_key: keys[other].public_key(),
                    epoch: 1,
                    preshared_key: None,
                    is_retired: false,
                }],
                endpoints: vec![(OUTER[other], ends[other].port).into()],
                allowed_ips: vec![ipnet::IpNet::from(IpAddr::from(INNER[other]))],
                persistent_keepalive: None,
            }],
            ..Config::default()
        };
        let (reply, answer) = oneshot::channel();
        ends[own].worker.send(Command::Apply { config, reply }).unwrap();
        assert_eq!(answer.blocking_recv().unwrap().unwrap().added, ["other"]);
    }
}

fn report(end: &Side) -> WorkerReport {
    let (reply, answer) = oneshot::channel();
    end.worker.send(Command::Report { reply }).unwrap();
    answer.blocking_recv().unwrap()
}

/// Carries `bytes` over one TCP connection through the tunnel and back.
fn carry(ends: &[Side; 2], bytes: &[u8]) -> Vec<u8> {
    let listener = ends[1].ns.run(|| TcpListener::bind((INNER[1], 0)).unwrap()).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = ends[0].ns.run(|| TcpStream::connect_timeout(&to, LIMIT).unwrap()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            server.write_all(&received).unwrap();
        });
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        back
    })
}

#[test]
fn two_workers_carry_what_they_are_given() {
    selvedge_lab::isolated!(|| {
        let mut ends = ends();
        connect(&ends);
        let bytes: Vec<_> = (0..8_000_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[2]).collect();
        assert!(carry(&ends, &bytes) == bytes, "8 MB came back changed");
        let event = block_on(async { tokio::time::timeout(LIMIT, ends[0].events.recv()).await });
        assert!(matches!(event, Ok(Some(DeviceEvent::Confirmed { .. }))), "{event:?}");
        let WorkerReport { device, offloads, joins, resent } = report(&ends[1]);
        assert_eq!((joins, resent), (Joins::new(offloads.tun_tso, offloads.tun_uso), 0));
        assert!(offloads.tun_tso && offloads.udp_gso && offloads.udp_gro, "{offloads:?}");
        assert!(device.peers[0].rx_bytes > 8_000_000);
        assert_eq!((device.counters.wrong_source, device.counters.invalid_packet), (0, 0), "{device:?}");
    });
}

#[test]
fn datagrams_of_every_size_arrive_as_they_were() {
    selvedge_lab::isolated!(|| {
        let ends = ends();
        connect(&ends);
        let server = ends[1].ns.run(|| Socket::bind((INNER[1], 0)).unwrap()).unwrap();
        let to = server.local_addr().unwrap();
        let client = ends[0].ns.run(|| Socket::bind((INNER[0], 0)).unwrap()).unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let mut buffer = [0; 4000];
        // 1392 fills a packet of 1420; more is sent in fragments.
        for size in (0..64).chain([1370, 1391, 1392, 1393, 3000]) {
            let sent: Vec<_> = (0..size).map(|at| u8::try_from(at % 255).unwrap()).collect();
            client.send_to(&sent, to).unwrap();
            let (count, _) = server.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{size}: {error}"));
            assert_eq!(buffer[..count], sent, "{size} bytes");
        }
    });
}

#[test]
fn datagrams_sent_and_carried_as_one_arrive_as_many() {
    selvedge_lab::isolated!(|| {
        let ends = ends();
        connect(&ends);
        let server = ends[1].ns.run(|| Socket::bind((INNER[1], 0)).unwrap()).unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        let to = server.local_addr().unwrap();
        let mut client = ends[0].ns.run(|| UdpSockets::bind(0).unwrap()).unwrap();
        let sent: Vec<_> = (0..20_500_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut buffer = [0; 2000];
        for round in 0..5 {
            client.to_mut(&to).unwrap().send(&sent, 1000, to.into()).result.unwrap();
            for expected in sent.chunks(1000) {
                let (count, _) =
                    server.recv_from(&mut buffer).unwrap_or_else(|error| panic!("round {round}: {error}"));
                assert!(buffer[..count] == *expected, "round {round}: {count} other bytes");
            }
        }
    });
}

#[test]
fn packets_for_nobody_are_counted_and_answered() {
    selvedge_lab::isolated!(|| {
        let ends = ends();
        let to = (INNER[1], 9).into();
        let error = ends[0].ns.run(|| TcpStream::connect_timeout(&to, LIMIT).unwrap_err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
        assert!(report(&ends[0]).device.counters.no_peer > 0);
    });
}

#[test]
fn a_deleted_device_ends_the_worker_and_says_so() {
    selvedge_lab::isolated!(|| {
        let [mut one, other] = ends();
        block_on(async {
            Netlink::in_ns(&one.ns).unwrap().apply([delete(Id::Name("sel0"))]).await.unwrap();
            let ended = tokio::time::timeout(LIMIT, one.worker.ended()).await.expect("it ends by itself");
            assert!(matches!(ended, Err(WorkerError::TunGone { .. })), "{ended:?}");
        });
        assert_eq!(one.worker.send(Command::Stop), Err(Stopped));
        other.worker.send(Command::Stop).unwrap();
        other.worker.join().unwrap();
    });
}

#[test]
fn a_stopped_worker_leaves_the_descriptors_to_others() {
    selvedge_lab::isolated!(|| {
        let tun = TunQueue::open("sel0").unwrap();
        let copy = tun.as_fd().try_clone_to_owned().unwrap();
        let (events, _) = mpsc::channel(1);
        let parts = Parts { tun, udp: UdpSockets::bind(0).unwrap(), mtu: 1420, events, inheritance: None };
        let worker = Worker::spawn(parts).unwrap();
        worker.send(Command::Stop).unwrap();
        worker.join().unwrap();
        assert_eq!(TunQueue::from_fd(copy).unwrap().name(), "sel0");
    });
}

#[test]
fn events_without_room_stay_where_they_are() {
    let (sender, mut listener) = mpsc::channel(2);
    let mut events = Events::new(sender);
    let silent = |peer: u8| DeviceEvent::Silent { peer: peer.to_string() };
    let mut left: std::collections::VecDeque<_> = (0..5).map(silent).collect();
    assert_eq!(events.deadline(), None);
    events.pass_on(|| left.pop_front());
    assert_eq!(left, [silent(2), silent(3), silent(4)]);
    assert!(events.deadline().is_some(), "somebody has to come back for the others");
    assert_eq!([listener.try_recv(), listener.try_recv()], [Ok(silent(0)), Ok(silent(1))]);
    events.pass_on(|| left.pop_front());
    events.pass_on(|| left.pop_front());
    assert_eq!(left, [silent(4)]);
    drop(listener);
    events.pass_on(|| left.pop_front());
    assert!(left.is_empty(), "without a listener nothing piles up");
    assert_eq!(events.deadline(), None);
}

#[test]
fn a_fault_that_stays_is_taken_slowly() {
    let mut faults = Faults::default();
    let mut turns = 0;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(200) {
        faults.note("a test", Err(io::ErrorKind::Other.into()));
        faults.pause();
        turns += 1;
    }
    assert!(turns <= Faults::MANY + 11, "{turns} turns in 200 ms");
}
