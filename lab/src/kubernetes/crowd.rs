//! Many pods at once, known by a label.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Kubernetes, PODS, install};
use crate::error::Error;

/// Key of the label that says which crowd a pod is of.
const LABEL: &str = "lab-crowd";

impl Kubernetes {
    /// Creates a pod of the crowd `crowd`, which the scheduler finds a node for. With a host port where one is given.
    pub fn add_to_crowd(&self, crowd: &str, number: usize, host_port: Option<u16>) -> Result<(), Error> {
        self.client.create(PODS, &member(crowd, number, host_port))
    }

    /// The pods of a crowd.
    pub fn crowd(&self, crowd: &str) -> Result<Vec<Pod>, Error> {
        // From the API server's memory, which is enough for looking again and again.
        self.client.list(&format!("{}&resourceVersion=0", selected(crowd)))
    }

    /// Deletes a pod of a crowd, and does not wait until it is gone.
    pub fn remove_from_crowd(&self, crowd: &str, number: usize) -> Result<(), Error> {
        self.client.delete(&super::path(&name(crowd, number)))
    }

    /// All pods of the cluster.
    pub fn pods(&self) -> Result<Vec<Pod>, Error> {
        self.client.list("/api/v1/pods")
    }
}

fn name(crowd: &str, number: usize) -> String {
    format!("{crowd}-{number}")
}

/// The pods of a crowd, in the API.
fn selected(crowd: &str) -> String {
    format!("{PODS}?labelSelector={LABEL}%3D{crowd}")
}

fn member(crowd: &str, number: usize, host_port: Option<u16>) -> Value {
    let ports = host_port.map(|port| json!({"containerPort": 8080, "hostPort": port}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name(crowd, number), "labels": {LABEL: crowd}},
        "spec": {
            "containers": [{
                "name": "main", "image": install::PAUSE, "imagePullPolicy": "Never",
                "ports": ports.into_iter().collect::<Vec<_>>(),
            }],
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
        },
    })
}
