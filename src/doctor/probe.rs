//! What the kernel can do, tried in a network namespace that is gone afterwards.
//!
//! Nothing of the node changes, but that the kernel may load modules of its own as it will for Selvedge.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::egress::{self, EgressConfig};
use crate::guard::{self, GuardConfig};
use crate::kernel::link::{Bridge, End, Veth};
use crate::kernel::mac::Mac;
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::NetNs;
use crate::kernel::nft::{self, Chain, Family, Rule, Table};
use crate::pod::{hostport, spoof};
use crate::tunnel::io::tun::{Offload, TunQueue};

/// What of a TUN device works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tun {
    /// What it takes beyond plain packets. The offload header works, else there is no device.
    pub(super) offload: Offload,
    /// A second queue can be opened.
    pub(super) queues: bool,
}

/// The outcome of each; an error is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) tun: Result<Tun, String>,
    pub(super) nftables: Result<(), String>,
    pub(super) bridge: Result<(), String>,
    pub(super) veth: Result<(), String>,
}

/// Tries all of it.
///
/// # Errors
/// When there is no namespace to try it in: usually for want of CAP_SYS_ADMIN.
pub(super) async fn run() -> Result<Tried, String> {
    let ns = NetNs::create().map_err(|error| error.to_string())?;
    let inside = ns.run(|| (tun(), nftables().map_err(|error| error.to_string()), bridge_rules()));
    let (tun, nftables, bridge_rules) = inside.map_err(|error| error.to_string())?;
    let (bridge, veth) = match Netlink::in_ns(&ns) {
        Ok(netlink) => links(&netlink).await,
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    };
    Ok(Tried { tun, nftables, bridge: bridge.and(bridge_rules), veth })
}

fn tun() -> Result<Tun, String> {
    let first = TunQueue::open("probe0").map_err(|error| error.to_string())?;
    let queues = TunQueue::open(first.name()).is_ok();
    Ok(Tun { offload: first.offload(), queues })
}

/// What the ports of a bridge need of nftables.
fn bridge_rules() -> Result<(), String> {
    let made = nft::apply(&[spoof::empty(Family::Bridge)]).map(drop);
    made.map_err(|error| format!("nftables' family bridge (CONFIG_NF_TABLES_BRIDGE): {error}"))
}

/// The very tables that Selvedge needs, for ranges of documentation.
fn nftables() -> Result<(), nft::Error> {
    let mut ports = Table::new(Family::Netdev, "probe");
    ports.counter("dropped");
    let rule = Rule::new().ethertype(0x0806).count("dropped").drop();
    ports.chain("lo", Chain::ingress("lo", 0, vec![rule]));
    let tables = [guard::table(&guard_config()), egress::table(&egress_config()), hostport::empty(), ports];
    nft::apply(&tables)?;
    nft::apply(&[Family::Inet, Family::Arp].map(spoof::empty)).map(drop)
}

fn nets(texts: [&str; 2]) -> Vec<IpNet> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn addresses(texts: [&str; 2]) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn guard_config() -> GuardConfig {
    GuardConfig {
        cluster_pod_cidrs: nets(["198.51.100.0/24", "2001:db8:1::/48"]),
        service_cidrs: nets(["203.0.113.0/24", "2001:db8:2::/112"]),
        trusted_sources: Vec::new(),
    }
}

fn egress_config() -> EgressConfig {
    let GuardConfig { cluster_pod_cidrs, service_cidrs, .. } = guard_config();
    EgressConfig {
        tunnel: "probe0".into(),
        listen_port: 51830,
        pod_cidrs: nets(["198.51.100.0/28", "2001:db8:1::/64"]),
        fabric_addresses: addresses(["198.51.100.1", "2001:db8:1::1"]),
        own_addresses: addresses(["192.0.2.1", "2001:db8::1"]),
        member_addresses: addresses(["192.0.2.2", "2001:db8::2"]),
        cluster_pod_cidrs,
        service_cidrs,
        non_masquerade_cidrs: Vec::new(),
    }
}

async fn links(netlink: &Netlink) -> (Result<(), String>, Result<(), String>) {
    let bridge = Bridge { name: "probe1", mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, group: 0 };
    let end = |name| End { name, mac: None, mtu: 1500, group: 0 };
    let veth = Veth { end: end("probe2"), peer: end("probe3"), peer_ns: None };
    let made = |result: Result<(), crate::kernel::netlink::Error>| result.map_err(|error| error.to_string());
    (made(netlink.apply([bridge.create()]).await), made(netlink.apply([veth.create()]).await))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_works_here_and_nothing_stays() {
        selvedge_lab::isolated!(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tried = runtime.block_on(run()).unwrap();
            let tun = tried.tun.unwrap();
            assert!(tun.queues && tun.offload.tso, "{tun:?}");
            assert_eq!((tried.nftables, tried.bridge, tried.veth), (Ok(()), Ok(()), Ok(())));
            for family in Family::ALL {
                assert!(nft::tables(family).unwrap().is_empty());
            }
            runtime.block_on(async {
                assert_eq!(Netlink::new().unwrap().links().await.unwrap().len(), 1, "only lo");
            });
        });
    }
}
