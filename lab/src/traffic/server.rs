//! A small server for pods, nodes and the internet: says which source it sees, takes and gives data.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | [`Told`] as JSON |
//! | `PUT /sink` | reads the body to its end; [`Told`] with its length and SHA-256 |
//! | `PUT /bursts/BYTES` | one byte for every so many that have come, until the client ends |
//! | `GET /data/BYTES` | so many bytes with the canary |
//! | a UDP datagram | [`Told`] as one line of JSON, then of the datagram what makes both as long |

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use selvedge::kernel::netns::NetNs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use super::{Canary, Error, echo, failed};

const HEAD_LIMIT: usize = 8 << 10;
const CHUNK: usize = 256 << 10;

/// What a server tells a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Name of the server.
    pub name: String,
    /// The client's address as the server sees it.
    pub source: SocketAddr,
    /// Bytes of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Their SHA-256, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A running server; it ends when dropped, and then holds its namespace no longer.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    ports: Vec<u16>,
}

impl Server {
    /// Listens in `ns` on the TCP and UDP ports given, on every address; port 0 takes a free one.
    pub fn start(ns: &NetNs, name: &str, ports: &[u16], canary: &Canary) -> Result<Self, Error> {
        let listen = || ports.iter().map(|port| listen(*port)).collect::<io::Result<Vec<Pair>>>();
        let pairs = ns.run(listen)?.map_err(failed(format!("listen as {name} on ports {ports:?}")))?;
        let bound = pairs.iter().map(|pair| pair.port).collect();
        let me = Arc::new(Me { name: name.to_owned(), canary: canary.clone() });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed(format!("start the server {name}")))?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                for pair in pairs {
                    tokio::spawn(pair.serve(me.clone()));
                }
                let _ = stopped.await;
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread), ports: bound })
    }

    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Me {
    name: String,
    canary: Canary,
}

/// The sockets of one port, both families where the namespace has both.
struct Pair {
    port: u16,
    tcp: std::net::TcpListener,
    udp: std::net::UdpSocket,
}

fn listen(port: u16) -> io::Result<Pair> {
    let udp = bound(port, Type::DGRAM, Protocol::UDP)?;
    echo::prepare(&udp)?;
    let udp = std::net::UdpSocket::from(udp);
    let port = udp.local_addr()?.port();
    let tcp = bound(port, Type::STREAM, Protocol::TCP)?;
    tcp.listen(1024)?;
    Ok(Pair { port, tcp: tcp.into(), udp })
}

fn bound(port: u16, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let dual = || {
        let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
        socket.set_only_v6(false)?;
        Ok((socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)))
    };
    let single = |_: io::Error| -> io::Result<(Socket, SocketAddr)> {
        let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
        Ok((socket, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)))
    };
    let (socket, address) = dual().or_else(single)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Pair {
    async fn serve(self, me: Arc<Me>) {
        let (Ok(tcp), Ok(udp)) = (TcpListener::from_std(self.tcp), UdpSocket::from_std(self.udp)) else {
            return;
        };
        let myself = me.clone();
        let echo = tokio::spawn(echo::serve(udp, move |source, asked| myself.echo(plain(source), asked)));
        while let Ok((stream, source)) = tcp.accept().await {
            let me = me.clone();
            tokio::spawn(async move { me.answer(stream, plain(source)).await });
        }
        echo.abort();
    }
}

impl Me {
    /// As long as what was asked, so that the answer to a probe has its size.
    fn echo(&self, source: SocketAddr, asked: &[u8]) -> Vec<u8> {
        let mut answer = self.told(source);
        answer.push(b'\n');
        let rest = asked.len().saturating_sub(answer.len());
        answer.extend_from_slice(&asked[..rest]);
        answer
    }

    fn told(&self, source: SocketAddr) -> Vec<u8> {
        self.tell(source, None, None)
    }

    fn tell(&self, source: SocketAddr, bytes: Option<u64>, sha256: Option<String>) -> Vec<u8> {
        let told = Told { name: self.name.clone(), source, bytes, sha256 };
        serde_json::to_vec(&told).unwrap_or_default()
    }

    async fn answer(&self, mut stream: TcpStream, source: SocketAddr) -> io::Result<()> {
        let (head, rest) = read_head(&mut stream).await?;
        let mut words = head.split_ascii_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let length = header(&head, "content-length").and_then(|text| text.parse().ok());
        match (method, path) {
            ("GET", "/") => reply(&mut stream, "200 OK", &self.told(source)).await,
            ("PUT" | "POST", "/sink") => {
                let (bytes, hash) = take(&mut stream, &rest, length).await?;
                reply(&mut stream, "200 OK", &self.tell(source, Some(bytes), hash)).await
            }
            ("PUT", path) if path.starts_with("/bursts/") => {
                let bytes = path.rsplit('/').next().and_then(|text| text.parse().ok());
                count(&mut stream, rest.len() as u64, bytes.unwrap_or(u64::MAX)).await
            }
            ("GET", path) => match path.strip_prefix("/data/").and_then(|text| text.parse().ok()) {
                Some(bytes) => self.give(&mut stream, bytes).await,
                None => reply(&mut stream, "404 Not Found", b"{}").await,
            },
            _ => reply(&mut stream, "405 Method Not Allowed", b"{}").await,
        }
    }

    async fn give(&self, stream: &mut TcpStream, mut bytes: u64) -> io::Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let chunk = self.canary.fill(CHUNK);
        while bytes > 0 {
            let length = usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK);
            stream.write_all(&chunk[..length]).await?;
            bytes -= length as u64;
        }
        stream.shutdown().await
    }
}

/// The request line and headers, and what of the body came with them.
async fn read_head(stream: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > HEAD_LIMIT || stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// Reads a body, to its length or to the end of the stream; gives its length and hash.
async fn take(
    stream: &mut TcpStream,
    first: &[u8],
    length: Option<u64>,
) -> io::Result<(u64, Option<String>)> {
    let mut total = first.len() as u64;
    let mut hash = Sha256::new();
    hash.update(first);
    let mut buffer = vec![0; CHUNK];
    while length.is_none_or(|length| total < length) {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        total += read as u64;
        hash.update(&buffer[..read]);
    }
    Ok((total, Some(hex(&hash.finalize()))))
}

/// Reads as fast as it can, and answers with a byte each time that another `burst` has come.
async fn count(stream: &mut TcpStream, mut came: u64, burst: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        while came >= burst {
            stream.write_all(b".").await?;
            came -= burst;
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => came += read as u64,
        }
    }
}

async fn reply(stream: &mut TcpStream, status: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len() + 1;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    let whole = [head.as_bytes(), body, b"\n"].concat();
    stream.write_all(&whole).await?;
    stream.shutdown().await
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An IPv4 client of a socket of both families shows as an IPv6 address that holds it.
fn plain(source: SocketAddr) -> SocketAddr {
    let ip = match source.ip() {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(source.ip(), IpAddr::V4),
        v4 => v4,
    };
    SocketAddr::new(ip, source.port())
}
