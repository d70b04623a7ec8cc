//! A lab with the embedded API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selvedge::kernel::netns::NetNs;
use serde_json::Value;

use super::{Kept, Place, link, pod_name};
use crate::api::Object;
use crate::api::resource::PODS;
use crate::control::{NodeStatus, PodStatus, Status};
use crate::lab::Lab;
use crate::{manifest, node};

impl Kept for Lab {
    fn status(&self) -> Result<Status, String> {
        let nodes = self.nodes().iter().enumerate().map(|(number, node)| {
            let why = self.kubelet(number).not_ready();
            NodeStatus {
                name: node.name().to_owned(),
                ready: why.is_none(),
                message: why,
                addresses: node.addresses(),
                pod_cidrs: node.pod_cidrs().to_vec(),
                tunnel: node.tunnel.pid().map(nix::unistd::Pid::as_raw),
                agent: node.agent.pid().map(nix::unistd::Pid::as_raw),
            }
        });
        let seen = self.capture().seen().map_err(|error| error.to_string())?;
        Ok(Status {
            name: String::new(),
            families: self.plan().families,
            folder: self.options().folder.clone(),
            kubeconfig: self.kubeconfig(),
            nodes: nodes.collect(),
            pods: pods(self),
            links: seen.into_iter().map(link).collect(),
        })
    }

    fn create(&self, objects: Vec<Value>) -> Result<(), String> {
        let mut pods = Vec::new();
        for object in objects {
            let resource = manifest::resource(&object).map_err(|error| error.to_string())?;
            // The API server would schedule it; this way of creating goes past it.
            let object = if resource == &PODS { scheduled(self, object) } else { object };
            let stored = self.store().create(resource, object).map_err(|failure| failure.to_string())?;
            if resource == &PODS && stored["metadata"]["namespace"] == "default" {
                pods.extend(stored["metadata"]["name"].as_str().map(str::to_owned));
            }
        }
        pods.iter().try_for_each(|pod| self.wait_pod(pod).map(drop)).map_err(|error| error.to_string())
    }

    fn delete_pod(&self, name: &str) -> Result<(), String> {
        Lab::delete_pod(self, name).map_err(|error| error.to_string())
    }

    fn find(&self, target: &str) -> Result<Option<Place>, String> {
        if let Some(node) = self.nodes().iter().find(|node| node.name() == target) {
            return Ok(Some(Place { space: node.space(), pod: None }));
        }
        let key = pod_name(target);
        for (number, node) in self.nodes().iter().enumerate() {
            if let Some((ns, _)) = self.kubelet(number).pod(&key) {
                let ns = ns.run(NetNs::current).and_then(|ns| ns).map_err(|error| error.to_string())?;
                return Ok(Some(Place { space: node.space(), pod: Some(ns) }));
            }
        }
        Ok(None)
    }

    fn node_names(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.name().to_owned()).collect()
    }

    fn environment(&self, on_node: bool) -> Vec<(String, String)> {
        let kubeconfig = ("KUBECONFIG".to_owned(), self.kubeconfig().display().to_string());
        let own = if on_node { node::environment() } else { Vec::new() };
        let own = own.into_iter().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        std::iter::once(kubeconfig).chain(own).collect()
    }

    fn programs(&self) -> Vec<PathBuf> {
        self.options().binary.parent().map(Path::to_owned).into_iter().collect()
    }

    fn folder(&self) -> &Path {
        &self.options().folder
    }

    fn end(&self) {
        self.nodes().iter().for_each(|node| node.hold());
    }
}

/// A pod without a node gets the emptiest.
fn scheduled(lab: &Lab, mut pod: Value) -> Value {
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
        let (_, pods) = lab.store().list(&PODS, None);
        let on = |name: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == name).count();
        let emptiest = lab.nodes().iter().min_by_key(|node| on(node.name()));
        pod["spec"]["nodeName"] = emptiest.map(|node| node.name().to_owned()).into();
    }
    pod
}

fn pods(lab: &Lab) -> Vec<PodStatus> {
    let (_, pods) = lab.store().list(&PODS, None);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let status = |pod: &Arc<Object>| {
        let key = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let leaving = pod["metadata"]["deletionTimestamp"].is_string();
        let phase = pod["status"]["phase"].as_str().unwrap_or("Pending");
        let ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        let failures = (0..lab.nodes().len()).map(|number| lab.kubelet(number).failure(&key));
        PodStatus {
            node: text(&pod["spec"]["nodeName"]),
            phase: if leaving { "Terminating" } else { phase }.to_owned(),
            addresses: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
            message: failures.flatten().next(),
            namespace: key.0,
            name: key.1,
        }
    };
    pods.iter().map(status).collect()
}
