//! UDP answers that come from the address which was asked: a node has several, and its routes would choose another.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The address that a datagram was sent to.
#[derive(Clone, Copy)]
enum Local {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Makes a socket tell which of its addresses each datagram was sent to.
pub(super) fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    match socket.domain()? {
        socket2::Domain::IPV6 => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        _ => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
    }
    Ok(())
}

/// Answers each datagram with what `answer` makes of its sender and content.
pub(super) async fn serve(socket: UdpSocket, answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let received = socket.async_io(Interest::READABLE, || receive(&socket, &mut buffer)).await;
        // An error here is an ICMP error about an earlier answer: the next datagram may be fine.
        let Ok((length, Some(source), local)) = received else { continue };
        let Some(from) = address(&source) else { continue };
        let reply = answer(from, &buffer[..length]);
        let _ = socket.async_io(Interest::WRITABLE, || send(&socket, &reply, &source, local)).await;
    }
}

type Received = (usize, Option<SockaddrStorage>, Option<Local>);

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local::V4(info)),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Local::V6(info)),
        _ => None,
    });
    Ok((message.bytes, message.address, local))
}

fn send(socket: &UdpSocket, reply: &[u8], to: &SockaddrStorage, from: Option<Local>) -> io::Result<()> {
    let (v4, v6);
    // The address alone: the way back is for the routes to find.
    let control = match from {
        Some(Local::V4(info)) => {
            let own = info.ipi_addr;
            v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: own };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Some(Local::V6(info)) => {
            v6 = libc::in6_pktinfo { ipi6_ifindex: 0, ..info };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
        None => None,
    };
    let controls: Vec<_> = control.into_iter().collect();
    let parts = [IoSlice::new(reply)];
    sendmsg(socket.as_raw_fd(), &parts, &controls, MsgFlags::empty(), Some(to))?;
    Ok(())
}

fn address(source: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = source.as_sockaddr_in().map(|v4: &SockaddrIn| SocketAddr::V4((*v4).into()));
    v4.or_else(|| source.as_sockaddr_in6().map(|v6: &SockaddrIn6| SocketAddr::V6((*v6).into())))
}
