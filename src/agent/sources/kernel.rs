//! One monitor of the kernel for all controllers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::context::Context;
use crate::agent::control::Trigger;
use crate::agent::facts::KernelFacts;
use crate::kernel::monitor::{Change, ChangeSet, Monitor};
use crate::kernel::netlink::{Error, Netlink};
use crate::kernel::socket;
use crate::{egress, guard, pod, service};

/// Pause before the next attempt to listen.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are read together: a pod makes a dozen.
const GATHER: Duration = Duration::from_millis(5);

/// Keeps the context's facts at what the kernel has, and posts a trigger for each kind of change, until dropped.
pub(in crate::agent) async fn follow(context: &Context) {
    loop {
        if let Err(error) = listen(context).await {
            tracing::warn!(%error, "lost track of the kernel's changes, listening again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(context: &Context) -> anyhow::Result<()> {
    let (mut monitor, netlink) = (Monitor::new()?, Netlink::new()?);
    // Whatever changed before is compared once.
    refresh(context, &netlink).await?;
    POSTED.iter().for_each(|(_, trigger)| context.bus.post(*trigger));
    loop {
        let changes = monitor.next().await?;
        if changes.contains(&Change::Link) || changes.contains(&Change::Address) {
            tokio::time::sleep(GATHER).await;
            refresh(context, &netlink).await?;
        }
        if changes.contains(&Change::KubeProxy) {
            context.proxy_changed.notify_one();
        }
        for (_, trigger) in POSTED.iter().filter(|(changed, _)| changed(&changes)) {
            context.bus.post(*trigger);
        }
    }
}

/// Whether a trigger is among some changes.
type Concerns = fn(&ChangeSet) -> bool;

/// What somebody else's change of the kernel means, for what is not compared right here.
const POSTED: [(Concerns, Trigger); 7] = [
    (|changes| changes.contains(&Change::Route), Trigger::Routes),
    (|changes| changes.contains(&Change::Rule), Trigger::Rules),
    (|changes| changes.has_table(guard::TABLE), Trigger::GuardTable),
    (|changes| changes.has_table(egress::TABLE), Trigger::EgressTable),
    (|changes| changes.has_table(service::table::TABLE), Trigger::ServiceTable),
    (|changes| changes.contains(&Change::Forwarding), Trigger::Forwarding),
    (|changes| pod::TABLES.iter().any(|table| changes.has_table(table)), Trigger::PodTables),
];

async fn refresh(context: &Context, netlink: &Netlink) -> Result<(), Error> {
    let now = Arc::new(KernelFacts::read(netlink).await?);
    let before = std::mem::replace(&mut *context.facts.lock(), Arc::clone(&now));
    for trigger in now.changes(&before, &context.config.interface) {
        context.bus.post(trigger);
    }
    context.facts_changed.notify_waiters();
    Ok(())
}

/// Waits until the node has lost an address that a connection of this process is from: such a connection is dead, and the
/// kernel does not report it. Other addresses come and go (those of containers, virtual addresses, the Service addresses
/// that kube-proxy keeps on `kube-ipvs0`) and concern nobody here.
pub(in crate::agent) async fn lost_address(context: &Context) -> IpAddr {
    let mut known = BTreeSet::new();
    loop {
        let changed = context.facts_changed.notified();
        let now = context.facts.get().own_addresses();
        if let Some(dead) = connected_from(&known, &now) {
            return dead;
        }
        known = now;
        changed.await;
    }
}

/// One of the addresses that are gone by `now`, if a connection is from it. When that cannot be found out, any of them.
fn connected_from(before: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let mut lost = before.difference(now).copied().peekable();
    lost.peek()?;
    match socket::local_addresses() {
        Ok(used) => lost.find(|address| used.contains(address)),
        Err(error) => {
            tracing::warn!(%error, "cannot list the agent's connections");
            lost.next()
        }
    }
}
