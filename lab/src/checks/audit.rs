//! What agents asked the API server for, as its audit log tells. Doctors in their containers ask as they do, but say who they
//! are.

use serde_json::Value;

use super::Failed;
use crate::kubernetes::Kubernetes;

/// Names of the pods of Selvedge begin with these. Others, of checks, have tokens of the same accounts.
const PODS: [&str; 2] = ["selvedge-agent-", "selvedge-tunnel-"];

/// What agents call themselves.
const AGENT: &str = "selvedge-agent/";

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Asked {
    /// The pod that asked.
    pub(super) pod: String,
    /// Which of its tokens it showed.
    pub(super) credential: String,
    /// The verb.
    pub(super) verb: String,
    /// Whether the answer begins with all objects: a list, or a watch that has just begun and brings it.
    pub(super) lists: bool,
    /// API group, empty for the core one.
    pub(super) group: String,
    /// Resource and subresource, as rights have them: `nodes/status`.
    pub(super) resource: String,
    /// Namespace, empty for what has none.
    pub(super) namespace: String,
    /// HTTP status of the answer.
    pub(super) code: u64,
}

/// All since the cluster was started.
pub(super) fn asked(cluster: &Kubernetes) -> Result<Vec<Asked>, Failed> {
    let log = cluster.audit_log();
    let text =
        std::fs::read_to_string(&log).map_err(|error| Failed(format!("{}: {error}", log.display())))?;
    // The last line may be half written.
    Ok(text.lines().filter_map(|line| request(&serde_json::from_str(line).ok()?)).collect())
}

fn request(event: &Value) -> Option<Asked> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let extra = |name: &str| {
        let values = &event["user"]["extra"][format!("authentication.kubernetes.io/{name}")];
        text(&values[0])
    };
    let pod = extra("pod-name");
    if !PODS.iter().any(|name| pod.starts_with(name)) {
        return None;
    }
    let object = event.get("objectRef")?;
    if !text(&event["userAgent"]).starts_with(AGENT) {
        return None;
    }
    let resource = [text(&object["resource"]), text(&object["subresource"])];
    let resource = resource.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    let verb = text(&event["verb"]);
    let streams = || {
        event["stage"] == "ResponseStarted" && text(&event["requestURI"]).contains("sendInitialEvents=true")
    };
    Some(Asked {
        pod,
        lists: verb == "list" || (verb == "watch" && streams()),
        credential: extra("credential-id"),
        verb,
        group: text(&object["apiGroup"]),
        resource,
        namespace: text(&object["namespace"]),
        code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_of_agents_are_read() {
        let event = |pod: &str| {
            json!({
                "verb": "patch",
                "userAgent": "selvedge-agent/1.0.0",
                "user": {"extra": {
                    "authentication.kubernetes.io/pod-name": [pod],
                    "authentication.kubernetes.io/credential-id": ["JTI=1"],
                }},
                "objectRef": {"resource": "nodes", "subresource": "status", "name": "node1", "apiVersion": "v1"},
                "responseStatus": {"code": 200},
            })
        };
        let found = request(&event("selvedge-agent-x")).unwrap();
        let expected = Asked {
            pod: "selvedge-agent-x".into(),
            credential: "JTI=1".into(),
            verb: "patch".into(),
            resource: "nodes/status".into(),
            code: 200,
            ..Asked::default()
        };
        assert_eq!(found, expected);
        let watch = |uri: &str| {
            let more = json!({"verb": "watch", "stage": "ResponseStarted", "requestURI": uri});
            let mut event = event("selvedge-agent-x");
            event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            request(&event).unwrap().lists
        };
        assert!(watch("/api/v1/nodes?watch=true&sendInitialEvents=true"));
        assert!(!watch("/api/v1/nodes?watch=true&resourceVersion=7"));
        assert_eq!(request(&event("admission-a")), None);
        assert_eq!(request(&json!({"verb": "get"})), None);
    }
}
