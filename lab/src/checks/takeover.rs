//! kube-proxy of a node is stopped and started again under load: Selvedge takes over in between.

use std::time::Duration;

use selvedge::kernel::nft::{self, Family};

use super::load::Load;
use super::rolling::{deploy, remove};
use super::workloads::get;
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::process::wait_for;

/// A takeover takes 15 to 30 s in either direction.
const SOON: Duration = Duration::from_secs(90);
/// Of Deployment and Service.
const NAME: &str = "takeover";
/// How long the load continues after each takeover.
const AFTER: Duration = Duration::from_secs(3);

/// Runs the check on the last node, and reports its result. Skipped without kube-proxy.
pub fn takeover(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    if !cluster.has_kube_proxy() {
        return;
    }
    check("takeover from kube-proxy, and back", report, || {
        deploy(cluster, NAME)?;
        let kept = takeovers(cluster);
        remove(cluster, NAME)?;
        kept
    });
}

fn takeovers(cluster: &Kubernetes) -> Result<String, Failed> {
    let node = cluster.node_names().pop().ok_or_else(|| Failed("no node".into()))?;
    let proxy = cluster.kube_proxy(&node).ok_or_else(|| Failed(format!("no kube-proxy on {node}")))?;
    serves(cluster, &node, false)?;
    let service = get(cluster, &["get", "service", NAME])?;
    Load::new(cluster, &service, &node)?.during(true, || {
        std::thread::sleep(AFTER);
        proxy.stop();
        let taken = serves(cluster, &node, true);
        std::thread::sleep(AFTER);
        proxy.resume();
        taken?;
        serves(cluster, &node, false)?;
        std::thread::sleep(AFTER);
        Ok(())
    })
}

/// Waits until Selvedge serves the node's Services, or does not.
fn serves(cluster: &Kubernetes, node: &str, wanted: bool) -> Result<(), Failed> {
    let space = cluster.node_space(node).ok_or_else(|| Failed(format!("no node {node}")))?;
    let has_table = || {
        let tables = space.net().run(|| nft::tables(Family::Inet));
        matches!(tables, Ok(Ok(tables)) if tables.contains("selvedge-services"))
    };
    let what = if wanted { "Selvedge to serve Services" } else { "kube-proxy to serve Services" };
    wait_for(what, SOON, || has_table() == wanted).map_err(Failed)
}
