//! Connections that conntrack goes on sending to endpoints that no longer serve. UDP has no end: a client that does not change
//! its port would go on speaking to nobody for as long as it speaks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::plan::Served;
use super::target::Target;
use crate::kernel::conntrack::Connection;
use crate::kernel::protocol::Protocol;

/// Targets whose endpoints have changed, with those that serve now; none where the target itself is gone.
#[derive(Debug, Default)]
pub struct Stale(BTreeMap<Target, Option<BTreeSet<SocketAddr>>>);

impl Stale {
    /// Notes what a target was served by, and is now.
    pub(super) fn note(&mut self, target: Target, before: Option<&Served>, now: Option<&Served>) {
        if target.protocol != Protocol::Udp {
            return;
        }
        let (before, now) = (before.map(servers), now.map(servers));
        let is_complete = |before: &BTreeSet<_>| now.as_ref().is_some_and(|now| before.is_subset(now));
        if !before.as_ref().is_some_and(is_complete) {
            self.0.insert(target, now);
        }
    }

    /// Takes what another one has noted later.
    pub fn extend(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// Nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the connection is to be forgotten. Where a Service is, also one that began before and leads to nobody; where none
    /// is any more, only one that was translated: a program of this node may have the port by now.
    #[must_use]
    pub fn has(&self, connection: &Connection) -> bool {
        let target = Target { at: connection.target, protocol: Protocol::Udp };
        match self.0.get(&target) {
            Some(Some(servers)) => !servers.contains(&connection.server),
            Some(None) => connection.server != connection.target,
            None => false,
        }
    }
}

/// Whoever serves it, from inside or outside.
fn servers(served: &Served) -> BTreeSet<SocketAddr> {
    let backends = &served.port.backends;
    backends.cluster.iter().chain(&backends.local).map(|backend| backend.to).collect()
}
