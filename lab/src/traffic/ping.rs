//! A ping that goes on in the background and remembers every packet: losses, gaps, round trips.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use socket2::{Protocol, Socket, Type};

use super::{Canary, Error, failed, socket};
use crate::packet;

/// How long replies to the last requests are waited for.
const LAST: Duration = Duration::from_millis(1500);
const READ: Duration = Duration::from_millis(50);
const BUFFER: usize = 4 << 20;

/// A running ping.
#[derive(Debug)]
pub struct Ping {
    shared: Arc<Shared>,
    interval: Duration,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    to: IpAddr,
    ident: u16,
    stop: AtomicBool,
    quiet: AtomicBool,
    sent: AtomicU64,
    refused: AtomicU64,
    /// Sequence number to time of the first reply; the time of the request is in the payload.
    replies: Mutex<HashMap<u64, Reply>>,
    duplicates: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Reply {
    at: Duration,
    round_trip: Duration,
}

/// What became of a ping.
#[derive(Debug, Clone)]
pub struct PingReport {
    /// Requests sent, or tried to.
    pub sent: u64,
    /// Requests that the kernel refused to send.
    pub refused: u64,
    /// Requests answered.
    pub received: u64,
    /// Replies that came more than once.
    pub duplicates: u64,
    /// The longest time without a reply, from one to the next, in the middle and at both ends.
    pub longest_gap: Duration,
    /// Shortest, mean and longest round trip.
    pub round_trip: Option<[Duration; 3]>,
    /// Time between requests.
    pub interval: Duration,
}

impl PingReport {
    /// Requests without an answer.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

impl Ping {
    /// Sends an echo request from `ns` to `to` every `interval`, with the canary in it, until stopped.
    pub fn start(ns: &NetNs, to: IpAddr, interval: Duration, canary: &Canary) -> Result<Self, Error> {
        let protocol = if to.is_ipv6() { Protocol::ICMPV6 } else { Protocol::ICMPV4 };
        let peer = SocketAddr::new(to, 0);
        let socket = Arc::new(socket(ns, peer, Type::RAW, Some(protocol))?);
        let prepare = || {
            socket.connect(&peer.into())?;
            socket.set_recv_buffer_size(BUFFER)?;
            socket.set_read_timeout(Some(READ))
        };
        prepare().map_err(failed(format!("ping {to}")))?;
        let mut ident = [0; 2];
        getrandom::fill(&mut ident)
            .map_err(|error| failed("number a ping")(io::Error::other(error.to_string())))?;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            to,
            ident: u16::from_be_bytes(ident),
            stop: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            replies: Mutex::default(),
            duplicates: AtomicU64::new(0),
        });
        let (sending, receiving) = (shared.clone(), shared.clone());
        let (out, payload) = (socket.clone(), canary.fill(Canary::LENGTH));
        let threads = vec![
            std::thread::spawn(move || sending.send(&out, interval, &payload)),
            std::thread::spawn(move || receiving.receive(&socket)),
        ];
        Ok(Self { shared, interval, threads })
    }

    /// Replies so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.replies.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Ends it, after waiting for replies that are still under way.
    #[must_use]
    pub fn stop(mut self) -> PingReport {
        self.shared.stop.store(true, Ordering::Release);
        let (receiver, sender) = (self.threads.pop(), self.threads.pop());
        sender.map(JoinHandle::join);
        let deadline = Instant::now() + LAST;
        let sent = self.shared.sent.load(Ordering::Acquire);
        while self.received() < sent && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.shared.quiet.store(true, Ordering::Release);
        receiver.map(JoinHandle::join);
        self.shared.report(self.interval)
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.quiet.store(true, Ordering::Release);
    }
}

impl Shared {
    fn send(&self, socket: &Socket, interval: Duration, canary: &[u8]) {
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let number = self.sent.load(Ordering::Acquire);
            let request = self.request(number, canary);
            self.sent.store(number + 1, Ordering::Release);
            if socket.send(&request).is_err() {
                self.refused.fetch_add(1, Ordering::AcqRel);
            }
            due += interval;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }

    fn request(&self, number: u64, canary: &[u8]) -> Vec<u8> {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let body = [&number.to_be_bytes()[..], &now.to_be_bytes(), canary].concat();
        let [high, low] = self.ident.to_be_bytes();
        let [.., third, fourth] = number.to_be_bytes();
        // The kernel fills in the checksum of ICMPv6.
        packet::icmp(if self.to.is_ipv6() { 128 } else { 8 }, 0, [high, low, third, fourth], &body)
    }

    fn receive(&self, socket: &Socket) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
        while !self.quiet.load(Ordering::Acquire) {
            let Ok(length) = socket.recv(&mut buffer) else { continue };
            let bytes: Vec<u8> = initialised(&buffer[..length]);
            // Raw IPv4 sockets give the IP header too.
            let message = match self.to {
                IpAddr::V4(_) => bytes.get(usize::from(bytes.first().map_or(0, |b| b & 0x0f)) * 4..),
                IpAddr::V6(_) => Some(&bytes[..]),
            };
            if let Some(message) = message {
                self.take(message);
            }
        }
    }

    fn take(&self, message: &[u8]) -> Option<()> {
        let kind = if self.to.is_ipv6() { 129 } else { 0 };
        let own = *message.first()? == kind && message.get(4..6)? == self.ident.to_be_bytes();
        own.then_some(())?;
        let number = u64::from_be_bytes(message.get(8..16)?.try_into().ok()?);
        let then = u64::from_be_bytes(message.get(16..24)?.try_into().ok()?);
        let at = self.start.elapsed();
        let reply = Reply { at, round_trip: at.saturating_sub(Duration::from_nanos(then)) };
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if replies.insert(number, reply).is_some() {
            self.duplicates.fetch_add(1, Ordering::AcqRel);
        }
        Some(())
    }

    fn report(&self, interval: Duration) -> PingReport {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at: Vec<Duration> = replies.values().map(|reply| reply.at).collect();
        at.sort_unstable();
        let sent = self.sent.load(Ordering::Acquire);
        // The end of the last interval; replies may come after it.
        let end = interval * u32::try_from(sent).unwrap_or(u32::MAX);
        let mut edges = vec![Duration::ZERO];
        edges.extend(&at);
        edges.push(end);
        let longest_gap = edges.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(end);
        let trips: Vec<Duration> = replies.values().map(|reply| reply.round_trip).collect();
        let count = u32::try_from(trips.len()).unwrap_or(u32::MAX);
        let round_trip =
            trips.iter().min().zip(trips.iter().max()).map(|(shortest, longest)| {
                [*shortest, trips.iter().sum::<Duration>() / count.max(1), *longest]
            });
        PingReport {
            sent,
            refused: self.refused.load(Ordering::Acquire),
            received: trips.len() as u64,
            duplicates: self.duplicates.load(Ordering::Acquire),
            longest_gap,
            round_trip,
            interval,
        }
    }
}

fn initialised(bytes: &[MaybeUninit<u8>]) -> Vec<u8> {
    // SAFETY: the socket has written all bytes up to the length that it gave.
    #[expect(unsafe_code, reason = "socket2 receives into uninitialised memory")]
    bytes.iter().map(|byte| unsafe { byte.assume_init() }).collect()
}
