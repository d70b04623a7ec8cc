//! One monitor of the kernel for all controllers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::context::Context;
use crate::agent::control::Trigger;
use crate::agent::facts::KernelFacts;
use crate::kernel::monitor::{Change, Monitor};
use crate::kernel::netlink::{Error, Netlink};

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
pub(in crate::agent) async fn lost_address(context: &Context) -> IpAddr {
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
