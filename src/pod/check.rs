//! CHECK: what is no longer as ADD made it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::attachment::Attachment;
use super::error::{Code, Error};
use super::gateway::{self, BRIDGE};
use super::hostport;
use super::lease::{Lease, Leases};
use super::node::NodeInfo;
use super::request::Previous;
use super::wiring::{Seen, Wiring};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::NetNs;
use crate::paths::Paths;

/// Fails if something is different, and names everything that is.
pub(super) async fn run(
    paths: &Paths,
    attachment: &Attachment,
    netns: &Path,
    previous: &Previous,
) -> Result<(), Error> {
    let node = NodeInfo::load(paths)?;
    let pod = NetNs::open(netns)?;
    let Some(lease) = Leases::new(paths.leases()).find(attachment)? else {
        return Err(changed(&["its lease is gone".to_owned()]));
    };
    let netlink = Netlink::new()?;
    let mut problems: Vec<String> = previous_problem(previous, &lease).into_iter().collect();
    problems.extend(gateway::guard_problem(&node));
    problems.extend(gateway::problems(&netlink, &node).await?);
    if let Some(bridge) = netlink.link_named(BRIDGE).await? {
        let wiring = Wiring { lease: &lease, node: &node, bridge: bridge.index };
        problems.extend(wiring.problems(&Seen::read(&netlink).await?, &pod).await?);
    }
    problems.extend(hostport::problem(&lease, &node)?);
    if problems.is_empty() { Ok(()) } else { Err(changed(&problems)) }
}

fn changed(problems: &[String]) -> Error {
    Error::new(Code::NotAsAdded, "the interface is not as it was added", problems.join("; "))
}

fn previous_problem(previous: &Previous, lease: &Lease) -> Option<String> {
    let leased: BTreeSet<IpAddr> = lease.addresses.iter().collect();
    (previous.addresses != leased)
        .then(|| format!("its lease is for {} and not for what ADD answered", lease.addresses))
}
