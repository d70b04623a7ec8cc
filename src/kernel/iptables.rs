//! Names of iptables-nft's tables: the iptables that keeps its rules in nftables. The old one is in [`xtables`].
//!
//! [`xtables`]: super::xtables

use super::nft::Family;

/// The families of its tables.
pub const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
/// The table that translates addresses.
pub const NAT: &str = "nat";
/// The table that filters.
pub const FILTER: &str = "filter";
/// Its chain for what is forwarded.
pub const FORWARD: &str = "FORWARD";
/// Docker's chain for rules of others; `FORWARD` leads to it first.
pub const DOCKER_USER: &str = "DOCKER-USER";
