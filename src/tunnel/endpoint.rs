//! Where a peer is, and the own address that it knows us by.

use std::net::{IpAddr, SocketAddr};

/// Both ends of the way that datagrams to a peer take.
///
/// What is known of both belongs together: a stateful firewall or a NAT on the way lets an answer pass only if it comes
/// from the address that was addressed. So the own address is learnt with the peer's, and forgotten with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub address: SocketAddr,
    /// The own address that datagrams leave from. `None` leaves the choice to the kernel; of a received datagram it
    /// means that the kernel did not report which address it came to.
    pub source: Option<IpAddr>,
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, source: None }
    }
}
