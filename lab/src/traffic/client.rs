//! Clients of [`Server`](super::Server).

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use sha2::{Digest as _, Sha256};
use socket2::{Protocol, Type};

use super::server::hex;
use super::{Canary, Error, TIMEOUT, Told, failed, socket};

const CHUNK: usize = 256 << 10;
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
    /// Time of the transfer.
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

/// Sends `bytes` to the server at `to` and compares hashes.
pub fn upload(ns: &NetNs, to: SocketAddr, bytes: u64, canary: &Canary) -> Result<Bulk, Error> {
    let what = || format!("send {bytes} bytes to {to}");
    let start = Instant::now();
    let mut stream = connect(ns, to, TIMEOUT, None)?;
    write!(stream, "PUT /sink HTTP/1.1\r\nHost: {to}\r\nContent-Length: {bytes}\r\n\r\n")
        .map_err(failed(what()))?;
    let mut hash = Sha256::new();
    let mut chunk = canary.fill(CHUNK);
    let (mut left, mut number) = (bytes, 0_u64);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        // Each chunk is different, so that swapped ones show.
        chunk[Canary::LENGTH..Canary::LENGTH + 8].copy_from_slice(&number.to_be_bytes());
        hash.update(&chunk[..length]);
        stream.write_all(&chunk[..length]).map_err(failed(what()))?;
        left -= length as u64;
        number += 1;
    }
    let told = parse(&read_answer(&mut stream, to)?, to)?;
    let received = told.sha256.unwrap_or_default();
    Ok(Bulk { bytes: told.bytes.unwrap_or(0), sent: hex(&hash.finalize()), received, took: start.elapsed() })
}

/// Fetches `bytes` from the server at `to` and compares the hash with that of what it should have been.
pub fn download(ns: &NetNs, to: SocketAddr, bytes: u64, canary: &Canary) -> Result<Bulk, Error> {
    let what = || format!("fetch {bytes} bytes from {to}");
    let start = Instant::now();
    let mut stream = connect(ns, to, TIMEOUT, None)?;
    write!(stream, "GET /data/{bytes} HTTP/1.1\r\nHost: {to}\r\n\r\n").map_err(failed(what()))?;
    let first = skip_head(&mut stream, to)?;
    let (mut expected, mut hash) = (Sha256::new(), Sha256::new());
    let chunk = canary.fill(CHUNK);
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        expected.update(&chunk[..length]);
        left -= length as u64;
    }
    hash.update(&first);
    let mut got = first.len() as u64;
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer).map_err(failed(what()))? {
            0 => break,
            read => {
                got += read as u64;
                hash.update(&buffer[..read]);
            }
        }
    }
    let (sent, received) = (hex(&expected.finalize()), hex(&hash.finalize()));
    Ok(Bulk { bytes: got, sent, received, took: start.elapsed() })
}

/// Sends to the server at `to` as fast as it goes for `time`, over one connection whose segments carry at most
/// `segment` bytes.
pub fn throughput(ns: &NetNs, to: SocketAddr, time: Duration, segment: Option<u32>) -> Result<Rate, Error> {
    let what = || format!("measure the throughput to {to}");
    let mut stream = connect(ns, to, TIMEOUT, segment)?;
    write!(stream, "PUT /discard HTTP/1.1\r\nHost: {to}\r\n\r\n").map_err(failed(what()))?;
    let chunk = vec![0x5a; CHUNK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&chunk).map_err(failed(what()))?;
    }
    stream.shutdown(Shutdown::Write).map_err(failed(what()))?;
    let told = parse(&read_answer(&mut stream, to)?, to)?;
    Ok(Rate { bytes: told.bytes.unwrap_or(0), took: start.elapsed() })
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
