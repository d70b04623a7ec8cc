//! `metadata.managedFields` of a Node, the larger part of its metadata: which manager wrote which field.

use serde_json::{Map, Value, json};

/// The entries of kubelet, kubeadm, controller manager and agent; `published` names the annotations of the agent,
/// `at` is the time of all entries.
pub(super) fn fields<'a>(published: impl Iterator<Item = &'a String>, at: &str) -> Value {
    let published: Map<String, Value> = published.map(|name| (format!("f:{name}"), json!({}))).collect();
    let mut entries = vec![
        entry(
            at,
            "kubelet",
            "",
            &json!({"f:metadata": {
                "f:annotations": {".": {}, "f:volumes.kubernetes.io/controller-managed-attach-detach": {}},
                "f:labels": set(&LABELS),
            }}),
        ),
        entry(
            at,
            "kubeadm",
            "",
            &json!({"f:metadata": {
                "f:annotations": {"f:kubeadm.alpha.kubernetes.io/cri-socket": {}},
            }}),
        ),
        entry(
            at,
            "kube-controller-manager",
            "",
            &json!({
                "f:metadata": {"f:annotations": {"f:node.alpha.kubernetes.io/ttl": {}}},
                "f:spec": {"f:podCIDR": {}, "f:podCIDRs": {".": {}, "v:\"first\"": {}, "v:\"second\"": {}}},
            }),
        ),
    ];
    if !published.is_empty() {
        entries.push(entry(at, "selvedge-agent", "", &json!({"f:metadata": {"f:annotations": published}})));
    }
    entries.push(entry(at, "kubelet", "status", &json!({
        "f:metadata": {"f:annotations": {"f:csi.volume.kubernetes.io/nodeid": {}}},
        "f:status": {
            "f:addresses": keyed(&["Hostname", "InternalIP"], &["f:address", "f:type"]),
            "f:allocatable": set(&AMOUNTS), "f:capacity": set(&AMOUNTS),
            "f:conditions": keyed(
                &["DiskPressure", "MemoryPressure", "PIDPressure", "Ready"],
                &["f:lastHeartbeatTime", "f:lastTransitionTime", "f:message", "f:reason", "f:status", "f:type"],
            ),
            "f:daemonEndpoints": {"f:kubeletEndpoint": {"f:Port": {}}},
            "f:images": {},
            "f:nodeInfo": set(&INFO),
            "f:runtimeHandlers": {},
        },
    })));
    entries.into()
}

const LABELS: [&str; 11] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const AMOUNTS: [&str; 6] = ["cpu", "ephemeral-storage", "hugepages-1Gi", "hugepages-2Mi", "memory", "pods"];
const INFO: [&str; 9] = [
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
];

fn entry(at: &str, manager: &str, subresource: &str, fields: &Value) -> Value {
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": "v1", "time": at, "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    });
    if !subresource.is_empty() {
        entry["subresource"] = subresource.into();
    }
    entry
}

fn set(names: &[&str]) -> Value {
    let fields = names.iter().map(|name| (format!("f:{name}"), json!({})));
    Value::Object([(".".to_owned(), json!({}))].into_iter().chain(fields).collect())
}

/// A list whose merge key is `type`.
fn keyed(kinds: &[&str], fields: &[&str]) -> Value {
    let all: Map<String, Value> = fields.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    let elements = kinds.iter().map(|kind| {
        let mut element = all.clone();
        element.insert(".".to_owned(), json!({}));
        (format!("k:{{\"type\":\"{kind}\"}}"), Value::Object(element))
    });
    Value::Object([(".".to_owned(), json!({}))].into_iter().chain(elements).collect())
}
