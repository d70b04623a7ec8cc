//! Packets of an exact size: does one come through whole, in fragments, or is it too big?

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use selvedge::kernel::netns::NetNs;
use socket2::{Protocol, Type};

use super::{Canary, Error, failed, socket};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It came through, and an answer of the same size came back.
    Echoed,
    /// The kernel would not send it, or was told on the way: the path takes this many bytes.
    TooBig(u32),
    /// Nothing came back.
    Lost,
}

/// Sends an IP packet of `size` bytes from `ns` to the UDP server at `to`, up to `tries` times. With `whole`
/// it must not be fragmented, by nobody.
pub fn probe(
    ns: &NetNs,
    to: SocketAddr,
    size: usize,
    whole: bool,
    canary: &Canary,
    tries: usize,
) -> Result<Probe, Error> {
    let udp = open(ns, to, whole)?;
    let headers = if to.is_ipv6() { 48 } else { 28 };
    let payload = canary.fill(size.saturating_sub(headers));
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..tries.max(1) {
        let exchanged = udp.send(&payload).and_then(|_| udp.recv(&mut buffer));
        match exchanged {
            Ok(_) => return Ok(Probe::Echoed),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Ok(Probe::TooBig(
                    mtu(&udp, to).map_err(failed(format!("ask the path MTU to {to}")))?,
                ));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(failed(format!("send {size} bytes to {to}"))(error)),
        }
    }
    Ok(Probe::Lost)
}

/// The path MTU that the kernel in `ns` knows for `to`.
pub fn path_mtu(ns: &NetNs, to: SocketAddr) -> Result<u32, Error> {
    let udp = open(ns, to, true)?;
    mtu(&udp, to).map_err(failed(format!("ask the path MTU to {to}")))
}

fn open(ns: &NetNs, to: SocketAddr, whole: bool) -> Result<UdpSocket, Error> {
    let udp = UdpSocket::from(socket(ns, to, Type::DGRAM, Some(Protocol::UDP))?);
    let prepare = || {
        let (level, option) = match to.is_ipv6() {
            true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
            false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        };
        // The constants for "do" and "don't" are the same in both families.
        let value = if whole { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
        set(&udp, level, option, value)?;
        udp.connect(to)?;
        udp.set_read_timeout(Some(Duration::from_millis(500)))
    };
    prepare().map_err(failed(format!("prepare a probe of {to}")))?;
    Ok(udp)
}

fn mtu(udp: &UdpSocket, to: SocketAddr) -> io::Result<u32> {
    let (level, option) = match to.is_ipv6() {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        false => (libc::IPPROTO_IP, libc::IP_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "no crate reads this option for both families")]
    // SAFETY: `value` is an int, as the option gives, and `size` is its size.
    let result =
        unsafe { libc::getsockopt(udp.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(value).map_err(io::Error::other)
}

fn set(udp: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "no crate sets this option")]
    // SAFETY: `value` is an int, as the option takes, and `size` is its size.
    let result = unsafe { libc::setsockopt(udp.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
