//! The sockets of this process.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

/// Local addresses of the connected IPv4 and IPv6 sockets of this process, whether or not the host still has them.
///
/// # Errors
/// When the process cannot list its descriptors.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut addresses = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let descriptor = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        addresses.extend(descriptor.and_then(local_address));
    }
    Ok(addresses)
}

/// None for what is not a connected IP socket. Another thread may close the descriptor meanwhile.
fn local_address(descriptor: RawFd) -> Option<IpAddr> {
    getpeername::<SockaddrStorage>(descriptor).ok()?;
    let local = getsockname::<SockaddrStorage>(descriptor).ok()?;
    let ipv4 = local.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    ipv4.or_else(|| local.as_sockaddr_in6().map(|address| address.ip().to_canonical()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn connected_sockets_count_for_as_long_as_they_are_open() {
        let address: IpAddr = "127.7.7.1".parse().unwrap();
        let socket = UdpSocket::bind((address, 0)).unwrap();
        assert!(!local_addresses().unwrap().contains(&address), "it is not connected");
        socket.connect("127.7.7.2:9").unwrap();
        assert!(local_addresses().unwrap().contains(&address));
        drop(socket);
        assert!(!local_addresses().unwrap().contains(&address));
    }
}
