//! The DaemonSet that takes Selvedge off every node: the agent's, with another task and less of everything.
//!
//! A DaemonSet cannot complete, so the work is an init container's, and what comes after it does nothing: a pod that is
//! ready has done its work, and one that is not says why in its status. Nobody has to run anything in it to know.

use serde_json::{Value, json};

use super::{NAMESPACE, Object};

/// Its name.
pub const NAME: &str = "selvedge-uninstall";
/// Label that no node has: with it in its node selector, the DaemonSet runs nowhere. It is made before the agents are
/// taken away, since it holds all that is needed to go on, and let go once they are gone.
pub const HELD: &str = "selvedge.dev/held-until-agents-are-gone";

/// The argument with which keys, records and the plugin's program go too.
pub const PURGE: &str = "--purge";
/// The container that cleans.
const WORKER: &str = "uninstall";

/// Made of the agent's DaemonSet as the cluster has it, so that the image, where it is pulled from, and the folders of
/// the container runtime are those that were in use; or of the cleanup itself, once no agent is left. None if it is
/// neither.
#[must_use]
pub fn daemon_set(source: &Value, purge: bool, image: Option<&str>, held: bool) -> Option<Object> {
    let pod = source.pointer("/spec/template/spec")?;
    let container = container(pod, "containers", "agent").or_else(|| worker(pod))?;
    let image = image.map_or_else(|| container["image"].clone(), |image| json!(image));
    let labels = json!({"app.kubernetes.io/name": "selvedge", "app.kubernetes.io/component": "uninstall"});
    let mut selector = pod["nodeSelector"].as_object().cloned().unwrap_or_default();
    selector.remove(HELD);
    if held {
        selector.insert(HELD.into(), json!("true"));
    }
    let mut spec = json!({
        // It has no rights and no token.
        "serviceAccountName": "selvedge-tunnel",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "hostNetwork": true,
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 5,
        "nodeSelector": selector,
        "initContainers": [working(container, &image, purge)],
        "containers": [resting(container, &image)],
        "volumes": volumes(pod, purge),
    });
    for field in ["priorityClassName", "tolerations", "affinity", "securityContext", "imagePullSecrets"] {
        if let Some(value) = pod.get(field) {
            spec[field] = value.clone();
        }
    }
    Some(Object(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            // All at once: nothing is served any more.
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    })))
}

/// Whether the cleanup `set` takes keys, records and the plugin's program too.
#[must_use]
pub fn purges(set: &Value) -> bool {
    let args =
        set.pointer("/spec/template/spec").and_then(worker).and_then(|worker| worker["args"].as_array());
    args.is_some_and(|args| args.iter().any(|argument| argument == PURGE))
}

fn worker(pod: &Value) -> Option<&Value> {
    container(pod, "initContainers", WORKER)
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    pod[list].as_array()?.iter().find(|container| container["name"] == name)
}

fn working(source: &Value, image: &Value, purge: bool) -> Value {
    let mut args = vec!["uninstall", "--node", "--yes"];
    let node = json!({"fieldRef": {"fieldPath": "spec.nodeName"}});
    let mut env = vec![
        json!({"name": "SELVEDGE_NODE_NAME", "valueFrom": node}),
        json!({"name": "SELVEDGE_RUN_DIR", "value": "/host/run/selvedge"}),
    ];
    if purge {
        args.push(PURGE);
        env.push(json!({"name": "SELVEDGE_STATE_DIR", "value": "/host/var/lib/selvedge"}));
    }
    let mut mounts: Vec<Value> = source["volumeMounts"].as_array().cloned().unwrap_or_default();
    mounts.retain(|mount| ["config", "cni-bin", "cni-conf"].iter().any(|name| mount["name"] == *name));
    mounts.extend(
        parents(purge).map(|(name, path)| json!({"name": name, "mountPath": format!("/host{path}")})),
    );
    json!({
        "name": WORKER,
        "image": image,
        "imagePullPolicy": source["imagePullPolicy"],
        "args": args,
        "env": env,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            // Devices, routes, rules and nftables of the node.
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        },
        // What it says last is in the pod's status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

fn resting(source: &Value, image: &Value) -> Value {
    json!({
        "name": "done",
        "image": image,
        "imagePullPolicy": source["imagePullPolicy"],
        "args": ["rest"],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsUser": 65534,
            "runAsGroup": 65534,
            "runAsNonRoot": true,
            "capabilities": {"drop": ["ALL"]},
        },
    })
}

fn volumes(pod: &Value, purge: bool) -> Vec<Value> {
    let mut volumes: Vec<Value> = pod["volumes"].as_array().cloned().unwrap_or_default();
    volumes.retain(|volume| ["config", "cni-bin", "cni-conf"].iter().any(|name| volume["name"] == *name));
    volumes.extend(
        parents(purge)
            .map(|(name, path)| json!({"name": name, "hostPath": {"path": path, "type": "Directory"}})),
    );
    volumes
}

/// The folders that ours are in: what is mounted itself cannot be removed.
fn parents(purge: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let state = purge.then_some(("state", "/var/lib"));
    [Some(("run", "/run")), state].into_iter().flatten()
}
