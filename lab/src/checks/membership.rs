//! A Node object is deleted and its kubelet registers it again, with another UID and mostly other pod CIDRs, while two
//! other nodes' pods speak with each other.

use std::time::{Duration, Instant};

use super::pair::{PAUSES, Pair};
use super::{Failed, Report, Short, check};
use crate::kubernetes::Kubernetes;
use crate::traffic::Ping;

/// How long the node stays away once its object is deleted: long enough for all agents to have seen it.
const AWAY: Duration = Duration::from_secs(2);
const POD: &str = "membership-3";
const EVERY: Duration = Duration::from_millis(20);
/// How long its pod may stay out of reach. That Kubernetes needs its time for Node and pod is not looked at here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the check where there are three nodes, and tells `report` as it begins and ends.
pub fn membership(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    if let [_, _, .., last] = &cluster.node_names()[..] {
        check("Node deleted and added, ping, bulk TCP", report, || readded(cluster, last));
    }
}

fn readded(cluster: &Kubernetes, node: &str) -> Result<String, Failed> {
    let pair = Pair::start(cluster, "membership")?;
    let mut took = Duration::ZERO;
    let traffic = pair.under_load(|| {
        cluster.kubectl(&["delete", "node", node])?;
        std::thread::sleep(AWAY);
        let begun = Instant::now();
        cluster.register_again(node)?;
        let (_, addresses) = cluster.create_pod(POD, node, &PAUSES)?;
        let to = addresses.first().copied().ok_or_else(|| Failed("the pod has no address".into()))?;
        let ping = Ping::start(pair.from(), to, EVERY, cluster.world().canary())?;
        let started = Instant::now();
        while ping.received() == 0 {
            if started.elapsed() > PATIENCE {
                let before = Short(started.duration_since(begun));
                return Err(Failed(format!(
                    "a pod of the new {node} runs after {before} and is not reached within {PATIENCE:?}"
                )));
            }
            std::thread::sleep(EVERY);
        }
        took = begun.elapsed();
        Ok(cluster.delete_pod(POD)?)
    })?;
    pair.end()?;
    Ok(format!("{} between others; its pods are reached after {}", traffic.nothing_lost()?, Short(took)))
}
