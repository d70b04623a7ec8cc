//! The addresses where peers are configured or were heard, with the number of peers at each.

use std::collections::HashMap;
use std::net::IpAddr;

/// Counts peers by [`site`](super::budget::site).
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
