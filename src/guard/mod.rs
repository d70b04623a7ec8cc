//! The guard: no packet from or to a pod or Service address passes a device that is not ours.
//!
//! "Ours" are loopback and the devices of our link group. On the way out it looks after all source NAT (postrouting,
//! priority 300): what was masqueraded carries no pod address any more. On the way in it looks before any NAT is
//! undone (prerouting, -300): what really belongs to a pod still carries the node's address. So it says nothing
//! about connections, and holds while agent, tunnel, routes or other tables are gone.
//!
//! ICMP errors quote the packet that they are about. The kernel translates what they quote, but not when it knows no
//! connection (the first packet of one that a NodePort sends to a pod that is gone, for example), so the quoted
//! addresses are looked at too.

//!
//! NAT translates no address in an IPv4 option or an IPv6 extension header, so pods' packets with such do not leave.

mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::config::Config;
use crate::kernel::nft::{self, Changes, Counter, Error, Family};
pub use table::table;

/// Name of the guard's nftables table, of family inet.
pub const TABLE: &str = "selvedge-guard";

/// The guard marks what comes from our devices with this bit of the packet's mark. The agent's routing rules leave pods'
/// packets without it no way out of the cluster, so they stay inside when somebody flushes nftables.
pub const MARK: u32 = 1 << 24;

/// The bit for what comes to pods by devices that are not ours. The kernel's check of the way back asks, with the same
/// mark, for the way that the pod's answers will take; where pods have no bridge, that question looks like a pod's packet.
pub const MARK_ARRIVING: u32 = 1 << 25;

/// What the guard follows from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuardConfig {
    /// All pod CIDRs of the cluster, of all nodes.
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// All Service CIDRs of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Who may exchange packets with pods in the clear, from outside the fabric.
    pub trusted_sources: Vec<IpNet>,
}

impl From<&Config> for GuardConfig {
    fn from(config: &Config) -> Self {
        Self {
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            trusted_sources: config.trusted_sources.clone(),
        }
    }
}

/// Makes the guard be there as it should. Changes nothing when it is; its counters keep their values.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn ensure(config: &GuardConfig) -> Result<Changes, Error> {
    nft::apply(&[table(config)])
}

/// Whether the guard is there as it should.
///
/// # Errors
/// [`Error`].
pub fn is_right(config: &GuardConfig) -> Result<bool, Error> {
    let state = nft::read(Family::Inet, TABLE)?;
    Ok(state.is_some_and(|state| !state.dormant && state.table == table(config)))
}

/// Takes the guard away. True when it was there.
///
/// # Errors
/// [`Error`]; then it is still there.
pub fn remove() -> Result<bool, Error> {
    nft::delete(Family::Inet, TABLE)
}

/// What the guard has dropped, by counter: `leaving4`, `leaving6`, `arriving4`, `arriving6`, with `-quoted` behind it
/// for ICMP errors and redirects that quote or name a pod or Service address, and `leaving4-options`, `leaving6-options` for pods' packets with
/// options or extension headers. None when there is no guard.
///
/// # Errors
/// [`Error`].
pub fn dropped() -> Result<BTreeMap<String, Counter>, Error> {
    nft::counters(Family::Inet, TABLE)
}
