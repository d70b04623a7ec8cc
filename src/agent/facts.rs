//! What the kernel has, as far as controllers go by it: one monitor for all of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::control::Trigger;
use crate::kernel::LINK_GROUP;
use crate::kernel::address::Address;
use crate::kernel::link::Link;
use crate::kernel::monitor::{Change, Monitor};
use crate::kernel::netlink::{Error, Netlink};

/// Pause before the next attempt to listen.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are read together: a pod makes a dozen.
const GATHER: Duration = Duration::from_millis(5);

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

    /// Which triggers the change from `before` is, in a node whose TUN device is `tunnel`.
    fn changes(&self, before: &Self, tunnel: &str) -> Vec<Trigger> {
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

/// Keeps the context's facts at what the kernel has, and posts a trigger for each kind of change, until dropped.
pub(super) async fn follow(context: &Context) {
    loop {
        if let Err(error) = listen(context).await {
            tracing::warn!(%error, "lost track of the kernel's changes, listening again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(context: &Context) -> anyhow::Result<()> {
    let (mut monitor, netlink) = (Monitor::new()?, Netlink::new()?);
    // What changed before is read once.
    let mut changes: BTreeSet<Change> = Change::ALL.into();
    loop {
        if changes.contains(&Change::Link) || changes.contains(&Change::Address) {
            refresh(context, &netlink).await?;
        }
        for trigger in changes.iter().flat_map(triggers) {
            context.bus.post(*trigger);
        }
        changes = monitor.next().await?;
        if changes.iter().all(|change| matches!(change, Change::Link | Change::Address)) {
            tokio::time::sleep(GATHER).await;
        }
    }
}

async fn refresh(context: &Context, netlink: &Netlink) -> Result<(), Error> {
    let now = Arc::new(KernelFacts::read(netlink).await?);
    let before = std::mem::replace(&mut *context.facts.lock(), Arc::clone(&now));
    for trigger in now.changes(&before, &context.config.interface) {
        context.bus.post(trigger);
    }
    context.facts_changed.notify_waiters();
    Ok(())
}

/// What somebody's change of the kernel means. Devices and addresses are compared instead.
fn triggers(change: &Change) -> &'static [Trigger] {
    match change {
        Change::Link | Change::Address => &[],
        Change::Route => &[Trigger::Routes],
        Change::Rule => &[Trigger::Rules],
        Change::Nftables => &[Trigger::GuardTable, Trigger::EgressTable, Trigger::PodTables],
    }
}

/// Waits until the node has lost an address that it had when this was called, or got since: connections from it are dead,
/// and nobody tells.
pub(super) async fn lost_address(context: &Context) -> IpAddr {
    let mut known = BTreeSet::new();
    loop {
        let changed = context.facts_changed.notified();
        let now = context.facts.get().own_addresses();
        if let Some(lost) = known.difference(&now).next() {
            return *lost;
        }
        known = now;
        changed.await;
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
