//! The UDP sockets of a device, one per family on one port, sending and receiving many datagrams a call.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::sys::{self, set_option};
use crate::tunnel::endpoint::Endpoint;

/// Largest payload of one send, over IPv4 and IPv6 alike, in bytes.
pub const MAX_SEND: usize = 65_535 - 20 - 8;
/// Most datagrams in one send (`UDP_MAX_SEGMENTS` before Linux 6.9).
pub const MAX_SEGMENTS: usize = 64;
/// Room to wait in for a worker that is busy, in bytes.
const BUFFER: i32 = 8 << 20;
/// Ports tried when any will do and one is free for only one family.
const PORT_TRIES: usize = 16;

/// Both sockets. IPv6 is absent where the kernel has none.
#[derive(Debug)]
pub struct UdpSockets {
    v4: UdpSocket,
    v6: Option<UdpSocket>,
    port: u16,
}

impl UdpSockets {
    /// Binds to `port` on all addresses; 0 takes a port that is free for both families.
    ///
    /// # Errors
    /// [`UdpError`], naming port and family.
    pub fn bind(port: u16) -> Result<Self, UdpError> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port).into())?;
            let chosen =
                v4.port().map_err(|source| UdpError { what: "asking for its port", port, source })?;
            match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, chosen).into()) {
                Ok(v6) => return Ok(Self { v4, v6: Some(v6), port: chosen }),
                Err(error) if error.no_such_family() => return Ok(Self { v4, v6: None, port: chosen }),
                Err(error) if port == 0 => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(UdpError { what: "binding", port, source: io::ErrorKind::AddrInUse.into() }))
    }

    /// Takes sockets that another process bound.
    ///
    /// # Errors
    /// [`UdpError`] if `v4` is no bound UDP socket.
    pub fn from_fds(v4: OwnedFd, v6: Option<OwnedFd>) -> Result<Self, UdpError> {
        let v4 = UdpSocket::setup(v4.into());
        let port = v4.port().map_err(|source| UdpError {
            what: "asking an inherited socket for its port",
            port: 0,
            source,
        })?;
        Ok(Self { v4, v6: v6.map(|fd| UdpSocket::setup(fd.into())), port })
    }

    /// The port both are bound to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IPv4 socket.
    #[must_use]
    pub fn v4(&self) -> &UdpSocket {
        &self.v4
    }

    /// The IPv6 socket, if the kernel has IPv6.
    #[must_use]
    pub fn v6(&self) -> Option<&UdpSocket> {
        self.v6.as_ref()
    }

    /// The socket that reaches `to`.
    #[must_use]
    pub fn to(&self, to: &SocketAddr) -> Option<&UdpSocket> {
        if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }
    }

    /// The same, to send with.
    pub fn to_mut(&mut self, to: &SocketAddr) -> Option<&mut UdpSocket> {
        if to.is_ipv4() { Some(&mut self.v4) } else { self.v6.as_mut() }
    }

    /// Both sockets that there are.
    pub fn all(&self) -> impl Iterator<Item = &UdpSocket> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten()
    }

    /// Sets `SO_MARK`; 0 takes it away. Acts on every process that shares the sockets.
    ///
    /// # Errors
    /// [`UdpError`]; needs `CAP_NET_ADMIN`.
    pub fn set_mark(&self, mark: u32) -> Result<(), UdpError> {
        self.all().try_for_each(|socket| socket.socket.set_mark(mark)).map_err(|source| UdpError {
            what: "setting the mark (CAP_NET_ADMIN is needed)",
            port: self.port,
            source,
        })
    }
}

/// One bound socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    gso: bool,
    gro: bool,
}

/// Datagrams of one sender, from one receive.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams {
    /// The sender, and the own address that it sent to.
    pub from: Endpoint,
    /// Bytes of all of them.
    pub len: usize,
    /// Size of each but the last; never 0.
    pub segment: usize,
}

/// What became of a send.
#[derive(Debug)]
pub struct Delivery {
    /// Bytes for which the kernel is done. Fewer than all only with an error, which is then about the rest.
    pub done: usize,
    /// `WouldBlock` if there is no room for the rest now; whatever else the kernel reported.
    pub result: io::Result<()>,
    /// The kernel took the datagrams only after the choice of their source address was left to it.
    pub source_refused: bool,
}

impl UdpSocket {
    fn bind(address: SocketAddr) -> Result<Self, UdpError> {
        let failed = |what| move |source| UdpError { what, port: address.port(), source };
        let kind = Type::DGRAM.cloexec().nonblocking();
        let (family, v6) = if address.is_ipv4() { (Domain::IPV4, false) } else { (Domain::IPV6, true) };
        let socket = Socket::new(family, kind, Some(Protocol::UDP)).map_err(failed("opening"))?;
        if v6 {
            socket.set_only_v6(true).map_err(failed("setting IPV6_V6ONLY of"))?;
        }
        socket.bind(&address.into()).map_err(failed(if v6 {
            "binding to [::]"
        } else {
            "binding to 0.0.0.0"
        }))?;
        Ok(Self::setup(socket))
    }

    /// Asks for large buffers, segmentation and the own address of datagrams, each of which it can do without.
    fn setup(socket: Socket) -> Self {
        let fd = socket.as_fd();
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let _ = set_option(fd, libc::SOL_SOCKET, force, BUFFER)
                .or_else(|_| set_option(fd, libc::SOL_SOCKET, plain, BUFFER));
        }
        // The own address of each datagram is reported by the one that is of the socket's family.
        let _ = set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        let _ = set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        let gro = set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        let gso = set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Self { socket, gso, gro }
    }

    fn port(&self) -> io::Result<u16> {
        let address = self.socket.local_addr()?.as_socket();
        address.map(|address| address.port()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// True if one send takes many datagrams.
    #[must_use]
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// True if one receive brings many datagrams.
    #[must_use]
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Receives without waiting. `buffer` holds 65,535 bytes or more.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing; whatever else the socket reports.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagrams> {
        let received = sys::receive(self.as_fd(), buffer)?;
        let segment = received.segment.unwrap_or(received.len).max(1);
        Ok(Datagrams { from: received.from, len: received.len, segment })
    }

    /// Sends `bytes` to `to` as datagrams of `segment` bytes each, the last of which may be shorter.
    ///
    /// Where the kernel refuses segmentation they go one by one: for this once if a datagram is larger than
    /// the path takes unfragmented (`EINVAL`), for good if the device can't (`EIO`). Where it refuses the source
    /// address, which may be gone, it chooses one.
    pub fn send(&mut self, bytes: &[u8], segment: usize, to: Endpoint) -> Delivery {
        match self.send_from(bytes, segment, to) {
            (done, Err(error)) if to.source.is_some() && may_mean_source(&error) => {
                self.send_from_any(bytes, done, segment, to)
            }
            (done, result) => Delivery { done, result, source_refused: false },
        }
    }

    /// Sends what is behind the first `done` bytes from an address of the kernel's choice.
    #[cold]
    fn send_from_any(&mut self, bytes: &[u8], done: usize, segment: usize, to: Endpoint) -> Delivery {
        let (more, result) = self.send_from(&bytes[done..], segment, to.address.into());
        // If this fails as well, the source was not the reason.
        Delivery { done: done + more, source_refused: result.is_ok(), result }
    }

    /// As [`send`](Self::send), from the source of `to` and no other.
    fn send_from(&mut self, bytes: &[u8], segment: usize, to: Endpoint) -> (usize, io::Result<()>) {
        if bytes.len() <= segment {
            return match sys::send(self.as_fd(), bytes, to, None) {
                Ok(_) => (bytes.len(), Ok(())),
                Err(error) => (0, Err(error)),
            };
        }
        if self.gso
            && let Ok(size) = u16::try_from(segment)
        {
            match sys::send(self.as_fd(), bytes, to, Some(size)) {
                Ok(_) => return (bytes.len(), Ok(())),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EIO) => self.gso = false,
                    Some(libc::EINVAL | libc::EMSGSIZE) => {}
                    _ => return (0, Err(error)),
                },
            }
        }
        self.send_singly(bytes, segment, to)
    }

    fn send_singly(&self, bytes: &[u8], segment: usize, to: Endpoint) -> (usize, io::Result<()>) {
        let mut done = 0;
        let mut failure = Ok(());
        for datagram in bytes.chunks(segment.max(1)) {
            match sys::send(self.as_fd(), datagram, to, None) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (done, Err(error)),
                Err(error) if to.source.is_some() && may_mean_source(&error) => return (done, Err(error)),
                Err(error) => failure = Err(error),
                Ok(_) => {}
            }
            done += datagram.len();
        }
        (done, failure)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<UdpSocket> for OwnedFd {
    fn from(socket: UdpSocket) -> Self {
        socket.socket.into()
    }
}

/// Whether `error` may say that datagrams can't leave from the address they were to: it is no address of this host any
/// more, or there is no route from there.
fn may_mean_source(error: &io::Error) -> bool {
    let errors = [libc::EINVAL, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENODEV];
    error.raw_os_error().is_some_and(|error| errors.contains(&error))
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[error("{what} UDP port {port}: {source}")]
pub struct UdpError {
    what: &'static str,
    port: u16,
    source: io::Error,
}

impl UdpError {
    fn no_such_family(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::*;

    fn pair() -> (UdpSockets, UdpSockets, SocketAddr) {
        let (from, to) = (UdpSockets::bind(0).unwrap(), UdpSockets::bind(0).unwrap());
        let address = (Ipv4Addr::LOCALHOST, to.port()).into();
        (from, to, address)
    }

    /// All datagrams that `socket` gets within a while, until there are `count`.
    fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let (mut buffer, mut got) = (vec![0; 65_536], Vec::new());
        let deadline = Instant::now() + Duration::from_secs(5);
        while got.len() < count {
            match socket.receive(&mut buffer) {
                Ok(batch) => got.extend(buffer[..batch.len].chunks(batch.segment).map(<[u8]>::to_vec)),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "only {} of {count} datagrams came", got.len());
        }
        got
    }

    fn payload() -> Vec<u8> {
        (0..10_500_u32).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn both_families_share_a_port_that_nobody_else_gets() {
        let sockets = UdpSockets::bind(0).unwrap();
        assert_ne!(sockets.port(), 0);
        if let Some(v6) = sockets.v6() {
            assert_eq!(v6.port().unwrap(), sockets.port());
        }
        let error = UdpSockets::bind(sockets.port()).unwrap_err().to_string();
        assert!(error.contains(&sockets.port().to_string()) && error.contains("0.0.0.0"), "{error}");
    }

    #[test]
    fn one_send_is_many_datagrams_with_and_without_segmentation() {
        for gso in [true, false] {
            let (mut from, to, address) = pair();
            from.v4.gso &= gso;
            let sent = from.to_mut(&address).unwrap().send(&payload(), 1000, address.into());
            assert!(sent.result.is_ok() && sent.done == 10_500, "{sent:?}");
            let got = receive(to.v4(), 11);
            assert_eq!(got, payload().chunks(1000).map(<[u8]>::to_vec).collect::<Vec<_>>(), "gso {gso}");
        }
    }

    #[test]
    fn datagrams_larger_than_the_path_takes_are_sent_by_themselves() {
        selvedge_lab::isolated!(|| {
            let lo = sys::InterfaceRequest::new("lo");
            let socket: OwnedFd = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap().into();
            let mut lo = lo.unwrap();
            lo.set_mtu(800);
            lo.call(&socket, libc::SIOCSIFMTU).unwrap();
            let (mut from, to, address) = pair();
            let sent = from.to_mut(&address).unwrap().send(&payload(), 1000, address.into());
            assert!(sent.result.is_ok() && sent.done == 10_500, "{sent:?}");
            assert_eq!(receive(to.v4(), 11).len(), 11);
            assert!(from.v4().gso(), "other paths are larger");
        });
    }

    #[test]
    fn sockets_are_handed_on() {
        let (mut from, to, address) = pair();
        let port = to.port();
        let to = UdpSockets::from_fds(to.v4.into(), to.v6.map(OwnedFd::from)).unwrap();
        assert_eq!(to.port(), port);
        from.to_mut(&address).unwrap().send(b"hello", 5, address.into()).result.unwrap();
        assert_eq!(receive(to.v4(), 1), [b"hello"]);
    }

    #[test]
    fn ipv6_works_where_there_is_ipv6() {
        selvedge_lab::isolated!(|| {
            let (mut from, to) = (UdpSockets::bind(0).unwrap(), UdpSockets::bind(0).unwrap());
            let Some(socket) = to.v6() else { return };
            let address: SocketAddr = (Ipv6Addr::LOCALHOST, to.port()).into();
            from.to_mut(&address).unwrap().send(&payload(), 1000, address.into()).result.unwrap();
            assert_eq!(receive(socket, 11).concat(), payload());
        });
    }

    #[test]
    fn a_closed_port_elsewhere_does_not_stop_the_socket() {
        let (mut from, to, address) = pair();
        let closed = UdpSockets::bind(0).unwrap().port();
        let socket = from.to_mut(&address).unwrap();
        for port in [closed, address.port()] {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            socket.send(b"hello", 5, to.into()).result.unwrap();
        }
        assert_eq!(receive(to.v4(), 1), [b"hello"]);
        assert_eq!(socket.receive(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// The next batch that `socket` gets.
    fn receive_batch(socket: &UdpSocket) -> Datagrams {
        let mut buffer = vec![0; 65_536];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match socket.receive(&mut buffer) {
                Ok(batch) => return batch,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "nothing came");
        }
    }

    /// Gives `lo` of the namespace further addresses.
    fn with_addresses(test: impl FnOnce()) {
        use crate::kernel::address::Address;
        use crate::kernel::netlink::Netlink;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::new().unwrap();
            let lo = netlink.link_named("lo").await.unwrap().unwrap().index;
            for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"] {
                let address: IpAddr = address.parse().unwrap();
                netlink.apply([Address::new(lo, ipnet::IpNet::from(address)).add()]).await.unwrap();
                // The kernel takes an IPv6 address into use a moment later.
                let deadline = Instant::now() + Duration::from_secs(5);
                while !netlink.is_local(address).await.unwrap() {
                    assert!(Instant::now() < deadline, "{address} is not in use");
                }
            }
        });
        test();
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_addressed() {
        selvedge_lab::isolated!(|| with_addresses(|| {
            let addresses: [IpAddr; 3] =
                ["192.0.2.3", "192.0.2.2", "2001:db8::2"].map(|text| text.parse().unwrap());
            for (addressed, gso) in
                addresses.into_iter().flat_map(|address| [(address, true), (address, false)])
            {
                let (mut from, mut to) = (UdpSockets::bind(0).unwrap(), UdpSockets::bind(0).unwrap());
                let address = SocketAddr::new(addressed, to.port());
                from.to_mut(&address).unwrap().send(&payload(), 1000, address.into()).result.unwrap();
                let answerer = to.to_mut(&address).unwrap();
                answerer.gso &= gso;
                let batch = receive_batch(answerer);
                assert_eq!(batch.from.source, Some(addressed));
                assert!(!gso || batch.len == 10_500, "addresses do not keep datagrams from coming at once");
                let sent = answerer.send(&payload(), 1000, batch.from);
                assert!(sent.result.is_ok() && sent.done == 10_500 && !sent.source_refused, "{sent:?}");
                let answer = receive_batch(from.to(&address).unwrap());
                assert_eq!(answer.from.address, address, "gso {gso}");
            }
        }));
    }

    #[test]
    fn an_address_that_is_gone_holds_nothing_back() {
        selvedge_lab::isolated!(|| with_addresses(|| {
            for (here, gone) in [("192.0.2.1", "192.0.2.77"), ("2001:db8::1", "2001:db8::77")] {
                for (size, count) in [(10_500, 11), (700, 1)] {
                    let (mut from, to) = (UdpSockets::bind(0).unwrap(), UdpSockets::bind(0).unwrap());
                    let address = SocketAddr::new(here.parse().unwrap(), to.port());
                    let endpoint = Endpoint { address, source: Some(gone.parse().unwrap()) };
                    let socket = from.to_mut(&address).unwrap();
                    let sent = socket.send(&payload()[..size], 1000, endpoint);
                    assert!(sent.result.is_ok() && sent.done == size && sent.source_refused, "{sent:?}");
                    assert!(socket.gso(), "segmentation is not what was refused");
                    assert_eq!(receive(to.to(&address).unwrap(), count).concat(), payload()[..size]);
                }
            }
        }));
    }

    #[test]
    fn a_source_is_kept_while_nothing_can_be_sent_at_all() {
        selvedge_lab::isolated!(|| {
            let mut from = UdpSockets::bind(0).unwrap();
            let address: SocketAddr = "203.0.113.1:9".parse().unwrap();
            let endpoint = Endpoint { address, source: Some(Ipv4Addr::LOCALHOST.into()) };
            let sent = from.to_mut(&address).unwrap().send(&payload(), 1000, endpoint);
            assert!(sent.result.is_err() && !sent.source_refused, "{sent:?}");
        });
    }
}
