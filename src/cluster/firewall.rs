//! Nodes whose firewall drops packets between pods, as their agents have reported it in Events.

use k8s_openapi::api::core::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams};

use super::Error;
use crate::forwarding::REASON;

/// Where Events about Nodes are.
const NAMESPACE: &str = "default";

/// A sentence for each Node, of the last hour.
///
/// # Errors
/// When the API server does not tell.
pub async fn reported(client: &Client) -> Result<Vec<String>, Error> {
    let events = Api::<Event>::namespaced(client.clone(), NAMESPACE);
    let list = events.list(&ListParams::default().fields(&format!("reason={REASON}"))).await;
    Ok(sentences(&list.map_err(|error| Error::call("list the Events about Nodes", error))?.items))
}

fn sentences(events: &[Event]) -> Vec<String> {
    let ours = events.iter().filter(|event| event.reason.as_deref() == Some(REASON));
    let mut sentences: Vec<String> = ours
        .filter_map(|event| {
            let node = event.involved_object.name.as_deref()?;
            Some(format!("Node {node}: {}", event.message.as_deref()?))
        })
        .collect();
    sentences.sort_unstable();
    sentences.dedup();
    sentences
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_node_is_named_once() {
        let event = |node: &str, reason: &str| {
            let object = json!({"kind": "Node", "name": node});
            serde_json::from_value::<Event>(json!({
                "metadata": {}, "involvedObject": object, "reason": reason, "message": "dropped"
            }))
            .unwrap()
        };
        let events = [event("b", REASON), event("a", REASON), event("b", REASON), event("c", "KeyTaken")];
        assert_eq!(sentences(&events), ["Node a: dropped", "Node b: dropped"]);
    }
}
