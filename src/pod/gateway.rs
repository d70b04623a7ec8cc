//! The node's end of all pods: the bridge with the fabric addresses on it, and what the node has to be so that
//! pods can be reached and nothing of theirs escapes.
//!
//! The fabric addresses are on `selvedge0` and on the bridge. On the bridge, because a pod has to have a working
//! gateway, and the node an address to speak to it from, while the tunnel's device is not there.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::guard::{self, GuardConfig};
use crate::kernel::LINK_GROUP;
use crate::kernel::address::{self, Address};
use crate::kernel::link::Bridge;
use crate::kernel::mac::Mac;
use crate::kernel::netlink::{self, Netlink};
use crate::kernel::nft;
use crate::kernel::sysctl;

pub use super::attachment::BRIDGE;
use super::node::NodeInfo;

/// Its Ethernet address. The same on every node, because bridges of different nodes never meet, and for ever,
/// because running pods know it as their gateway's.
pub const BRIDGE_MAC: Mac = Mac([0x02, b's', b'l', b'v', 0x00, 0x01]);

/// The default route's destination.
#[must_use]
pub fn everything(ipv6: bool) -> IpNet {
    let any = if ipv6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    IpNet::new_assert(any, 0)
}

/// What could not be put right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device, address or route.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

/// Verifies or installs the guard.
pub fn ensure_guard(node: &NodeInfo) -> Result<(), nft::Error> {
    guard::ensure(&node.into()).map(drop)
}

/// What is wrong with the guard, if anything.
#[must_use]
pub fn guard_problem(node: &NodeInfo) -> Option<String> {
    match guard::is_right(&node.into()) {
        Ok(true) => None,
        Ok(false) => Some("the nftables table of the guard is missing or was changed".to_owned()),
        Err(error) => Some(format!("the nftables table of the guard cannot be read: {error}")),
    }
}

impl From<&NodeInfo> for GuardConfig {
    fn from(node: &NodeInfo) -> Self {
        Self {
            cluster_pod_cidrs: node.cluster_pod_cidrs.clone(),
            service_cidrs: node.service_cidrs.clone(),
            trusted_sources: node.trusted_sources.clone(),
        }
    }
}

/// Makes the bridge and the sysctls be as they should, and gives the index of the bridge. Changes only what is not
/// right. Guard and unreachable routes come before.
///
/// The bridge is ours alone, so addresses that are not wanted go: the gateway of a pod CIDR that the node had before would
/// make packets from that CIDR's next owner martians here.
pub async fn ensure(netlink: &Netlink, node: &NodeInfo) -> Result<u32, Error> {
    let bridge = Bridge { name: BRIDGE, mac: BRIDGE_MAC, mtu: node.mtu, group: LINK_GROUP };
    let index = netlink.ensure_bridge(&bridge).await?.index;
    sysctls(node)?;
    let found = netlink.addresses(Some(index)).await?;
    netlink.apply(address::diff(&gateways(node, index), &found)).await?;
    Ok(index)
}

/// The gateways of the node's pods, on the device with this index.
fn gateways(node: &NodeInfo, device: u32) -> Vec<Address> {
    node.fabric_addresses().into_iter().map(|address| Address::new(device, address)).collect()
}

/// Puts the unreachable routes back that are missing. They come before any pod.
pub async fn ensure_unreachable(netlink: &Netlink, node: &NodeInfo) -> Result<(), netlink::Error> {
    let found = netlink.routes().await?;
    let missing = node.unreachable_routes().into_iter().filter(|route| !found.contains(route));
    netlink.apply(missing.map(|route| route.replace())).await
}

/// Sets what the kernel has to do for pods, in the calling thread's namespace, and gives the keys that it changed.
/// The bridge has to exist.
pub fn sysctls(node: &NodeInfo) -> Result<Vec<String>, sysctl::Error> {
    let settings = settings(node);
    let forwarding = |(key, _): &(String, &str)| key == IPV6_FORWARDING;
    if settings.iter().any(forwarding) && sysctl::read(IPV6_FORWARDING)? != "1" {
        keep_router_advertisements()?;
    }
    sysctl::ensure_all(settings)
}

const IPV6_FORWARDING: &str = "ipv6/conf/all/forwarding";

/// Key and value of each sysctl. The reverse path is checked loosely, because a pod's packets come by way of the
/// bridge and its route leads to its port; what it may have as source, its port sees to.
fn settings(node: &NodeInfo) -> Vec<(String, &'static str)> {
    let ipv4 = [("rp_filter", "2"), ("accept_redirects", "0"), ("forwarding", "1")];
    let ipv6 = [
        ("disable_ipv6", "0"),
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("accept_redirects", "0"),
        ("forwarding", "1"),
    ];
    let has = |ipv6: bool| node.pod_cidrs.iter().any(|net| net.addr().is_ipv6() == ipv6);
    // The switches of the node come first: they set those of the devices.
    let mut settings = vec![];
    if has(false) {
        settings.push(("ipv4/ip_forward".to_owned(), "1"));
        settings.extend(ipv4.map(|(key, value)| (on_bridge("ipv4", key), value)));
    }
    if has(true) {
        settings.push((IPV6_FORWARDING.to_owned(), "1"));
        settings.extend(ipv6.map(|(key, value)| (on_bridge("ipv6", key), value)));
    }
    settings
}

/// Forwarding makes the kernel drop default routes learnt from router advertisements, and stop learning them,
/// unless the device says 2: without that, a node with such an underlay would lose it.
pub fn keep_router_advertisements() -> Result<(), sysctl::Error> {
    let Ok(devices) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return Ok(()) };
    for device in devices.filter_map(Result::ok) {
        let name = device.file_name();
        let Some(name) = name.to_str().filter(|name| *name != "all" && *name != BRIDGE) else { continue };
        let key = format!("ipv6/conf/{name}/accept_ra");
        match sysctl::read(&key) {
            Ok(value) if value == "1" => match sysctl::write(&key, "2") {
                Err(error) if !error.is_missing() => return Err(error),
                _ => {}
            },
            // The device may be gone meanwhile.
            _ => {}
        }
    }
    Ok(())
}

fn on_bridge(family: &str, key: &str) -> String {
    format!("{family}/conf/{BRIDGE}/{key}")
}

/// What is not as [`ensure`] makes it, in words.
pub async fn problems(netlink: &Netlink, node: &NodeInfo) -> Result<Vec<String>, netlink::Error> {
    let mut problems = vec![];
    let routes = netlink.routes().await?;
    for route in node.unreachable_routes().iter().filter(|route| !routes.contains(route)) {
        problems.push(format!("the node's route {route} is missing"));
    }
    let Some(bridge) = netlink.link_named(BRIDGE).await? else {
        problems.push(format!("bridge {BRIDGE} is missing"));
        return Ok(problems);
    };
    if !bridge.up {
        problems.push(format!("bridge {BRIDGE} is down"));
    }
    if bridge.mac != Some(BRIDGE_MAC) {
        problems.push(format!("bridge {BRIDGE} has another Ethernet address than {BRIDGE_MAC}"));
    }
    if bridge.group != LINK_GROUP {
        problems.push(format!("bridge {BRIDGE} is in link group {} instead of {LINK_GROUP}", bridge.group));
    }
    for (key, value) in settings(node) {
        match sysctl::read(&key) {
            Ok(found) if found == value => {}
            Ok(found) => problems.push(format!("sysctl net/{key} is {found} instead of {value}")),
            Err(error) => problems.push(error.to_string()),
        }
    }
    let (wanted, found) = (gateways(node, bridge.index), netlink.addresses(Some(bridge.index)).await?);
    for missing in wanted.iter().filter(|address| !found.contains(address)) {
        problems.push(format!("bridge {BRIDGE} lacks the gateway address {}", missing.net.addr()));
    }
    for stale in address::stale(&wanted, &found) {
        problems.push(format!("bridge {BRIDGE} has {}, which is no gateway of this node's pods", stale.net));
    }
    Ok(problems)
}
