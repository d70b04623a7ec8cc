//! Traffic that never stops: from one namespace to many addresses, by UDP, ICMP and TCP, whatever becomes of it.

use std::io::Write as _;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge_lab::packet;
use selvedge_lab::traffic::Canary;
use socket2::{Domain, Protocol, Socket, Type};

/// Time between rounds; in each round every flow sends a datagram and an echo request.
const PACE: Duration = Duration::from_millis(10);
/// In one of so many rounds connections are begun.
const CONNECT: u64 = 10;
const CONNECTING: Duration = Duration::from_millis(300);

/// Where to, under which name, and with what in it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// What became of the packets to one target.
#[derive(Debug, Default)]
pub(crate) struct Count {
    rounds: AtomicU64,
    answers: AtomicU64,
}

/// One target, while it is sent to.
struct Flow {
    target: Target,
    count: Arc<Count>,
    udp: Socket,
    icmp: Socket,
}

/// A running sender.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    counts: Vec<(Target, Arc<Count>)>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Sends to all targets from `ns`, until dropped.
    pub(crate) fn start(ns: &NetNs, targets: Vec<Target>) -> Self {
        let flows: Vec<Flow> = targets.into_iter().map(|target| Flow::open(ns, target)).collect();
        let counts = flows.iter().map(|flow| (flow.target.clone(), flow.count.clone())).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let (here, stopped) = (ns.run(NetNs::current).unwrap().unwrap(), stop.clone());
        let sender = std::thread::spawn(move || {
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                let next = Instant::now() + PACE;
                flows.iter().for_each(Flow::send);
                if round % CONNECT == 0 {
                    here.run(|| flows.iter().for_each(Flow::connect)).unwrap();
                }
                round += 1;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, counts, threads: vec![sender] }
    }

    /// Adds a TCP connection to `to`, a server of the lab, that never ends and is begun again when it breaks.
    pub(crate) fn with_stream(mut self, ns: &NetNs, to: SocketAddr, canary: &Canary) -> Self {
        let (here, stopped) = (ns.run(NetNs::current).unwrap().unwrap(), self.stop.clone());
        let payload = canary.fill(512);
        self.threads.push(std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let socket = here.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None)).unwrap();
                match socket.unwrap().connected(to) {
                    Some(stream) => stream_on(stream, &payload, &stopped),
                    None => std::thread::sleep(PACE),
                }
            }
        }));
        self
    }

    /// The fewest rounds that were sent to any target.
    pub(crate) fn rounds(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count.rounds.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Answers so far, by target.
    pub(crate) fn answers(&self) -> Vec<(String, u64)> {
        let answers = |count: &Count| count.answers.load(Ordering::Relaxed);
        self.counts.iter().map(|(target, count)| (target.name.clone(), answers(count))).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Flow {
    fn open(ns: &NetNs, target: Target) -> Self {
        let domain = Domain::for_address(target.to);
        let icmp = if target.to.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
        let open = || {
            let sockets = [(Type::DGRAM, Protocol::UDP), (Type::RAW, icmp)]
                .map(|(kind, protocol)| Socket::new(domain, kind, Some(protocol)).unwrap());
            sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
            sockets
        };
        let [udp, icmp] = ns.run(open).unwrap();
        Self { target, count: Arc::default(), udp, icmp }
    }

    /// What the kernel refuses is as good as lost.
    fn send(&self) {
        let to = self.target.to;
        let _ = self.udp.send_to(&self.target.payload, &to.into());
        let kind = if to.is_ipv6() { 128 } else { 8 };
        let echo = packet::icmp(kind, 0, [0x53, 0x4c, 0, 1], &self.target.payload);
        let _ = self.icmp.send_to(&echo, &SocketAddr::new(to.ip(), 0).into());
        self.count.rounds.fetch_add(1, Ordering::Relaxed);
        let mut buffer = [MaybeUninit::uninit(); 2048];
        while self.udp.recv(&mut buffer).is_ok() {
            self.count.answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Begins a connection, and a datagram from a port of its own: both are new to connection tracking.
    fn connect(&self) {
        let to = self.target.to;
        let domain = Domain::for_address(to);
        let tcp = Socket::new(domain, Type::STREAM, None).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let _ = tcp.connect(&to.into());
        let udp = Socket::new(domain, Type::DGRAM, None).unwrap();
        udp.set_nonblocking(true).unwrap();
        let _ = udp.send_to(&self.target.payload, &to.into());
    }
}

trait Connected {
    fn connected(self, to: SocketAddr) -> Option<TcpStream>;
}

impl Connected for Socket {
    fn connected(self, to: SocketAddr) -> Option<TcpStream> {
        self.connect_timeout(&to.into(), CONNECTING).ok()?;
        self.set_nonblocking(true).ok()?;
        Some(self.into())
    }
}

fn stream_on(mut stream: TcpStream, payload: &[u8], stopped: &AtomicBool) {
    let mut next: &[u8] = b"PUT /discard HTTP/1.1\r\nHost: lab\r\n\r\n";
    while !stopped.load(Ordering::Relaxed) {
        match stream.write(next) {
            Ok(_) => next = payload,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        std::thread::sleep(PACE);
    }
}

/// Targets under one name, one of each address.
pub(crate) fn targets(name: &str, addresses: &[IpAddr], port: u16, payload: &[u8]) -> Vec<Target> {
    let target = |address: &IpAddr| Target {
        name: format!("{name}, {}", if address.is_ipv6() { "IPv6" } else { "IPv4" }),
        to: SocketAddr::new(*address, port),
        payload: payload.to_vec(),
    };
    addresses.iter().map(target).collect()
}
