//! GC: what belongs to no interface that the runtime knows goes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::attachment::{self, Attachment};
use super::error::{Code, Error};
use super::gateway::BRIDGE;
use super::lease::{Lease, Leases};
use super::{plugin, spoof, wiring};
use crate::kernel::LINK_GROUP;
use crate::kernel::link::{self, Id};
use crate::kernel::netlink::{self, Netlink};
use crate::paths::Paths;

/// Frees the leases of `network` that are not in `valid`, and removes ports, chains and routes without lease.
/// Goes on after an error, and then fails with all of them.
pub(super) async fn run(paths: &Paths, network: &str, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
    let leases = Leases::new(paths.leases());
    let netlink = plugin::netlink()?;
    let mut errors = vec![];
    let (all, unreadable) = leases.list()?;
    errors.extend(unreadable.iter().map(ToString::to_string));
    let goes = |lease: &&Lease| lease.network == network && !valid.contains(&lease.attachment);
    for lease in all.iter().filter(goes) {
        errors.extend(free(&netlink, &leases, lease).await);
    }
    // What has neither lease nor runtime: a process was killed between two steps.
    let (kept, _) = leases.list()?;
    let known = kept.iter().map(|lease| &lease.attachment).chain(valid);
    let ports: BTreeSet<String> = known.map(|attachment| attachment.port().name).collect();
    // With leases that can't be read it is not known which ports are somebody's.
    if unreadable.is_empty() {
        let addresses = kept.iter().flat_map(|lease| lease.addresses.iter()).collect();
        errors.extend(sweep(&netlink, &ports, &addresses).await);
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::Kernel, "not everything could be freed", errors.join("; ")))
}

async fn free(netlink: &Netlink, leases: &Leases, lease: &Lease) -> Vec<String> {
    let errors = wiring::remove(netlink, &lease.attachment, Some(lease)).await;
    if !errors.is_empty() {
        return errors.iter().map(ToString::to_string).collect();
    }
    let given_back = leases.lock().and_then(|locked| locked.give_back(&lease.attachment));
    given_back.err().iter().map(ToString::to_string).collect()
}

/// Removes the ports that are not in `ports`, and what leads to other addresses than `addresses`.
async fn sweep(netlink: &Netlink, ports: &BTreeSet<String>, addresses: &BTreeSet<IpAddr>) -> Vec<String> {
    let mut errors = vec![];
    match netlink.links().await {
        Err(error) => errors.push(error.to_string()),
        Ok(links) => {
            let stray = links.iter().filter(|link| {
                link.group == LINK_GROUP && attachment::is_port(&link.name) && !ports.contains(&link.name)
            });
            let deletions = stray.map(|link| link::delete(Id::Index(link.index)));
            errors.extend(netlink.apply(deletions).await.err().map(|error| error.to_string()));
        }
    }
    match spoof::protected() {
        Err(error) => errors.push(error.to_string()),
        Ok(protected) => {
            let stray = protected.iter().filter(|port| !ports.contains(*port));
            errors
                .extend(stray.filter_map(|port| spoof::unprotect(port).err()).map(|error| error.to_string()));
        }
    }
    errors.extend(sweep_routes(netlink, addresses).await.err().map(|error| error.to_string()));
    errors
}

async fn sweep_routes(netlink: &Netlink, addresses: &BTreeSet<IpAddr>) -> Result<(), netlink::Error> {
    let Some(bridge) = netlink.link_named(BRIDGE).await? else { return Ok(()) };
    let routes = netlink.routes().await?;
    let stray = routes.iter().filter(|route| {
        let single = route.destination.prefix_len() == route.destination.max_prefix_len();
        route.device() == Some(bridge.index) && single && !addresses.contains(&route.destination.addr())
    });
    let mut changes: Vec<_> = stray.map(|route| route.delete()).collect();
    let neighbours = netlink.neighbours(bridge.index).await?;
    let stray = neighbours.iter().filter(|neighbour| !addresses.contains(&neighbour.address));
    changes.extend(stray.map(|neighbour| neighbour.delete()));
    netlink.apply(changes).await
}
