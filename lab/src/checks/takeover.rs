//! kube-proxy of a node ends, and is started again, while clients ask a Service all the time: Selvedge serves in between.

use std::time::Duration;

use selvedge::kernel::nft::{self, Family};

use super::load::Load;
use super::rolling::{deploy, remove};
use super::workloads::get;
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::process::wait_for;

/// Of what ends and starts here, what takes longest is that kube-proxy is waited for.
const SOON: Duration = Duration::from_secs(90);
/// Of Deployment and Service.
const NAME: &str = "takeover";
/// How long clients go on after each turn.
const AFTER: Duration = Duration::from_secs(3);

/// Runs the check on the last node, and reports its result. Nothing to do where there is no kube-proxy.
pub fn takeover(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    if !cluster.has_kube_proxy() {
        return;
    }
    check("kube-proxy gives Services up and gets them back", report, || {
        deploy(cluster, NAME)?;
        let turned = turns(cluster);
        remove(cluster, NAME)?;
        turned
    });
}

fn turns(cluster: &Kubernetes) -> Result<String, Failed> {
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
