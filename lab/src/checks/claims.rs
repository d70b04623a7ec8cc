//! A Node that claims another's key: the agents refuse it, and say so in Events. The admission policy keeps such Nodes
//! away, so it is taken off meanwhile.

use std::time::Duration;

use selvedge::mesh::annotation::{self, PUBLIC_KEY};
use serde_json::{Value, json};

use super::workloads::get;
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::process;

const IMPOSTOR: &str = "impostor";
const POLICY: &str = "validatingadmissionpolicybinding/selvedge-nodes";
/// Where it says it is: where nobody is (RFC 5737).
const ADDRESS: &str = "192.0.2.66";
/// How long the API server may go on with a policy that is gone, and an agent may take to say something.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(300);

/// Runs this check and tells `report` of it.
pub fn claims(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("a Node with another's key is refused", report, || {
        cluster.kubectl(&["delete", POLICY])?;
        let told = impostor(cluster);
        let policy = cluster.deploy_folder().join("base/admission.yaml");
        let file = policy.display().to_string();
        let restored = cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &file]);
        cluster.kubectl(&["delete", "--ignore-not-found", "node", IMPOSTOR])?;
        restored?;
        told
    });
}

/// A Node that is sound in all but its key, which is that of the first node.
fn impostor(cluster: &Kubernetes) -> Result<String, Failed> {
    let nodes = cluster.node_names();
    let victim = get(cluster, &["get", "node", nodes.first().map(String::as_str).unwrap_or_default()])?;
    let claim = |name: &str| victim["metadata"]["annotations"][name].as_str().map(str::to_owned);
    let key = claim(PUBLIC_KEY).ok_or_else(|| Failed("the node publishes no key".into()))?;
    let epoch = claim(annotation::KEY_EPOCH).unwrap_or_default();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": IMPOSTOR}});
    let file = cluster.folder().join("impostor.json");
    std::fs::write(&file, node.to_string()).map_err(|error| Failed(error.to_string()))?;
    cluster.kubectl(&["create", "--filename", &file.display().to_string()])?;
    let addresses =
        json!({"status": {"addresses": [{"type": "InternalIP", "address": ADDRESS}]}}).to_string();
    cluster.kubectl(&["patch", "node", IMPOSTOR, "--subresource=status", "--patch", &addresses])?;
    let mut cidrs = String::new();
    process::wait_every(LOOK, "pod CIDRs of the new Node", PATIENCE, || {
        let node = get(cluster, &["get", "node", IMPOSTOR]).unwrap_or_default();
        let all = node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        cidrs = all.collect::<Vec<_>>().join(",");
        !cidrs.is_empty()
    })?;
    let claims = json!({"metadata": {"annotations": {
        PUBLIC_KEY: key,
        annotation::KEY_EPOCH: epoch,
        annotation::ENDPOINTS: format!("{ADDRESS}:51830"),
        annotation::NODE_ADDRESSES: ADDRESS,
        annotation::POD_CIDRS: cidrs,
    }}})
    .to_string();
    let mut last = String::new();
    let put = || {
        let patched = cluster.kubectl(&["patch", "node", IMPOSTOR, "--patch", &claims]);
        patched.map_err(|error| last = error.to_string()).is_ok()
    };
    process::wait_every(LOOK, "the policy to be off", PATIENCE, put)
        .map_err(|why| format!("{why}: {last}"))?;
    let mut reasons = Vec::new();
    process::wait_every(LOOK, "an Event of every agent", PATIENCE, || {
        reasons = events(cluster).unwrap_or_default();
        let said = |wanted: &str| reasons.iter().filter(|(reason, _)| reason == wanted).count();
        (said("OwnKey"), said("KeyTaken")) == (1, nodes.len() - 1)
    })
    .map_err(|why| format!("{why}: {reasons:?}"))?;
    // Said again, it is the same Event, counted.
    process::wait_every(LOOK, "an Event that is counted", PATIENCE, || {
        let claim =
            |value: &str| cluster.kubectl(&["annotate", "--overwrite", "node", IMPOSTOR, value]).is_ok();
        let _ = claim(&format!("{PUBLIC_KEY}-")) && {
            std::thread::sleep(LOOK * 3);
            claim(&format!("{PUBLIC_KEY}={key}"))
        };
        std::thread::sleep(LOOK * 3);
        events(cluster).is_ok_and(|events| events.iter().any(|(_, count)| *count > 1))
    })?;
    let words: Vec<&str> = reasons.iter().map(|(reason, _)| reason.as_str()).collect();
    Ok(format!("Events of {} agents: {}", nodes.len(), words.join(", ")))
}

/// Reason and count of each Event of an agent's about the impostor.
fn events(cluster: &Kubernetes) -> Result<Vec<(String, u64)>, Failed> {
    let list = get(cluster, &["get", "events.events.k8s.io", "--namespace=default"])?;
    let events = list["items"].as_array().into_iter().flatten();
    let about = events.filter(|event| {
        event["regarding"]["name"] == IMPOSTOR && event["reportingController"] == "selvedge.dev/agent"
    });
    let read = |event: &Value| {
        let reason = event["reason"].as_str().unwrap_or_default().to_owned();
        (reason, event["series"]["count"].as_u64().unwrap_or(1))
    };
    Ok(about.map(read).collect())
}
