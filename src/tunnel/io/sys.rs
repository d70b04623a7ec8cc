//! The system calls of this folder that no crate wraps without allocating: TUN and interface ioctls, and
//! `sendmsg`/`recvmsg` with UDP segmentation.

#![expect(unsafe_code, reason = "raw system calls, each with the lifetime of its pointers in view")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of small structures, constants of the C interface"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::tunnel::endpoint::Endpoint;

/// A name and flags for an interface ioctl.
#[derive(Clone, Copy)]
pub(super) struct InterfaceRequest(libc::ifreq);

impl InterfaceRequest {
    /// None if `name` is not 1 to 15 bytes, or has a NUL.
    pub(super) fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return None;
        }
        // SAFETY: an all-zero `ifreq` is valid: it is plain data.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        Some(Self(request))
    }

    /// A request that asks for a name.
    pub(super) fn empty() -> Self {
        // SAFETY: as in `new`.
        Self(unsafe { mem::zeroed() })
    }

    pub(super) fn name(&self) -> String {
        let bytes = self.0.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }

    pub(super) fn flags(&self) -> u16 {
        // SAFETY: every bit pattern of the union is a valid `c_short`.
        unsafe { self.0.ifr_ifru.ifru_flags }.cast_unsigned()
    }

    pub(super) fn set_flags(&mut self, flags: u16) {
        self.0.ifr_ifru.ifru_flags = flags.cast_signed();
    }

    pub(super) fn mtu(&self) -> i32 {
        // SAFETY: every bit pattern of the union is a valid `c_int`.
        unsafe { self.0.ifr_ifru.ifru_mtu }
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.0.ifr_ifru.ifru_mtu = i32::from(mtu);
    }

    /// Runs the interface ioctl `request` with this as its argument.
    pub(super) fn call(&mut self, fd: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the ioctls used here take a pointer to one `ifreq`, alive and exclusive during the call.
        check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &raw mut self.0) }).map(drop)
    }
}

/// An ioctl whose argument is a plain number.
pub(super) fn ioctl_value(fd: BorrowedFd<'_>, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the ioctls used here take their argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(value)) }).map(drop)
}

/// An ioctl whose argument is a pointer to a number that it reads.
pub(super) fn ioctl_pointer(fd: BorrowedFd<'_>, request: libc::Ioctl, value: i32) -> io::Result<()> {
    // SAFETY: the ioctls used here read one `c_int`, alive during the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) }).map(drop)
}

/// An ioctl without an argument that opens a descriptor.
pub(super) fn ioctl_descriptor(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: the ioctls used here take no argument and write no memory.
    let raw = check(unsafe { libc::ioctl(fd.as_raw_fd(), request) })?;
    // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Sets an integer socket option.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to one `c_int` of the size given, alive during the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) }).map(drop)
}

/// Room for the control messages of one call, in bytes: a segment size and an address, with some to spare.
const CONTROL: usize = 128;

/// The control messages to send, or room for those to receive, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Control {
    /// Appends a control message behind the `len` bytes that are in; the length with it.
    fn push<T: Copy>(&mut self, len: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute.
        let (space, own) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
        assert!(len + space <= CONTROL, "the control messages of a send fit into their buffer");
        // SAFETY: header and value stand inside of the buffer (asserted), at a multiple of the header's alignment:
        // the buffer is aligned, and so is every CMSG_SPACE.
        unsafe {
            let header = self.0.as_mut_ptr().add(len).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = own;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        len + space
    }

    /// Appends the address that the datagrams are to leave from.
    fn push_source(&mut self, len: usize, source: IpAddr) -> usize {
        match source {
            IpAddr::V4(source) => {
                let address = libc::in_addr { s_addr: u32::from(source).to_be() };
                let any = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: any };
                self.push(len, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(source) => {
                let address = libc::in6_addr { s6_addr: source.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                self.push(len, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }
}

/// What one `recvmsg` brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    /// The sender, and the own address that it sent to.
    pub(super) from: Endpoint,
    /// Bytes received.
    pub(super) len: usize,
    /// Size of each datagram but the last, when there are several.
    pub(super) segment: Option<usize>,
}

/// Receives without waiting; with `UDP_GRO` on, possibly many datagrams of one sender.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([0; CONTROL]);
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero `msghdr` is valid; every pointer set below outlives the call.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: `message` describes live, exclusive buffers with their true lengths.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: zeroed at first, so initialised whatever the kernel wrote.
    let address = address_from(unsafe { address.assume_init_ref() }).ok_or(io::ErrorKind::InvalidData)?;
    let (segment, source) = received_control(&message);
    Ok(Received { from: Endpoint { address, source }, len, segment })
}

/// The control messages of a received `message`: `UDP_GRO`, and `IP_PKTINFO` or `IPV6_PKTINFO`.
fn received_control(message: &libc::msghdr) -> (Option<usize>, Option<IpAddr>) {
    let (mut segment, mut source) = (None, None::<IpAddr>);
    // SAFETY: `message` was filled in by the kernel; CMSG_* stay inside its control buffer, and the kernel writes a
    // value of the type that level and type of its header announce.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    segment = usize::try_from(size).ok().filter(|size| *size > 0);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // Not `ipi_addr`, the destination in the header, from which no answer to a broadcast may leave.
                    let address = data.cast::<libc::in_pktinfo>().read_unaligned().ipi_spec_dst;
                    source = Some(Ipv4Addr::from(u32::from_be(address.s_addr)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let address = data.cast::<libc::in6_pktinfo>().read_unaligned().ipi6_addr;
                    source = Some(Ipv6Addr::from(address.s6_addr).into());
                }
                _ => {}
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    (segment, source.filter(|source| !source.is_unspecified() && !source.is_multicast()))
}

/// Sends `bytes` without waiting, as one datagram or as datagrams of `segment` bytes each (the last may be
/// shorter).
pub(super) fn send(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    to: Endpoint,
    segment: Option<u16>,
) -> io::Result<usize> {
    let (mut address, address_len) = address_to(to.address);
    let mut control = Control([0; CONTROL]);
    let mut control_len = 0;
    if let Some(size) = segment {
        control_len = control.push(control_len, libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
    if let Some(source) = to.source {
        control_len = control.push_source(control_len, source);
    }
    let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero `msghdr` is valid; every pointer set below outlives the call.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = address_len;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if control_len > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control_len;
    }
    // SAFETY: `message` describes live buffers with their true lengths; sendmsg only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn address_from(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer: *const libc::sockaddr_storage = storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a `sockaddr_in` is inside, and the storage is larger.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a `sockaddr_in6` is inside, and the storage is as large.
            let address = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn address_to(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: an all-zero `sockaddr_storage` is valid plain data.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let pointer = &raw mut storage;
    let size = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is large enough and aligned for every address family.
            let to = unsafe { &mut *pointer.cast::<libc::sockaddr_in>() };
            to.sin_family = libc::AF_INET as libc::sa_family_t;
            to.sin_port = v4.port().to_be();
            to.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let to = unsafe { &mut *pointer.cast::<libc::sockaddr_in6>() };
            to.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            to.sin6_port = v6.port().to_be();
            to.sin6_addr.s6_addr = v6.ip().octets();
            to.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, size as libc::socklen_t)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
