//! The load: TCP streams one way, and a datagram that goes to and fro.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use selvedge::kernel::netns::NetNs;

/// Left out at the start: the connections grow to their speed.
const WARM_UP: Duration = Duration::from_millis(700);
const CHUNK: usize = 128 << 10;
const ROUND_TRIPS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(15);

/// Bits per second that arrive over `streams` connections.
pub(crate) fn throughput(
    from: &NetNs,
    to: &NetNs,
    address: IpAddr,
    streams: usize,
    time: Duration,
) -> anyhow::Result<f64> {
    let listener = to.run(|| TcpListener::bind((address, 0)))??;
    let server = listener.local_addr()?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut threads = Vec::new();
    for _ in 0..streams {
        let mut client = from.run(|| TcpStream::connect_timeout(&server, PATIENCE))??;
        let (mut accepted, _) = listener.accept()?;
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        threads.push(thread::spawn(move || {
            let chunk = vec![0x5a; CHUNK];
            while !stopped.load(Ordering::Relaxed) && client.write_all(&chunk).is_ok() {}
        }));
        threads.push(thread::spawn(move || {
            let mut chunk = vec![0; CHUNK];
            while let Ok(length @ 1..) = accepted.read(&mut chunk) {
                counted.fetch_add(length as u64, Ordering::Relaxed);
            }
        }));
    }
    thread::sleep(WARM_UP);
    let (begin, before) = (Instant::now(), count.load(Ordering::Relaxed));
    thread::sleep(time);
    let (taken, bytes) = (begin.elapsed(), count.load(Ordering::Relaxed) - before);
    stop.store(true, Ordering::Relaxed);
    for one in threads {
        one.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    Ok(bytes as f64 * 8.0 / taken.as_secs_f64())
}

/// What was lost on the way, for those who look for a reason: counters of both namespaces.
pub(crate) fn losses(from: &NetNs, to: &NetNs) -> anyhow::Result<String> {
    let counters = |ns: &NetNs| ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let (sender, receiver) = (counters(from)??, counters(to)??);
    let counter = |text: &str, protocol: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.split(':').next() == Some(protocol));
        let (names, values) = (lines.next()?, lines.next()?);
        let at = names.split_whitespace().position(|one| one == name)?;
        values.split_whitespace().nth(at).map(str::to_owned)
    };
    let show = |text: &str, protocol, name| counter(text, protocol, name).unwrap_or_else(|| "?".into());
    let drops = |ns: &NetNs| ns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
    let tun = |text: String| {
        let line = text.lines().find(|line| line.contains("benchwg")).unwrap_or_default().to_owned();
        line.split_whitespace().nth(12).unwrap_or("?").to_owned()
    };
    Ok(format!(
        "TCP segments sent {} and again {}, UDP datagrams without room {}, packets without room in the TUN {}",
        show(&sender, "Tcp", "OutSegs"),
        show(&sender, "Tcp", "RetransSegs"),
        show(&receiver, "Udp", "RcvbufErrors"),
        tun(drops(from)??),
    ))
}

/// The median time that a small datagram takes there and back while nothing else is sent.
pub(crate) fn round_trip(from: &NetNs, to: &NetNs, address: IpAddr) -> anyhow::Result<Duration> {
    let (client, echo) = echo(from, to, address)?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let mut bytes = [0; 64];
    for _ in 0..ROUND_TRIPS {
        thread::sleep(Duration::from_millis(1));
        let begin = Instant::now();
        client.send(&bytes)?;
        client.recv(&mut bytes).context("no echo")?;
        times.push(begin.elapsed());
    }
    drop(echo);
    times.sort_unstable();
    Ok(times[ROUND_TRIPS / 2])
}

/// Waits for the first handshake.
pub(crate) fn wait_until_reachable(from: &NetNs, to: &NetNs, address: IpAddr) -> anyhow::Result<()> {
    let (client, _echo) = echo(from, to, address)?;
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        client.send(&[1])?;
        if client.recv(&mut [0; 8]).is_ok() {
            return Ok(());
        }
    }
    bail!("nothing came through to {address} within {PATIENCE:?}")
}

/// A socket at `from`, connected to one at `address` in `to` that sends everything back until it is dropped.
fn echo(from: &NetNs, to: &NetNs, address: IpAddr) -> anyhow::Result<(UdpSocket, Echo)> {
    let server = to.run(|| UdpSocket::bind((address, 0)))??;
    let there = server.local_addr()?;
    let any: SocketAddr = ([0, 0, 0, 0], 0).into();
    let client =
        from.run(|| UdpSocket::bind(any).and_then(|socket| socket.connect(there).map(|()| socket)))??;
    client.set_read_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(Duration::from_millis(50)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::spawn(move || {
        let mut bytes = [0; 2048];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((length, from)) = server.recv_from(&mut bytes) {
                let _ = server.send_to(&bytes[..length], from);
            }
        }
    });
    Ok((client, Echo { stop, thread: Some(thread) }))
}

struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
