//! Devices, addresses and routes of the node, as netlink shows them.

use std::net::IpAddr;

use crate::kernel::LINK_GROUP;
use crate::kernel::address::Address;
use crate::kernel::foreign::AnyRoute;
use crate::kernel::link::Link;
use crate::kernel::netlink::{Error, Netlink};
use crate::kernel::route::MAIN;

/// Numbers of the routing tables that hold the node's own addresses.
const LOCAL: u32 = 255;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<AnyRoute>,
}

impl Network {
    pub(super) async fn gather(netlink: &Netlink) -> Result<Self, Error> {
        let (links, addresses) = (netlink.links().await?, netlink.addresses(None).await?);
        let routes = netlink.all_routes().await?.into_iter().filter(|route| route.table != LOCAL).collect();
        Ok(Self { links, addresses, routes })
    }

    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(super) fn has_link(&self, name: &str) -> bool {
        self.links.iter().any(|link| link.name == name)
    }

    /// Whether the device is one that Selvedge made.
    pub(super) fn is_ours(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.group == LINK_GROUP)
    }

    /// The devices of the main table's default routes.
    pub(super) fn default_devices(&self) -> Vec<&Link> {
        self.devices(|route| route.destination.prefix_len() == 0)
    }

    /// The devices by which the main table leads to `address`: those of its longest prefixes.
    pub(super) fn devices_to(&self, address: IpAddr) -> Vec<&Link> {
        let leads = |route: &&AnyRoute| route.table == MAIN && route.destination.contains(&address);
        let longest = self.routes.iter().filter(leads).map(|route| route.destination.prefix_len()).max();
        self.devices(|route| leads(&route) && Some(route.destination.prefix_len()) == longest)
    }

    /// Not ours; of routes of the main table.
    fn devices(&self, picks: impl Fn(&AnyRoute) -> bool) -> Vec<&Link> {
        let routes = self.routes.iter().filter(|route| route.table == MAIN && picks(route));
        let indices = routes.flat_map(|route| &route.devices).filter(|index| !self.is_ours(**index));
        indices.filter_map(|index| self.link(*index)).collect()
    }

    /// Addresses of devices that are not ours, with the devices' names; none that only mean the host or its link.
    pub(super) fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let foreign = self.addresses.iter().filter(|address| !self.is_ours(address.device));
        foreign.filter_map(|address| {
            let special = crate::config::range::special(address.net.addr()).is_some();
            (!special).then_some((address.net.addr(), self.link(address.device)?.name.as_str()))
        })
    }
}

/// Pieces of a network, for tests.
#[cfg(test)]
pub(super) mod fake {
    use super::*;

    pub(crate) fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link {
            index,
            name: name.into(),
            kind: None,
            mac: None,
            mtu,
            group: if name.starts_with("selvedge") { LINK_GROUP } else { 0 },
            up: true,
            carrier: true,
            master: None,
            peer: None,
            port: None,
        }
    }

    pub(crate) fn route(destination: &str, device: u32) -> AnyRoute {
        let destination = destination.parse().unwrap();
        AnyRoute { destination, table: MAIN, ours: false, devices: vec![device] }
    }

    /// `eth0` with an address and a default route, and what is given beside.
    pub(crate) fn network(links: &[&str]) -> Network {
        let mut all = vec![link(1, "lo", 65536), link(2, "eth0", 1500)];
        all.extend((3..).zip(links).map(|(index, name)| link(index, name, 1500)));
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        let addresses = vec![Address::new(1, net("127.0.0.1/8")), Address::new(2, net("192.0.2.10/24"))];
        Network { links: all, addresses, routes: vec![route("0.0.0.0/0", 2), route("192.0.2.0/24", 2)] }
    }
}
