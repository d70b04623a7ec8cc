//! Pods that a kubelet runs from files of its node, whatever the API server says.

use std::path::PathBuf;

use serde_json::json;

use super::machine::{MANIFESTS, Machine};
use super::{Kubernetes, install};
use crate::error::{Doing as _, Error};

/// Such a pod; it starts and ends with its file.
#[derive(Debug)]
pub struct StaticPod<'a> {
    node: &'a str,
    name: &'a str,
    file: PathBuf,
}

impl<'a> StaticPod<'a> {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(cluster: &Kubernetes, node: &'a str, name: &'a str) -> Self {
        let folder = Machine::disk(cluster.folder(), node).join(MANIFESTS);
        Self { node, name, file: folder.join(format!("{name}.json")) }
    }

    /// Where it runs.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node
    }

    /// What its kubelet calls it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.name, self.node)
    }

    /// Has the kubelet run it.
    pub fn start(&self) -> Result<(), Error> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "containers": [{"name": "main", "image": install::PAUSE, "imagePullPolicy": "Never"}],
                "terminationGracePeriodSeconds": 1,
            },
        });
        // Kubelets pass over files whose names begin with a dot: it sees this one when it is whole.
        let draft = self.file.with_file_name(format!(".{}", self.name));
        let put = std::fs::write(&draft, pod.to_string()).and_then(|()| std::fs::rename(&draft, &self.file));
        put.doing(format!("start the static pod {}", self.name))
    }

    /// Has the kubelet end it.
    pub fn end(&self) -> Result<(), Error> {
        std::fs::remove_file(&self.file).doing(format!("end the static pod {}", self.name))
    }
}
