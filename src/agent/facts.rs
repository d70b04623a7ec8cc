//! What the kernel has, as far as controllers go by it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::control::Trigger;
use crate::kernel::LINK_GROUP;
use crate::kernel::address::Address;
use crate::kernel::link::Link;
use crate::kernel::netlink::{Error, Netlink};

/// Loopback is the first device of every network namespace.
const LOOPBACK: u32 = 1;

/// Devices and addresses of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KernelFacts {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
}

impl KernelFacts {
    /// Reads them.
    pub(super) async fn read(netlink: &Netlink) -> Result<Self, Error> {
        Ok(Self { links: netlink.links().await?, addresses: netlink.addresses(None).await? })
    }

    /// The device of that name.
    pub(super) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Addresses that connections may be from: not those of the fabric, nor link-local ones, which come and go with every
    /// device.
    pub(super) fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let ours = |device| self.links.iter().any(|link| link.index == device && link.group == LINK_GROUP);
        let outside = self.addresses.iter().filter(|address| !ours(address.device));
        outside.map(|address| address.net.addr()).filter(|address| !is_local(*address)).collect()
    }

    /// Addresses by which the host is reached: not the fabric's, nor those of dummy devices, where proxies and caches keep the
    /// Service addresses that they answer for.
    pub(super) fn host_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_of_host = |link: &Link| {
            link.group != LINK_GROUP && link.kind.as_deref() != Some("dummy") && link.index != LOOPBACK
        };
        let devices: BTreeSet<u32> =
            self.links.iter().filter(|it| is_of_host(it)).map(|it| it.index).collect();
        let addresses = self.addresses.iter().filter(move |address| devices.contains(&address.device));
        addresses.map(|address| address.net.addr()).filter(|address| !is_local(*address))
    }

    /// Which triggers the change from `before` is, in a node whose TUN device is `tunnel`.
    pub(super) fn changes(&self, before: &Self, tunnel: &str) -> Vec<Trigger> {
        let mut triggers = Vec::new();
        if self.device(tunnel) != before.device(tunnel) {
            triggers.push(Trigger::TunnelLink);
        }
        if self.underlay(tunnel) != before.underlay(tunnel) {
            triggers.push(Trigger::Underlay);
        }
        if self.of_pods(tunnel) != before.of_pods(tunnel) {
            triggers.push(Trigger::PodLinks);
        }
        triggers
    }

    fn device(&self, name: &str) -> Option<(&Link, Vec<&Address>)> {
        let link = self.link(name)?;
        Some((link, self.addresses.iter().filter(|address| address.device == link.index).collect()))
    }

    fn underlay(&self, tunnel: &str) -> Vec<(&str, u32, Vec<&Address>)> {
        let foreign = self.links.iter().filter(|link| link.group != LINK_GROUP && link.name != tunnel);
        let addresses = |link: &Link| self.addresses.iter().filter(|a| a.device == link.index).collect();
        foreign.map(|link| (link.name.as_str(), link.mtu, addresses(link))).collect()
    }

    fn of_pods(&self, tunnel: &str) -> Vec<(&Link, Vec<&Address>)> {
        let ours = self.links.iter().filter(|link| link.group == LINK_GROUP && link.name != tunnel);
        let addresses = |link: &Link| self.addresses.iter().filter(|a| a.device == link.index).collect();
        ours.map(|link| (link, addresses(link))).collect()
    }
}

fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, group: u32) -> Link {
        Link {
            index,
            name: name.into(),
            kind: None,
            mac: None,
            mtu: 1500,
            group,
            up: true,
            carrier: true,
            master: None,
            peer: None,
            port: None,
        }
    }

    #[test]
    fn each_change_is_the_trigger_of_its_kind() {
        let address = Address::new(2, "192.0.2.1/24".parse::<ipnet::IpNet>().unwrap());
        let links = vec![link(2, "eth0", 0), link(3, "selvedge0", LINK_GROUP), link(4, "slv1", LINK_GROUP)];
        let before = KernelFacts { links, addresses: vec![address] };
        let after = |change: &dyn Fn(&mut KernelFacts)| {
            let mut now = before.clone();
            change(&mut now);
            now.changes(&before, "selvedge0")
        };
        assert_eq!(after(&|_| {}), []);
        assert_eq!(after(&|now| now.links[0].mtu = 1400), [Trigger::Underlay]);
        assert_eq!(after(&|now| now.addresses.clear()), [Trigger::Underlay]);
        assert_eq!(after(&|now| now.links[0].carrier = false), []);
        assert_eq!(after(&|now| now.links[1].up = false), [Trigger::TunnelLink]);
        assert_eq!(after(&|now| drop(now.links.pop())), [Trigger::PodLinks]);
        assert_eq!(before.own_addresses(), [address.net.addr()].into());
    }
}
