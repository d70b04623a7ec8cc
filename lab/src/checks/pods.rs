//! What pods are: one network for all containers, a network of its own for each pod, addresses that come and go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Failed, Stage};
use crate::plan::Family;
use crate::traffic;

/// One container of a pod talks to another over loopback.
pub(super) fn localhost(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let pod = &stage.near[0];
    let loopback: IpAddr = match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    for (container, port) in [("main", 8080), ("side", 8081)] {
        let told = traffic::ask(&pod.ns, SocketAddr::new(loopback, port), stage.canary())?.told;
        if told.name != format!("{}/{container}", pod.name) || told.source.ip() != loopback {
            return Err(Failed(format!("{} answered on port {port} and saw {}", told.name, told.source)));
        }
    }
    Ok("main and side reach each other on loopback".into())
}

/// Two pods of one node listen on the same port, and each gets its own connections.
pub(super) fn same_port(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    for pod in &stage.near {
        let told = traffic::ask(&stage.far.ns, pod.server(family)?, stage.canary())?.told;
        if told.name != format!("{}/main", pod.name) {
            return Err(Failed(format!("{} answered for {}", told.name, pod.name)));
        }
    }
    Ok(format!("both on port {}", stage.near[0].port))
}

/// A pod that is deleted and created again has other addresses, and is reached at them.
pub(super) fn recreated(stage: &Stage<'_>) -> Result<String, Failed> {
    let (cluster, node) = (stage.cluster, &stage.nodes[1].name);
    let create = || cluster.create_pod("again", node, &[("main", 8080)]);
    let before = create()?;
    cluster.delete_pod("again")?;
    let after = create()?;
    if let Some(same) = before.addresses.iter().find(|address| after.addresses.contains(address)) {
        return Err(Failed(format!("the new pod has the old one's address {same}")));
    }
    for family in cluster.families().each() {
        traffic::ask(&stage.near[0].ns, after.server(*family)?, stage.canary())?;
    }
    cluster.delete_pod("again")?;
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    Ok(format!("{}, then {}", first(&before.addresses), first(&after.addresses)))
}
