//! Puts back what others took away of the node's side of its pods.

use super::gateway::{self, BRIDGE};
use super::hostport;
use super::lease::{Lease, Leases};
use super::node::NodeInfo;
use super::spoof;
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
/// neighbours, host ports) and puts right what differs. What belongs to pod CIDRs that the node had before goes. A port
/// that is gone stays gone, as its pod's end does. Tells what was wrong. It can be run at any time, also while pods are
/// added and deleted.
///
/// # Errors
/// The first port that could not be put right; all are tried.
pub async fn repair(netlink: &Netlink, paths: &Paths, node: &NodeInfo) -> Result<Vec<String>, Error> {
    let folder = Leases::new(paths.leases());
    let mut host_ports = hostport::repair(netlink, &folder, node).await;
    // Leases that can't be read are GC's matter.
    let (leases, _) = folder.list()?;
    let bridge = netlink.link_named(BRIDGE).await.map_err(gateway::Error::from)?;
    if leases.is_empty() && bridge.is_none() {
        return Ok(host_ports?);
    }
    let mut problems = gateway::problems(netlink, node).await.map_err(gateway::Error::from)?;
    problems.extend(host_ports.as_mut().map(std::mem::take).unwrap_or_default());
    let bridge = match bridge {
        Some(bridge) if problems.is_empty() => bridge.index,
        _ => gateway::ensure(netlink, node).await?,
    };
    let seen = Seen::read(netlink).await.map_err(Error::Read)?;
    let mut result = restore_behind(&leases, node, &seen);
    for lease in &leases {
        let wiring = Wiring { lease, node, bridge };
        let Some(port) = seen.port(&lease.attachment.port().name) else { continue };
        let wrong = wiring.node_problems(&seen);
        if wrong.is_empty() {
            continue;
        }
        problems.extend(wrong);
        if let Err(source) = wiring.restore(netlink, port.index, &seen).await
            && !is_gone(netlink, &folder, lease).await?
        {
            result = result.and(Err(Error::Port { pod: lease.attachment.to_string(), source }));
        }
    }
    host_ports?;
    result.map(|()| problems)
}

/// Puts the rules of all ports behind the ingress hook back at once, so that no pod waits for another's.
fn restore_behind(leases: &[Lease], node: &NodeInfo, seen: &Seen) -> Result<(), Error> {
    let ports = leases.iter().filter(|lease| seen.port(&lease.attachment.port().name).is_some());
    let ports: Vec<spoof::Port> = ports.map(|lease| spoof::Port::new(lease, node)).collect();
    if ports.iter().all(|port| seen.chains.behind_problem(port).is_none()) {
        return Ok(());
    }
    spoof::restore_behind(&ports).map_err(|error| Error::Read(error.into()))
}

/// Whether DEL has taken the port of `lease` away since it was seen. Then the rules against spoofing, which may have been
/// put back behind DEL's back, go too.
///
/// The lock keeps ADD from giving the same interface another lease meanwhile, and rules that have to stay.
async fn is_gone(netlink: &Netlink, leases: &Leases, lease: &Lease) -> Result<bool, Error> {
    let folder = leases.clone();
    let locked = tokio::task::spawn_blocking(move || folder.lock()).await.map_err(hostport::Error::from)?;
    let locked = locked?;
    if leases.find(&lease.attachment)?.is_some_and(|found| found != *lease) {
        return Ok(true);
    }
    let port = lease.attachment.port().name;
    if netlink.link_named(&port).await.map_err(gateway::Error::from)?.is_some() {
        return Ok(false);
    }
    spoof::unprotect(&port).map_err(|error| Error::Read(error.into()))?;
    drop(locked);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::attachment::{Attachment, PodName};
    use crate::pod::lease::Holder;
    use crate::pod::node::Datapath;
    use crate::pod::pool::Pool;

    fn lease(leases: &Leases) -> Lease {
        let holder = Holder {
            network: "pods".into(),
            attachment: Attachment::new("a", "eth0").unwrap(),
            netns: "/run/netns/a".into(),
            netns_id: None,
            pod: PodName::default(),
            mtu: 1420,
            datapath: Datapath::Bridge,
            host_ports: vec![],
        };
        leases.lock().unwrap().take(&Pool::new(&["10.1.0.0/24".parse().unwrap()]), holder).unwrap()
    }

    #[test]
    fn rules_put_back_behind_the_back_of_del_go_again() {
        selvedge_lab::isolated!(|| {
            let leases = Leases::new("/run/leases".into());
            let lease = lease(&leases);
            let port = lease.attachment.port();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let is_gone = || {
                spoof::protect(&spoof::Port {
                    name: port.name.clone(),
                    mac: port.pod_mac,
                    addresses: lease.addresses.clone(),
                    datapath: lease.datapath,
                })
                .unwrap();
                let gone =
                    runtime.block_on(async { is_gone(&Netlink::new().unwrap(), &leases, &lease).await });
                (gone.unwrap(), spoof::protected().unwrap().len())
            };
            assert_eq!(is_gone(), (true, 0), "no port, and its lease is still there");
            leases.lock().unwrap().give_back(&lease.attachment).unwrap();
            assert_eq!(is_gone(), (true, 0), "neither port nor lease");
            let other = self::lease(&leases);
            assert_ne!(other.addresses, lease.addresses);
            assert_eq!(is_gone(), (true, 1), "the same interface was added again: its rules are its own");
        });
    }
}
