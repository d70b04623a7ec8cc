//! Names of the table of Services and of its maps, and the numbers of plans.

use super::class::Class;
use super::plan::Action;
use crate::kernel::nft::Ip;

/// Name of the nftables table, of family inet.
pub const TABLE: &str = "selvedge-services";

/// Maps and sets, each with the digit of its family behind its name.
pub(super) mod name {
    /// Target to plan, for packets from inside.
    pub(in crate::service) const INSIDE: &str = "inside";
    /// Target to plan, for packets from outside.
    pub(in crate::service) const OUTSIDE: &str = "outside";
    /// Target and index to one of the cluster's backends.
    pub(in crate::service) const CLUSTER: &str = "cluster";
    /// Target and index to one of this node's backends.
    pub(in crate::service) const LOCAL: &str = "local";
    /// Cluster IPs that some Service has.
    pub(in crate::service) const CLUSTER_IPS: &str = "cluster-ips";
    /// Twice the address of each backend on this node.
    pub(in crate::service) const HAIRPINS: &str = "hairpins";
}

/// The number by which the maps of targets name what becomes of a packet: that of an action, and of the class of its backends.
#[must_use]
pub(super) fn plan_number(action: Action, count: usize) -> u32 {
    let class = u32::from(Class::of(count).number);
    match action {
        Action::Reject => 1,
        Action::Drop => 2,
        Action::Cluster => 0x100 + class,
        Action::Masquerade => 0x200 + class,
        Action::Local => 0x300 + class,
    }
}

/// A map or set of one family.
pub(super) fn set_name(name: &str, ip: Ip) -> String {
    format!("{name}{}", ip.digit())
}
