//! Names of the table of Services, of its maps and chains, and the numbers of plans.

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
    /// Targets that not everybody may use.
    pub(in crate::service) const RESTRICTED: &str = "restricted";
    /// Those targets, and who may use them.
    pub(in crate::service) const ALLOWED: &str = "allowed";
    /// Target to the chain of a port with session affinity, for the cluster's backends and this node's.
    pub(in crate::service) const AFFINITY: [&str; 2] = ["affinity", "local-affinity"];
    /// Target and index to the number of a backend.
    pub(in crate::service) const SLOTS: [&str; 2] = ["slots", "local-slots"];
    /// Target and number to a backend.
    pub(in crate::service) const NUMBERS: [&str; 2] = ["numbers", "local-numbers"];
    /// Client to the number of its backend; a map for each port with session affinity.
    pub(in crate::service) const CLIENTS: &str = "clients";
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

/// The same for a port with session affinity, whose backends are its own chain's matter.
#[must_use]
pub(super) fn affinity_plan(action: Action) -> u32 {
    match action {
        Action::Reject | Action::Drop => plan_number(action, 0),
        Action::Cluster => 3,
        Action::Masquerade => 4,
        Action::Local => 5,
    }
}

/// A map or set of one family.
pub(super) fn set_name(name: &str, ip: Ip) -> String {
    format!("{name}{}", ip.digit())
}

/// A chain or map of one port of a Service.
#[must_use]
pub(super) fn port_name(name: &str, ip: Ip, port: &str) -> String {
    format!("{name}{}-{port}", ip.digit())
}
