//! An agent that starts among more Nodes than it asks for one by one.

use std::time::Duration;

use serde_json::{Value, json};

use super::audit::{Asked, asked};
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::process;

/// Nodes beside the cluster's own.
const MANY: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(300);

/// Runs this check and tells `report` of it.
pub fn many(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("an agent starts among many Nodes", report, || {
        let names: Vec<String> = (1..=MANY).map(|number| format!("many-{number}")).collect();
        let node = |name: &String| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let nodes: Vec<Value> = names.iter().map(node).collect();
        let file = cluster.folder().join("many.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": nodes}).to_string();
        std::fs::write(&file, list).map_err(|error| Failed(error.to_string()))?;
        let file = file.display().to_string();
        let created = cluster.kubectl(&["create", "--filename", &file]);
        let told = created.map_err(Failed::from).and_then(|_| restarted(cluster));
        let gone = cluster.kubectl(&["delete", "--ignore-not-found", "--filename", &file]);
        told.and_then(|told| gone.map(|_| told).map_err(Failed::from))
    });
}

/// The first node's agent, anew.
fn restarted(cluster: &Kubernetes) -> Result<String, Failed> {
    let node = &cluster.node_names()[0];
    let namespace = "--namespace=selvedge-system";
    let before = cluster.agent_on(node)?;
    cluster.kubectl(&["delete", "pod", namespace, &before])?;
    let mut agent = String::new();
    process::wait_every(LOOK, "the next agent", PATIENCE, || {
        agent = cluster.agent_on(node).unwrap_or_default();
        !agent.is_empty() && agent != before
    })?;
    cluster.kubectl(&[
        "wait",
        namespace,
        "--for=condition=Ready",
        "--timeout=60s",
        &format!("pod/{agent}"),
    ])?;
    let asked: Vec<Asked> =
        asked(cluster)?.into_iter().filter(|asked| asked.pod == agent && asked.code == 200).collect();
    let nodes = || asked.iter().filter(|asked| asked.resource == "nodes");
    let reads = nodes().take_while(|asked| asked.verb != "list").filter(|asked| asked.verb == "get").count();
    let (lists, streamed) = (
        nodes().filter(|asked| asked.verb == "list").count(),
        nodes().filter(|asked| asked.verb == "watch" && asked.lists).count(),
    );
    let told = format!(
        "{reads} reads of one Node before a list, {lists} lists, {streamed} watches with their lists"
    );
    // Those Nodes that it does not know it reads at once; the watches need no list.
    if lists == 0 || reads >= MANY || streamed < 2 { Err(Failed(told)) } else { Ok(told) }
}
