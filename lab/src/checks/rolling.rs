//! A Deployment is replaced pod by pod while clients inside and outside ask its Service all the time.

use std::time::Duration;

use serde_json::{Value, json};

use super::load::Load;
use super::workloads::{AGNHOST, get};
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;

/// How long a terminating pod goes on serving: long enough for every node to remove its endpoint.
const GRACE: &str = "--delay-shutdown=6";
const NAME: &str = "rolling";

/// Runs the check and reports its result.
pub fn rolling(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("rolling update under load", report, || {
        deploy(cluster, NAME)?;
        let updated = update(cluster);
        remove(cluster, NAME)?;
        updated
    });
}

/// Deletes what [`deploy`] makes.
pub(super) fn remove(cluster: &Kubernetes, name: &str) -> Result<(), Failed> {
    let objects = [format!("deployment/{name}"), format!("service/{name}")];
    Ok(cluster.kubectl(&["delete", "--timeout=60s", &objects[0], &objects[1]]).map(drop)?)
}

/// A Service of type NodePort, and a Deployment of as many pods as there are nodes.
pub(super) fn deploy(cluster: &Kubernetes, name: &str) -> Result<(), Failed> {
    let manifest = cluster.folder().join(format!("{name}.json"));
    std::fs::write(&manifest, objects(name, cluster.node_names().len()).to_string())
        .map_err(|error| Failed(error.to_string()))?;
    cluster.kubectl(&["apply", "--filename", &manifest.display().to_string()])?;
    rolled_out(cluster, name)
}

fn rolled_out(cluster: &Kubernetes, name: &str) -> Result<(), Failed> {
    let rollout = ["rollout", "status", "--timeout=120s", &format!("deployment/{name}")];
    Ok(cluster.kubectl(&rollout).map(drop)?)
}

fn restart(cluster: &Kubernetes) -> Result<(), Failed> {
    cluster.kubectl(&["rollout", "restart", &format!("deployment/{NAME}")])?;
    rolled_out(cluster, NAME)
}

fn update(cluster: &Kubernetes) -> Result<String, Failed> {
    let service = get(cluster, &["get", "service", NAME])?;
    let node = cluster.node_names().into_iter().next().ok_or_else(|| Failed("no node".into()))?;
    Load::new(cluster, &service, &node)?.during(false, || {
        restart(cluster)?;
        // Until the last old pod has ended, too.
        std::thread::sleep(Duration::from_secs(8));
        Ok(())
    })
}

fn objects(name: &str, replicas: usize) -> Value {
    let labels = json!({"app": name});
    let container = json!({
        "name": "web", "image": AGNHOST, "imagePullPolicy": "Never",
        "args": ["netexec", "--http-port=8080", GRACE],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    });
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": strategy,
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [container], "terminationGracePeriodSeconds": 20,
            }},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
            "type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": labels,
            "ports": [{"port": 80, "targetPort": 8080}],
        }},
    ]})
}
