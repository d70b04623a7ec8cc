//! A Deployment is replaced pod by pod while clients inside and outside ask its Service all the time.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde_json::{Value, json};

use super::workloads::{AGNHOST, addresses, get, host_name, pick};
use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::plan::Family;

/// Of each client; there are four.
const BETWEEN: Duration = Duration::from_millis(20);
/// How long a terminating pod goes on serving: long enough for every node to remove its endpoint.
const GRACE: &str = "--delay-shutdown=6";
const NAME: &str = "rolling";

/// Runs the check and reports its result.
pub fn rolling(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    check("rolling update under load", report, || {
        deploy(cluster)?;
        let updated = update(cluster);
        let objects = [format!("deployment/{NAME}"), format!("service/{NAME}")];
        cluster.kubectl(&["delete", "--timeout=60s", &objects[0], &objects[1]])?;
        updated
    });
}

fn deploy(cluster: &Kubernetes) -> Result<(), Failed> {
    let manifest = cluster.folder().join("rolling.json");
    std::fs::write(&manifest, objects(cluster.node_names().len()).to_string())
        .map_err(|error| Failed(error.to_string()))?;
    cluster.kubectl(&["apply", "--filename", &manifest.display().to_string()])?;
    rolled_out(cluster)
}

fn rolled_out(cluster: &Kubernetes) -> Result<(), Failed> {
    let rollout = ["rollout", "status", "--timeout=120s", &format!("deployment/{NAME}")];
    Ok(cluster.kubectl(&rollout).map(drop)?)
}

fn restart(cluster: &Kubernetes) -> Result<(), Failed> {
    cluster.kubectl(&["rollout", "restart", &format!("deployment/{NAME}")])?;
    rolled_out(cluster)
}

/// A client and whom it asks.
type Asked<'a> = (&'a NetNs, SocketAddr);

fn update(cluster: &Kubernetes) -> Result<String, Failed> {
    let service = get(cluster, &["get", "service", NAME])?;
    let node = cluster.node_names().into_iter().next().ok_or_else(|| Failed("no node".into()))?;
    let space = cluster.node_space(&node).ok_or_else(|| Failed(format!("no node {node}")))?;
    let clients = clients(cluster, &service, (&node, space.net()))?;
    for (ns, server) in &clients {
        let end = Instant::now() + Duration::from_secs(15);
        while host_name(ns, *server).is_err() && Instant::now() < end {}
    }
    let done = AtomicBool::new(false);
    let (updated, asked) = std::thread::scope(|scope| {
        let threads: Vec<_> = clients.iter().map(|client| scope.spawn(|| ask(*client, &done))).collect();
        let updated = restart(cluster);
        // Until the last old pod has ended, too.
        std::thread::sleep(Duration::from_secs(8));
        done.store(true, Ordering::Relaxed);
        let asked: Vec<Tally> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        (updated, asked)
    });
    updated?;
    judge(clients.len(), &asked)
}

fn clients<'a>(
    cluster: &'a Kubernetes,
    service: &Value,
    (name, node): (&str, &'a NetNs),
) -> Result<Vec<Asked<'a>>, Failed> {
    let cluster_ips = addresses(&service["spec"]["clusterIPs"]);
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    let node_port = u16::try_from(node_port).map_err(|error| Failed(error.to_string()))?;
    let (own, _) = cluster.node(name)?;
    let mut clients = Vec::new();
    for family in [Family::V4, Family::V6] {
        let at = |all: &[IpAddr], port| pick(family, all).map(|address| SocketAddr::new(address, port));
        clients.push((node, at(&cluster_ips, 80)?));
        clients.push((cluster.world().internet(), at(&own, node_port)?));
    }
    Ok(clients)
}

/// What a client got.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    failed: Vec<String>,
}

fn ask((ns, server): Asked<'_>, done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        match host_name(ns, server) {
            Ok(_) => tally.answered += 1,
            Err(failed) => tally.failed.push(failed.0),
        }
        std::thread::sleep(BETWEEN.saturating_sub(start.elapsed()));
    }
    tally
}

fn judge(clients: usize, asked: &[Tally]) -> Result<String, Failed> {
    let failed: Vec<&String> = asked.iter().flat_map(|tally| &tally.failed).collect();
    let answered: usize = asked.iter().map(|tally| tally.answered).sum();
    match failed.first() {
        Some(first) => {
            Err(Failed(format!("{} of {} requests failed: {first}", failed.len(), answered + failed.len())))
        }
        None if asked.len() < clients => Err(Failed("a client broke off".into())),
        None => Ok(format!("{answered} requests, none failed")),
    }
}

fn objects(replicas: usize) -> Value {
    let labels = json!({"app": NAME});
    let container = json!({
        "name": "web", "image": AGNHOST, "imagePullPolicy": "Never",
        "args": ["netexec", "--http-port=8080", GRACE],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    });
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": strategy,
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [container], "terminationGracePeriodSeconds": 20,
            }},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME}, "spec": {
            "type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": labels,
            "ports": [{"port": 80, "targetPort": 8080}],
        }},
    ]})
}
