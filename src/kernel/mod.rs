//! Typed handles to the kernel: namespaces, links, routes, nftables, sysctls.

pub mod address;
pub mod clock;
pub mod conntrack;
pub mod foreign;
pub mod iptables;
pub mod kube_proxy;
pub mod link;
pub mod mac;
pub mod monitor;
pub mod neigh;
pub mod netlink;
pub mod netns;
pub mod nft;
mod own;
pub mod protocol;
pub mod route;
pub mod rule;
pub mod socket;
pub mod sysctl;
pub mod xtables;

#[cfg(test)]
mod tests;

/// Link group of every network device that Selvedge makes. The guard lets pod traffic leave by these (and `lo`).
pub const LINK_GROUP: u32 = 51830;

/// `rtm_protocol` of every route and rule that Selvedge makes.
pub const ROUTE_PROTOCOL: u8 = 83;
