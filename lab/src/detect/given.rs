//! The addresses that somebody of a cluster has or had.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;

/// Addresses of pods, Services and gateways. What was given once stays: a frame may be looked at late, and is judged later.
#[derive(Debug, Clone, Default)]
pub struct Given(Arc<RwLock<HashSet<IpNet>>>);

impl Given {
    /// Adds addresses or, where it is not known which of them are in use, whole ranges.
    pub fn add<T: Into<IpNet>>(&self, nets: impl IntoIterator<Item = T>) {
        let mut given = self.0.write().unwrap_or_else(PoisonError::into_inner);
        given.extend(nets.into_iter().map(Into::into));
    }

    /// Whether `address` was given to somebody.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|net| net.contains(&address))
    }
}
