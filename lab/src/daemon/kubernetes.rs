//! A lab with a real Kubernetes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{Kept, Place, link, pod_name};
use crate::control::{NodeStatus, PodStatus, Status};
use crate::kubernetes::{Kubernetes, PAUSE};
use crate::space::Space;
use crate::traffic::Server;

/// The image of pods that `pod create` makes: nothing runs in them but the lab's servers.
const LAB: &str = "lab";
const WAIT: &str = "--timeout=60s";

/// The cluster, and the servers that run in pods of the lab's.
pub struct Real {
    // In the order in which they have to end.
    servers: Mutex<BTreeMap<String, Server>>,
    cluster: Kubernetes,
    /// Where the product's program is.
    programs: Option<PathBuf>,
}

impl Real {
    /// Keeps `cluster`; `binary` is the product's program.
    #[must_use]
    pub fn new(cluster: Kubernetes, binary: &Path) -> Self {
        let programs = binary.parent().map(Path::to_owned);
        Self { servers: Mutex::default(), cluster, programs }
    }

    fn pods(&self) -> Result<Vec<Pod>, String> {
        self.cluster.pods().map_err(|error| error.to_string())
    }

    fn kubectl(&self, args: &[&str]) -> Result<(), String> {
        self.cluster.kubectl(args).map(drop).map_err(|error| error.to_string())
    }

    /// Waits for a pod that was created, and starts the servers of one of the lab's.
    fn await_pod(&self, name: &str, ports: &[u16]) -> Result<(), String> {
        self.kubectl(&["wait", "--for=condition=Ready", WAIT, &format!("pod/{name}")])?;
        if ports.is_empty() {
            return Ok(());
        }
        let place = self.find(name)?.ok_or_else(|| format!("pod {name} is gone again"))?;
        let net = place.pod.ok_or_else(|| format!("a node is called {name}, too"))?;
        let server = Server::start(&net, name, ports, self.cluster.world().canary());
        let server = server.map_err(|error| error.to_string())?;
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), server);
        Ok(())
    }
}

impl Kept for Real {
    fn status(&self) -> Result<Status, String> {
        let failed = |error: crate::error::Error| error.to_string();
        let nodes = self.cluster.nodes().map_err(failed)?;
        let seen = self.cluster.world().capture().seen().map_err(|error| error.to_string())?;
        Ok(Status {
            name: String::new(),
            families: self.cluster.world().plan().families,
            folder: self.cluster.folder().to_owned(),
            kubeconfig: self.cluster.kubeconfig(),
            nodes: nodes.iter().map(|node| node_status(node, &self.cluster)).collect(),
            pods: self.pods()?.iter().map(pod_status).collect(),
            links: seen.into_iter().map(link).collect(),
        })
    }

    fn create(&self, mut objects: Vec<Value>) -> Result<(), String> {
        let mut pods = Vec::new();
        for pod in objects.iter_mut().filter(|object| object["kind"] == "Pod") {
            let ports = furnish(pod);
            let here = pod["metadata"]["namespace"].as_str().is_none_or(|namespace| namespace == "default");
            pods.extend(
                pod["metadata"]["name"].as_str().filter(|_| here).map(|name| (name.to_owned(), ports)),
            );
        }
        let file = self.cluster.folder().join("objects.json");
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(&file, list.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        self.kubectl(&["apply", "--server-side", "--filename", &file.display().to_string()])?;
        pods.iter().try_for_each(|(name, ports)| self.await_pod(name, ports))
    }

    fn delete_pod(&self, name: &str) -> Result<(), String> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.cluster.delete_pod(name).map_err(|error| error.to_string())
    }

    fn find(&self, target: &str) -> Result<Option<Place>, String> {
        if let Some(space) = self.cluster.node_space(target) {
            return Ok(Some(Place { space: space.clone(), pod: None }));
        }
        let key = pod_name(target);
        for status in self.pods()?.iter().map(pod_status) {
            if (status.namespace, status.name) == key && status.phase == "Running" {
                let Some(space) = self.cluster.node_space(&status.node) else { continue };
                let net = self.cluster.pod_namespace(&status.node, &status.addresses);
                let pod = Some(net.map_err(|error| error.to_string())?);
                return Ok(Some(Place { space: space.clone(), pod }));
            }
        }
        Ok(None)
    }

    fn node_names(&self) -> Vec<String> {
        self.cluster.node_names()
    }

    fn environment(&self, _on_node: bool) -> Vec<(String, String)> {
        vec![("KUBECONFIG".into(), self.cluster.kubeconfig().display().to_string())]
    }

    fn programs(&self) -> Vec<PathBuf> {
        let kubectl = self.cluster.program("kubectl");
        self.programs.iter().cloned().chain(kubectl.parent().map(Path::to_owned)).collect()
    }

    fn folder(&self) -> &Path {
        self.cluster.folder()
    }

    fn end(&self) {}
}

/// Makes a pod of the lab's one that a kubelet runs; gives the ports that it wants served.
fn furnish(pod: &mut Value) -> Vec<u16> {
    let mut ports = Vec::new();
    if pod["spec"]["nodeName"] == "" {
        pod["spec"].as_object_mut().map(|spec| spec.remove("nodeName"));
    }
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        if container["image"] == LAB {
            let wanted = container["ports"].as_array().into_iter().flatten();
            ports.extend(wanted.filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok()));
            container["image"] = PAUSE.into();
            container["imagePullPolicy"] = "Never".into();
        }
    }
    ports
}

fn node_status(node: &Node, cluster: &Kubernetes) -> NodeStatus {
    let name = node.metadata.name.clone().unwrap_or_default();
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let cidrs = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let running = |verb: &str| cluster.node_space(&name).and_then(|space| process(space, verb));
    NodeStatus {
        ready: ready.is_some_and(|ready| ready.status == "True"),
        message: ready.filter(|ready| ready.status != "True").and_then(|ready| ready.message.clone()),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        pod_cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect(),
        tunnel: running("tunnel"),
        agent: running("agent"),
        name,
    }
}

/// The process of `selvedge VERB` in a node's network namespace.
fn process(space: &Space, verb: &str) -> Option<i32> {
    let own = space.files()[0].metadata().ok()?;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_it = words.next().is_some_and(|program| program.ends_with(b"selvedge"))
            && words.next() == Some(verb.as_bytes());
        let net = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        is_it && net.is_ok_and(|net| (net.dev(), net.ino()) == (own.dev(), own.ino()))
    })
}

fn pod_status(pod: &Pod) -> PodStatus {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".into());
    let ips = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let waiting = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let waiting = waiting.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    let leaving = pod.metadata.deletion_timestamp.is_some();
    PodStatus {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        phase: if leaving { "Terminating".into() } else { phase },
        addresses: ips.filter_map(|ip| ip.ip.parse().ok()).collect(),
        message: waiting.filter_map(|state| state.message.clone()).next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_labs_gets_an_image_and_its_ports_are_served() {
        let container = |image: &str, port: u16| json!({"image": image, "ports": [{"containerPort": port}]});
        let mut pod =
            json!({"spec": {"nodeName": "", "containers": [container("lab", 8080), container("web", 80)]}});
        assert_eq!(furnish(&mut pod), [8080]);
        assert!(pod["spec"].get("nodeName").is_none());
        let images: Vec<&str> = pod["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["image"].as_str())
            .collect();
        assert_eq!(images, [PAUSE, "web"]);
    }
}
