//! Puts back what others took away of the node's side of its pods.

use super::gateway::{self, BRIDGE};
use super::hostport;
use super::lease::Leases;
use super::node::NodeInfo;
use super::wiring::{self, Seen, Wiring};
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;

/// What could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The leases can't be read.
    #[error(transparent)]
    Lease(#[from] super::lease::Error),
    /// Bridge and sysctls.
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    /// The port of a pod.
    #[error("{pod}: {source}")]
    Port {
        /// Whose.
        pod: String,
        /// Why.
        source: wiring::Error,
    },
    /// Ports of the node that lead to pods.
    #[error(transparent)]
    HostPort(#[from] hostport::Error),
    /// What is there can't be read.
    #[error(transparent)]
    Read(wiring::Error),
}

/// Compares the node's side of all pods with what ADD made (bridge, ports, their rules against spoofing, routes,
/// neighbours, host ports) and puts right what differs. A port that is gone stays gone, as its pod's end does. Tells what was
/// wrong. It can be run at any time, also while pods are added and deleted.
///
/// # Errors
/// The first port that could not be put right; all are tried.
pub async fn repair(netlink: &Netlink, paths: &Paths, node: &NodeInfo) -> Result<Vec<String>, Error> {
    let folder = Leases::new(paths.leases());
    let mut host_ports = hostport::repair(netlink, &folder).await;
    // Leases that can't be read are GC's matter.
    let (leases, _) = folder.list()?;
    if leases.is_empty() {
        return Ok(host_ports?);
    }
    let mut problems = gateway::problems(netlink, node).await.map_err(gateway::Error::from)?;
    problems.extend(host_ports.as_mut().map(std::mem::take).unwrap_or_default());
    let bridge = match netlink.link_named(BRIDGE).await.map_err(gateway::Error::from)? {
        Some(bridge) if problems.is_empty() => bridge.index,
        _ => gateway::ensure(netlink, node).await?,
    };
    let seen = Seen::read(netlink).await.map_err(Error::Read)?;
    let mut result = Ok(());
    for lease in &leases {
        let wiring = Wiring { lease, node, bridge };
        let Some(port) = seen.port(&lease.attachment.port().name) else { continue };
        let wrong = wiring.node_problems(&seen);
        if wrong.is_empty() {
            continue;
        }
        problems.extend(wrong);
        if let Err(source) = wiring.restore(netlink, port.index).await {
            result = result.and(Err(Error::Port { pod: lease.attachment.to_string(), source }));
        }
    }
    host_ports?;
    result.map(|()| problems)
}
