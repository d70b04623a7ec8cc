//! A Node that claims another's key: the agents refuse it, and say so in Events. The admission policy keeps such Nodes
//! away, so it is taken off meanwhile.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::get;
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::process;

const IMPOSTOR: &str = "impostor";
const POLICY: &str = "validatingadmissionpolicybinding/selvedge-nodes";
const ANNOTATION: &str = "selvedge.dev/public-key";
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

fn impostor(cluster: &Kubernetes) -> Result<String, Failed> {
    let nodes = cluster.node_names();
    let victim = get(cluster, &["get", "node", nodes.first().map(String::as_str).unwrap_or_default()])?;
    let annotations = victim["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let copied =
        annotations.into_iter().filter(|(name, _)| name.starts_with("selvedge.dev/")).collect::<Value>();
    let key =
        copied[ANNOTATION].as_str().ok_or_else(|| Failed("the node publishes no key".into()))?.to_owned();
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": IMPOSTOR, "annotations": copied}});
    let file = cluster.folder().join("impostor.json");
    std::fs::write(&file, node.to_string()).map_err(|error| Failed(error.to_string()))?;
    let (file, mut last) = (file.display().to_string(), String::new());
    let create = || {
        cluster.kubectl(&["create", "--filename", &file]).map_err(|error| last = error.to_string()).is_ok()
    };
    process::wait_every(LOOK, "the policy to be off", PATIENCE, create)
        .map_err(|why| format!("{why}: {last}"))?;
    let mut reasons = Vec::new();
    process::wait_every(LOOK, "an Event of every agent", PATIENCE, || {
        reasons = events(cluster).unwrap_or_default();
        reasons.len() >= nodes.len()
    })?;
    // Said again, it is the same Event, counted.
    process::wait_every(LOOK, "an Event that is counted", PATIENCE, || {
        let claim =
            |value: &str| cluster.kubectl(&["annotate", "--overwrite", "node", IMPOSTOR, value]).is_ok();
        let _ = claim(&format!("{ANNOTATION}-")) && {
            std::thread::sleep(LOOK * 3);
            claim(&format!("{ANNOTATION}={key}"))
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
