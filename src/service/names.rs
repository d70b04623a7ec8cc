//! Names of the table of Services, of its maps and chains.

use crate::kernel::nft::Ip;

/// Name of the nftables table, of family inet.
pub const TABLE: &str = "selvedge-services";

/// Maps and sets, each with the digit of its family behind its name.
pub(super) mod name {
    /// Target to plan, for packets from inside.
    pub(in crate::service) const INSIDE: &str = "inside";
    /// Target to plan, for packets from outside.
    pub(in crate::service) const OUTSIDE: &str = "outside";
    /// Target and index to one of the cluster's backends, and the chain that looks it up.
    pub(in crate::service) const CLUSTER: &str = "cluster";
    /// The same of this node's backends.
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
    /// Target and index to the number of a backend, and the chains that look it up.
    pub(in crate::service) const SLOTS: [&str; 2] = ["slots", "local-slots"];
    /// Target and number to a backend, and the chains that look it up.
    pub(in crate::service) const NUMBERS: [&str; 2] = ["numbers", "local-numbers"];
    /// The chains that serve a client by the number that it has got.
    pub(in crate::service) const NUMBERED: [&str; 2] = ["numbered", "local-numbered"];
    /// Client to the number of its backend; a map for each port with session affinity.
    pub(in crate::service) const CLIENTS: &str = "clients";
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
