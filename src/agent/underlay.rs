//! Addresses that the node loses, such as by another DHCP lease.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::kernel::LINK_GROUP;
use crate::kernel::monitor::{Change, Monitor};
use crate::kernel::netlink::{Error, Netlink};

/// Pause before it is tried again to listen.
const RETRY: Duration = Duration::from_secs(1);

/// Waits until a device that is not of the fabric loses an address that it had when this was called, or got since.
pub(super) async fn lost_address() -> IpAddr {
    let mut known = BTreeSet::new();
    loop {
        match follow(&mut known).await {
            Ok(lost) => return lost,
            Err(error) => tracing::warn!(%error, "cannot follow the node's addresses"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(known: &mut BTreeSet<IpAddr>) -> anyhow::Result<IpAddr> {
    let (mut monitor, netlink) = (Monitor::new()?, Netlink::new()?);
    loop {
        let now = addresses(&netlink).await?;
        if let Some(lost) = known.difference(&now).next() {
            return Ok(*lost);
        }
        *known = now;
        while !monitor.next().await?.contains(&Change::Address) {}
    }
}

/// Addresses that connections may be from: not link-local ones, which come and go with every device.
async fn addresses(netlink: &Netlink) -> Result<BTreeSet<IpAddr>, Error> {
    let links = netlink.links().await?;
    let of_fabric = |device| links.iter().any(|link| link.index == device && link.group == LINK_GROUP);
    let addresses = netlink.addresses(None).await?.into_iter();
    let outside = addresses.filter(|address| !of_fabric(address.device)).map(|address| address.net.addr());
    Ok(outside.filter(|address| !is_local(*address)).collect())
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}
