//! The TUN device as the fabric needs it: addresses, MTU, group, up. And the MTU of what lies under it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::LINK_GROUP;
use crate::kernel::address::Address;
use crate::kernel::link::{Id, Link, Update, update};
use crate::kernel::netlink::{Error, Netlink};

/// Bytes that WireGuard adds to a packet on IPv6: 40 (IPv6) + 8 (UDP) + 32 (header and tag), WireGuard paper 5.4.6.
pub const OVERHEAD: u32 = 80;
/// What a path of Ethernets carries, for a node none of whose addresses is found on a device.
const ETHERNET: u32 = 1500;

/// MTU for the tunnel and the pods: that of the device with the node's addresses less [`OVERHEAD`], always for an
/// IPv6 underlay, since any peer may be reached over it. With several devices the smallest counts.
///
/// # Errors
/// When the kernel does not list devices and addresses.
pub async fn tunnel_mtu(netlink: &Netlink, node_addresses: &[IpAddr]) -> Result<u32, Error> {
    let addresses = netlink.addresses(None).await?;
    let links = netlink.links().await?;
    let carries = |link: &Link| {
        addresses.iter().any(|a| a.device == link.index && node_addresses.contains(&a.net.addr()))
    };
    let underlay = links.iter().filter(|link| carries(link)).map(|link| link.mtu).min();
    Ok(underlay.unwrap_or(ETHERNET) - OVERHEAD)
}

/// Brings `link` to its desired state and tells what was changed.
///
/// # Errors
/// When the kernel refuses a change.
pub async fn ensure(
    netlink: &Netlink,
    link: &Link,
    mtu: u32,
    addresses: &[IpAddr],
) -> Result<Vec<String>, Error> {
    let id = Id::Index(link.index);
    let mut changes = Vec::new();
    let differs = Update {
        mtu: (link.mtu != mtu).then_some(mtu),
        group: (link.group != LINK_GROUP).then_some(LINK_GROUP),
        up: (!link.up).then_some(true),
        ..Update::default()
    };
    if differs.mtu.or(differs.group).is_some() || differs.up.is_some() {
        changes.push(update(id, &differs));
    }
    let wanted: Vec<Address> =
        addresses.iter().map(|address| Address::new(link.index, IpNet::from(*address))).collect();
    let found = netlink.addresses(Some(link.index)).await?;
    let stale =
        found.iter().filter(|address| !wanted.contains(address) && !is_link_local(address.net.addr()));
    changes.extend(stale.map(|address| address.delete()));
    changes.extend(wanted.iter().filter(|address| !found.contains(address)).map(|address| address.add()));
    let what = changes.iter().map(|change| change.what().to_owned()).collect();
    netlink.apply(changes).await?;
    Ok(what)
}

/// The kernel gives IPv6 devices one by itself.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
