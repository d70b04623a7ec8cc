//! How far packets are joined for the TUN, for each kind of super-packet.

use super::vnet::Gso;

/// How far packets of one kind are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Joining {
    /// Not at all: each is written by itself.
    #[default]
    Nothing,
    /// Those of one size.
    Equal,
    /// Those of one size, and a last one that may be shorter.
    All,
}

/// How far packets are joined, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joins {
    /// TCP over IPv4.
    pub tcp_v4: Joining,
    /// TCP over IPv6.
    pub tcp_v6: Joining,
    /// UDP over either.
    pub udp: Joining,
}

impl Joins {
    /// Joins TCP or UDP packets where the TUN takes such super-packets.
    #[must_use]
    pub fn new(tcp: bool, udp: bool) -> Self {
        let joining = |wanted| if wanted { Joining::All } else { Joining::Nothing };
        Self { tcp_v4: joining(tcp), tcp_v6: joining(tcp), udp: joining(udp) }
    }

    /// How far packets of the kind `gso` are joined.
    #[must_use]
    #[inline]
    pub fn of(&self, gso: Gso) -> Joining {
        match gso {
            Gso::None => Joining::Nothing,
            Gso::TcpV4 => self.tcp_v4,
            Gso::TcpV6 => self.tcp_v6,
            Gso::Udp => self.udp,
        }
    }

    /// Sets how far packets of the kind `gso` are joined.
    pub fn set(&mut self, gso: Gso, joining: Joining) {
        match gso {
            Gso::None => {}
            Gso::TcpV4 => self.tcp_v4 = joining,
            Gso::TcpV6 => self.tcp_v6 = joining,
            Gso::Udp => self.udp = joining,
        }
    }
}
