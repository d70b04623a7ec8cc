//! Clients of [`Server`](super::Server).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use sha2::{Digest as _, Sha256};
use socket2::{Protocol, Type};

use super::server::hex;
use super::{Canary, Error, TIMEOUT, Told, failed, socket};

const CHUNK: usize = 256 << 10;
/// After so many bytes a transfer pauses, so that whoever watches can follow; half of what a capture has room for.
pub const BURST: u64 = 24 << 20;
/// How long a transfer may stand still.
const STALL: Duration = Duration::from_secs(20);

/// An answer and how long it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What the server told.
    pub told: Told,
    /// Time of the exchange, connecting included.
    pub took: Duration,
}

/// A transfer of bytes whose hash was compared.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// What the server told.
    pub bytes: u64,
    /// SHA-256 of what was sent.
    pub sent: String,
    /// SHA-256 of what came.
    pub received: String,
    /// Time of the transfer, without the pauses.
    pub took: Duration,
}

/// How fast something was.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Bytes moved.
    pub bytes: u64,
    /// In this time.
    pub took: Duration,
}

impl Rate {
    /// Bits in a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a measured rate is no exact number")]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64().max(1e-9)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = self.bits_per_second();
        if bits >= 1e9 {
            write!(f, "{:.2} Gbit/s", bits / 1e9)
        } else {
            write!(f, "{:.0} Mbit/s", bits / 1e6)
        }
    }
}

/// Asks the server at `to` over TCP, from `ns`, which source it sees. The request carries the canary.
pub fn ask(ns: &NetNs, to: SocketAddr, canary: &Canary) -> Result<Answer, Error> {
    let start = Instant::now();
    let mut stream = connect(ns, to, TIMEOUT, None)?;
    let mark = String::from_utf8_lossy(canary.bytes()).into_owned();
    let what = || format!("ask {to} over TCP");
    write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nX-Canary: {mark}\r\n\r\n").map_err(failed(what()))?;
    let body = read_answer(&mut stream, to)?;
    Ok(Answer { told: parse(&body, to)?, took: start.elapsed() })
}

/// Asks the server at `to` over UDP, from `ns`, which source it sees. Datagrams are not sent again.
pub fn ask_udp(ns: &NetNs, to: SocketAddr, canary: &Canary, wait: Duration) -> Result<Answer, Error> {
    let what = || format!("ask {to} over UDP");
    let start = Instant::now();
    let udp = UdpSocket::from(socket(ns, to, Type::DGRAM, Some(Protocol::UDP))?);
    let exchange = || {
        udp.connect(to)?;
        udp.set_read_timeout(Some(wait))?;
        udp.send(&canary.fill(256))?;
        let mut buffer = vec![0; 1 << 16];
        let length = udp.recv(&mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    };
    let answer = exchange().map_err(failed(what()))?;
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Answer { told: parse(line, to)?, took: start.elapsed() })
}

/// Sends `bytes` to the server at `to` and compares hashes. `pause` is called after every [`BURST`].
pub fn upload(
    ns: &NetNs,
    to: SocketAddr,
    bytes: u64,
    canary: &Canary,
    pause: &mut dyn FnMut(),
) -> Result<Bulk, Error> {
    let what = || format!("send {bytes} bytes to {to}");
    let mut clock = Clock::start(pause);
    let mut stream = connect(ns, to, TIMEOUT, None)?;
    write!(stream, "PUT /sink HTTP/1.1\r\nHost: {to}\r\nContent-Length: {bytes}\r\n\r\n")
        .map_err(failed(what()))?;
    let mut hash = Sha256::new();
    let mut chunk = canary.fill(CHUNK);
    for (number, length) in chunks(bytes).enumerate() {
        // Each chunk is different, so that swapped ones show.
        chunk[Canary::LENGTH..Canary::LENGTH + 8].copy_from_slice(&(number as u64).to_be_bytes());
        hash.update(&chunk[..length]);
        stream.write_all(&chunk[..length]).map_err(failed(what()))?;
        clock.moved(length);
    }
    let told = parse(&read_answer(&mut stream, to)?, to)?;
    let received = told.sha256.unwrap_or_default();
    Ok(Bulk { bytes: told.bytes.unwrap_or(0), sent: hex(&hash.finalize()), received, took: clock.stop() })
}

/// Fetches `bytes` from the server at `to` and compares the hash with that of what it should have been. `pause` is
/// called after every [`BURST`]; meanwhile the sender fills no more than the socket's buffers.
pub fn download(
    ns: &NetNs,
    to: SocketAddr,
    bytes: u64,
    canary: &Canary,
    pause: &mut dyn FnMut(),
) -> Result<Bulk, Error> {
    let what = || format!("fetch {bytes} bytes from {to}");
    let chunk = canary.fill(CHUNK);
    let mut expected = Sha256::new();
    chunks(bytes).for_each(|length| expected.update(&chunk[..length]));
    let mut clock = Clock::start(pause);
    let mut stream = connect(ns, to, TIMEOUT, None)?;
    write!(stream, "GET /data/{bytes} HTTP/1.1\r\nHost: {to}\r\n\r\n").map_err(failed(what()))?;
    let first = skip_head(&mut stream, to)?;
    let mut hash = Sha256::new();
    hash.update(&first);
    let mut got = first.len() as u64;
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).map_err(failed(what()))? {
            0 => break,
            read => {
                got += read as u64;
                hash.update(&buffer[..read]);
                clock.moved(read);
            }
        }
    }
    let (sent, received) = (hex(&expected.finalize()), hex(&hash.finalize()));
    Ok(Bulk { bytes: got, sent, received, took: clock.stop() })
}

/// Sends to the server at `to` as fast as it goes for `time`, over one connection whose segments carry at most
/// `segment` bytes. Each [`BURST`] is measured until the server has it; between them `pause` is called.
pub fn throughput(
    ns: &NetNs,
    to: SocketAddr,
    time: Duration,
    segment: Option<u32>,
    pause: &mut dyn FnMut(),
) -> Result<Rate, Error> {
    let what = || format!("measure the throughput to {to}");
    let mut stream = connect(ns, to, TIMEOUT, segment)?;
    write!(stream, "PUT /bursts/{BURST} HTTP/1.1\r\nHost: {to}\r\n\r\n").map_err(failed(what()))?;
    let chunk = vec![0x5a; CHUNK];
    let mut rate = Rate { bytes: 0, took: Duration::ZERO };
    while rate.took < time {
        let start = Instant::now();
        for length in chunks(BURST) {
            stream.write_all(&chunk[..length]).map_err(failed(what()))?;
        }
        stream.read_exact(&mut [0]).map_err(failed(what()))?;
        rate.took += start.elapsed();
        rate.bytes += BURST;
        pause();
    }
    Ok(rate)
}

fn chunks(bytes: u64) -> impl Iterator<Item = usize> {
    let whole = usize::try_from(bytes).unwrap_or(usize::MAX);
    (0..whole).step_by(CHUNK).map(move |start| CHUNK.min(whole - start))
}

/// Measures a transfer without its pauses.
struct Clock<'a> {
    start: Instant,
    paused: Duration,
    since: u64,
    pause: &'a mut dyn FnMut(),
}

impl<'a> Clock<'a> {
    fn start(pause: &'a mut dyn FnMut()) -> Self {
        Self { start: Instant::now(), paused: Duration::ZERO, since: 0, pause }
    }

    fn moved(&mut self, bytes: usize) {
        self.since += bytes as u64;
        if self.since >= BURST {
            let begun = Instant::now();
            (self.pause)();
            self.paused += begun.elapsed();
            self.since = 0;
        }
    }

    fn stop(self) -> Duration {
        self.start.elapsed().saturating_sub(self.paused)
    }
}

fn connect(ns: &NetNs, to: SocketAddr, wait: Duration, segment: Option<u32>) -> Result<TcpStream, Error> {
    let socket = socket(ns, to, Type::STREAM, Some(Protocol::TCP))?;
    let open = || {
        if let Some(segment) = segment {
            socket.set_tcp_mss(segment)?;
        }
        socket.connect_timeout(&to.into(), wait)?;
        socket.set_read_timeout(Some(STALL))?;
        socket.set_write_timeout(Some(STALL))?;
        Ok(())
    };
    open().map_err(failed(format!("connect to {to}")))?;
    Ok(socket.into())
}

/// The body of an answer that ends with the connection.
fn read_answer(stream: &mut TcpStream, to: SocketAddr) -> Result<Vec<u8>, Error> {
    let mut body = skip_head(stream, to)?;
    stream.read_to_end(&mut body).map_err(failed(format!("read the answer of {to}")))?;
    Ok(body)
}

/// Reads an answer up to its body; gives what of the body came along.
fn skip_head(stream: &mut TcpStream, to: SocketAddr) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(bytes.split_off(end + 4));
        }
        let read = stream.read(&mut buffer);
        match read.map_err(failed(format!("read the answer of {to}")))? {
            0 => {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(Error::Socket { what: format!("read the answer of {to}"), source });
            }
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

fn parse(body: &[u8], from: SocketAddr) -> Result<Told, Error> {
    serde_json::from_slice(body).map_err(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        Error::Answer { from, text }
    })
}
