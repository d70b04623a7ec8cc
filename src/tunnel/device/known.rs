//! The addresses where peers are configured or were heard, with the number of peers at each.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

/// Counts peers by [`site`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known(HashMap<IpAddr, u32>);

impl Known {
    /// Number of peers that may be at `site`.
    pub(super) fn peers(&self, site: IpAddr) -> u32 {
        self.0.get(&site).copied().unwrap_or_default()
    }

    /// A peer may be at `sites`.
    pub(super) fn add(&mut self, sites: Vec<IpAddr>) {
        for site in sites {
            *self.0.entry(site).or_default() += 1;
        }
    }

    /// Takes back [`Known::add`].
    pub(super) fn remove(&mut self, sites: Vec<IpAddr>) {
        for site in sites {
            if let Some(count) = self.0.get_mut(&site) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&site);
                }
            }
        }
    }
}

/// What one customer has: an IPv4 address, an IPv6 /64.
pub(super) fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}
