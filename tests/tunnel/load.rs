//! A tunnel with many peers, and what handshakes cost.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use selvedge::tunnel::api::{DeviceConfig, IdentityConfig, PeerConfig, PeerKeyConfig};
use selvedge::tunnel::device::config::{Config, Identity, Peer, PeerKey};
use selvedge::tunnel::device::{Device, DeviceEvent, Opened};
use selvedge::tunnel::endpoint::Endpoint;
use selvedge::tunnel::io::udp::UdpSockets;
use selvedge_keys::{KeyStore, PrivateKey, PublicKey};
use selvedge_lab::isolated;

use crate::support::tunnel::Tunnel;
use crate::support::{Host, RUNTIME, until};

/// The port of all simulated peers.
const PORT: u16 = 51999;
/// How long a step may take, in whatever build and however busy the machine is.
const LIMIT: Duration = Duration::from_secs(120);

/// What `name` says in the environment, or a number that any test run has time for.
fn number(name: &str, default: u16) -> u16 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn private(number: u16) -> PrivateKey {
    let [high, low] = number.to_be_bytes();
    PrivateKey::from_bytes([&[7, high, low][..], &[7; 29]].concat().try_into().unwrap())
}

/// Where the simulated peer `number` is.
fn outside(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

/// Its address in the tunnel.
fn inside(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(100, 64, high, low)
}

fn device(own: PrivateKey, peer: PublicKey, endpoint: Option<SocketAddr>, now: Instant) -> Device {
    let mut device = Device::new(1420, now);
    let peer = Peer {
        name: "hub".into(),
        keys: vec![PeerKey { public_key: peer, epoch: 1, preshared_key: None, is_retired: false }],
        endpoints: endpoint.into_iter().collect(),
        allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
        persistent_keepalive: None,
    };
    let identities = vec![Identity { epoch: 1, private_key: own, is_withdrawn: false }];
    device.apply(&Config { identities, peers: vec![peer], ..Config::default() }, now).unwrap();
    device
}

/// Peers that only answer, all on one socket, each with an address of its own.
struct Fleet {
    /// When each was last confirmed, and when it last got a packet.
    seen: Mutex<Vec<[Option<Instant>; 2]>>,
    is_over: AtomicBool,
}

impl Fleet {
    fn new(count: u16) -> Self {
        Self { seen: Mutex::new(vec![[None; 2]; count.into()]), is_over: AtomicBool::new(false) }
    }

    /// How long after `start` the last of `peers` was confirmed (0) or got a packet (1), once all did.
    fn all(&self, peers: std::ops::Range<u16>, what: usize, start: Instant) -> Option<Duration> {
        let seen = self.seen.lock().unwrap();
        let times = seen[usize::from(peers.start)..usize::from(peers.end)].iter();
        times
            .map(|seen| seen[what]?.checked_duration_since(start))
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
    }

    /// Serves until it is over.
    fn serve(&self, mut udp: UdpSockets, hub: PublicKey) {
        let count = self.seen.lock().unwrap().len();
        let now = Instant::now();
        let mut devices: Vec<_> =
            (0..count).map(|at| device(private(at.try_into().unwrap()), hub, None, now)).collect();
        let (mut buffer, mut out) = (vec![0; 65_536], vec![0; 65_536]);
        while !self.is_over.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(udp.v4()), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::from(50_u8)).unwrap();
            while let Ok(batch) = udp.v4().receive(&mut buffer) {
                let Some(IpAddr::V4(to)) = batch.from.source else { panic!("no source") };
                let [_, _, high, low] = to.octets();
                let at = usize::from(u16::from_be_bytes([high, low]));
                for datagram in buffer[..batch.len].chunks(batch.segment) {
                    self.take(at, &mut devices[at], (batch.from, datagram), &mut out, &mut udp);
                }
            }
        }
    }

    fn take(
        &self,
        at: usize,
        device: &mut Device,
        (from, datagram): (Endpoint, &[u8]),
        out: &mut [u8],
        udp: &mut UdpSockets,
    ) {
        let now = Instant::now();
        if let Opened::Packet { .. } = device.open(from, datagram, out, now) {
            self.seen.lock().unwrap()[at][1] = Some(now);
        }
        while let Some(transmit) = device.poll_transmit() {
            let socket = udp.to_mut(&transmit.to.address).unwrap();
            let _ = socket.send(&transmit.bytes, transmit.bytes.len(), transmit.to);
        }
        while let Some(event) = device.poll_event() {
            if let DeviceEvent::Confirmed { .. } = event {
                self.seen.lock().unwrap()[at][0] = Some(now);
            }
        }
    }
}

fn config(tunnel: &Tunnel, count: u16) -> DeviceConfig {
    let peers = (0..count).map(|number| PeerConfig {
        name: format!("peer-{number}"),
        keys: vec![PeerKeyConfig { public_key: private(number).public_key(), epoch: 1, retired: false }],
        endpoints: vec![(outside(number), PORT).into()],
        allowed_ips: vec![IpAddr::from(inside(number)).into()],
        persistent_keepalive: None,
    });
    DeviceConfig {
        key_store: tunnel.run.join("keys"),
        identities: vec![IdentityConfig { epoch: 1, withdrawn: false }],
        listen_port: 51830,
        mtu: 1400,
        firewall_mark: None,
        peers: peers.collect(),
    }
}

/// A worker dies with many peers, a tenth of which are busy. All come back; how soon is printed.
/// `SELVEDGE_PEERS=5000`, in a release build, is what `docs/tunnel.md` shows.
#[test]
fn a_worker_dies_among_many_peers() {
    let count = number("SELVEDGE_PEERS", 200);
    isolated!(|| {
        let busy = count - count / 10..count;
        let host = Host::new();
        host.address("lo", "198.18.0.1/16");
        let tunnel = Tunnel::start(&host, "wg1", &["--managed"]);
        let keys = KeyStore::open(tunnel.run.join("keys")).unwrap().ensure(jiff::Timestamp::now()).unwrap();
        host.address("wg1", "100.64.255.1/10");
        let udp = host.run(|| UdpSockets::bind(PORT).unwrap());
        let fleet = Fleet::new(count);
        std::thread::scope(|scope| {
            scope.spawn(|| fleet.serve(udp, keys.private_key.public_key()));
            let sender = host.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
            scope.spawn({
                let (fleet, busy) = (&fleet, busy.clone());
                move || {
                    while !fleet.is_over.load(Ordering::Relaxed) {
                        for number in busy.clone() {
                            // Lost while the device is not there or its queue is full, as any traffic.
                            let _ = sender.send_to(&[0; 200], (inside(number), 9));
                        }
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
            });
            let put = async || {
                tunnel
                    .client()
                    .put::<_, selvedge::tunnel::api::Applied>("/v1/config", &config(&tunnel, count))
                    .await
            };
            let start = Instant::now();
            RUNTIME.block_on(put()).unwrap();
            let first = until("all peers have sessions", LIMIT, || fleet.all(0..count, 0, start));
            until("busy peers get packets", LIMIT, || fleet.all(busy.clone(), 1, start));
            let start = Instant::now();
            kill(tunnel.worker(), Signal::SIGKILL).unwrap();
            let flows = until("busy peers get packets again", LIMIT, || fleet.all(busy.clone(), 1, start));
            let all = until("all peers have sessions again", LIMIT, || fleet.all(0..count, 0, start));
            fleet.is_over.store(true, Ordering::Relaxed);
            let load = std::fs::read_to_string("/proc/loadavg").unwrap();
            println!(
                "{count} peers, {} of them busy: configured after {first:?}; worker killed: traffic flows again after \
                 {flows:?}, all peers after {all:?}; load {load}",
                busy.len()
            );
        });
    });
}

/// What each step of a handshake costs, in microseconds.
#[test]
fn what_handshakes_cost() {
    let count = number("SELVEDGE_HANDSHAKES", 50);
    let now = Instant::now();
    let (hub, stranger) = (private(40_000), private(40_001));
    let (at_hub, at_peer): (SocketAddr, SocketAddr) =
        ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
    let mut times = [Duration::ZERO; 6];
    let mut out = [0; 256];
    let timed = |total: &mut Duration, step: &mut dyn FnMut()| {
        let start = Instant::now();
        step();
        *total += start.elapsed();
    };
    let mut closed = device(hub.clone(), stranger.public_key(), None, now);
    let mut flooded = device(hub.clone(), stranger.public_key(), None, now);
    for step in 0..count {
        let now = now + Duration::from_millis(20) * u32::from(step);
        let own = private(step);
        let mut a = device(own.clone(), hub.public_key(), Some(at_hub), now);
        let mut b = device(hub.clone(), own.public_key(), None, now);
        timed(&mut times[0], &mut || a.handle_timeout(now));
        let initiation = a.poll_transmit().expect("an initiation").bytes;
        timed(&mut times[1], &mut || _ = b.open(at_peer.into(), &initiation, &mut out, now));
        let response = b.poll_transmit().expect("a response").bytes;
        timed(&mut times[2], &mut || _ = a.open(at_hub.into(), &response, &mut out, now));
        let keepalive = a.poll_transmit().expect("a keepalive").bytes;
        timed(&mut times[3], &mut || _ = b.open(at_peer.into(), &keepalive, &mut out, now));
        assert!(b.reaches("hub", now), "no session");
        timed(&mut times[4], &mut || _ = closed.open(at_peer.into(), &initiation, &mut out, now));
        // More than what is opened without a cookie: at first, and in the 20 ms since.
        for _ in 0..if step == 0 { 300 } else { 25 } {
            flooded.open(at_peer.into(), &initiation, &mut out, now);
        }
        while flooded.poll_transmit().is_some() {}
        timed(&mut times[5], &mut || _ = flooded.open(at_peer.into(), &initiation, &mut out, now));
        assert_eq!(flooded.poll_transmit().expect("a cookie reply").bytes[0], 3);
    }
    let [begin, answer, take, confirm, unknown, cookie] = times.map(|time| time / u32::from(count));
    println!(
        "begin {begin:?} + take the response {take:?} = {:?}; answer {answer:?} + confirm {confirm:?} = {:?}; an unknown key \
         {unknown:?}; a cookie reply {cookie:?}",
        begin + take,
        answer + confirm
    );
}
