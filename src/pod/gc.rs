//! GC: what belongs to no interface that the runtime knows goes.

use std::collections::BTreeSet;

use super::attachment::{self, Attachment};
use super::error::{Code, Error};
use super::lease::{Lease, Leases};
use super::node::NodeInfo;
use super::release::release;
use super::{hostport, spoof};
use crate::kernel::LINK_GROUP;
use crate::kernel::link::{self, Id};
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;

/// Frees the leases of `network` that are not in `valid`, and removes ports, chains and host ports without lease.
/// Goes on after an error, and then fails with all of them.
pub(super) async fn run(paths: &Paths, network: &str, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
    let leases = Leases::new(paths.leases());
    let netlink = Netlink::new()?;
    let node = NodeInfo::load(paths).ok();
    let mut errors = vec![];
    let (all, unreadable) = leases.list()?;
    errors.extend(unreadable.iter().map(ToString::to_string));
    let goes = |lease: &&Lease| lease.network == network && !valid.contains(&lease.attachment);
    for lease in all.iter().filter(goes) {
        errors.extend(release(&netlink, &leases, node.as_ref(), &lease.attachment).await);
    }
    // What has neither lease nor runtime: a process was killed between two steps.
    let (kept, _) = leases.list()?;
    let known = kept.iter().map(|lease| &lease.attachment).chain(valid);
    let ports: BTreeSet<String> = known.map(|attachment| attachment.port().name).collect();
    let host_ports = leases
        .lock()
        .map_err(hostport::Error::from)
        .and_then(|locked| hostport::sync(&locked, node.as_ref(), &[]));
    errors.extend(host_ports.err().map(|error| error.to_string()));
    // With leases that can't be read it is not known which ports are somebody's.
    if unreadable.is_empty() {
        errors.extend(sweep(&netlink, &ports).await);
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::Kernel, "not everything could be freed", errors.join("; ")))
}

/// Removes the ports, and the chains of ports, that are not in `ports`.
async fn sweep(netlink: &Netlink, ports: &BTreeSet<String>) -> Vec<String> {
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
    errors
}
