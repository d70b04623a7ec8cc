//! An agent that starts among more Nodes than it asks for one by one.

use std::time::Duration;

use serde_json::{Value, json};

use super::audit::asked;
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
        cluster.kubectl(&["delete", "--ignore-not-found", "--filename", &file])?;
        told
    });
}

/// The first node's agent, anew: it lists once what it has to know of all.
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
    let asked = asked(cluster)?;
    let of = |verb: &str| {
        let by_it = asked.iter().filter(|asked| asked.pod == agent && asked.resource == "nodes");
        by_it.filter(|asked| asked.verb == verb && asked.code == 200).count()
    };
    let told = format!("{} lists, {} watches, {} reads of one Node", of("list"), of("watch"), of("get"));
    // Some change, and are looked at again, before the agent has seen them all.
    if of("list") == 0 || of("get") >= MANY { Err(Failed(told)) } else { Ok(told) }
}
