//! The TUN device as the fabric needs it: addresses, MTU, group, up. And the MTU of what lies under it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::LINK_GROUP;
use crate::kernel::address::{Address, diff};
use crate::kernel::link::{Id, Link, Update, update};
use crate::kernel::netlink::{Error, Netlink};

/// What a path of Ethernets carries, for a node none of whose addresses is found on a device.
const ETHERNET: u32 = 1500;

/// Index of `lo` in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// MTU of the [`underlay`], in bytes.
#[must_use]
pub fn underlay_mtu(links: &[Link], addresses: &[Address], node_addresses: &[IpAddr]) -> u32 {
    underlay(links, addresses, node_addresses).map_or(ETHERNET, |link| link.mtu)
}

/// The device with the node's addresses; the one of least MTU where there are several. An address on `lo`, as routing
/// to the host has it, tells nothing of the way to other nodes.
#[must_use]
pub fn underlay<'a>(links: &'a [Link], addresses: &[Address], node_addresses: &[IpAddr]) -> Option<&'a Link> {
    let carries = |link: &&Link| {
        addresses.iter().any(|a| a.device == link.index && node_addresses.contains(&a.net.addr()))
    };
    links.iter().filter(|link| link.index != LOOPBACK).filter(carries).min_by_key(|link| link.mtu)
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
    changes.extend(diff(&wanted, &found));
    let what = changes.iter().map(|change| change.what().to_owned()).collect();
    netlink.apply(changes).await?;
    Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::link::Bridge;
    use crate::kernel::mac::Mac;

    #[test]
    fn an_address_on_lo_does_not_make_it_the_underlay() {
        selvedge_lab::isolated!(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let netlink = Netlink::new().unwrap();
                let on_lo: IpNet = "192.0.2.1/32".parse().unwrap();
                netlink.apply([Address::new(LOOPBACK, on_lo).add()]).await.unwrap();
                let node = [on_lo.addr(), "192.0.2.9".parse().unwrap()];
                let mtu = async || {
                    let (links, addresses) = (netlink.links().await, netlink.addresses(None).await);
                    underlay_mtu(&links.unwrap(), &addresses.unwrap(), &node)
                };
                assert_eq!(mtu().await, ETHERNET);
                let bridge = Bridge { name: "br", mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1400, group: 0 };
                let device = netlink.ensure_bridge(&bridge).await.unwrap().index;
                netlink.apply([Address::new(device, IpNet::from(node[1])).add()]).await.unwrap();
                assert_eq!(mtu().await, 1400);
            });
        });
    }
}
