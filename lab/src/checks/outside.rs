//! A control plane that is no node speaks to pods in plaintext, because `trustedSources` names it: nobody else may.

use std::net::SocketAddr;

use super::pair::PAUSES;
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::traffic::{Server, ask};

const POD: &str = "webhook";
const PORT: u16 = 9443;

/// Runs this check where the control plane is outside, and tells `report` of it.
pub fn outside(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    if cluster.world().plan().outside {
        check("the control plane outside reaches pods", report, || reached(cluster));
    }
}

fn reached(cluster: &Kubernetes) -> Result<String, Failed> {
    let canary = cluster.world().canary();
    let nodes = cluster.node_names();
    let (net, addresses) = cluster.create_pod(POD, nodes.last().map_or("", String::as_str), &PAUSES)?;
    let _server = Server::start(&net, POD, &[PORT], canary)?;
    let from = cluster.control_space().net();
    for address in &addresses {
        let told = ask(from, SocketAddr::new(*address, PORT), canary)?.told;
        if !cluster.world().plan().trusted_sources().contains(&told.source.ip()) {
            return Err(Failed(format!("the pod saw {}", told.source)));
        }
    }
    // As the API server dials webhooks.
    let path = format!("/api/v1/namespaces/default/pods/{POD}:{PORT}/proxy/");
    cluster.kubectl(&["get", "--raw", &path])?;
    cluster.delete_pod(POD)?;
    Ok(format!("at {} addresses, and the API server by its proxy", addresses.len()))
}
