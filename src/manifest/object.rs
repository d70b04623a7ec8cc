//! An object of Kubernetes, and what it is told by.

use std::fmt;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Serialize;
use serde_json::Value;

/// An object as its manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Object(pub Value);

/// Which object: enough to find it in the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Id {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`; none for what belongs to the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

impl Object {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> Id {
        let text = |pointer: &str| self.0.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Id {
            api_version: text("/apiVersion").unwrap_or_default(),
            kind: text("/kind").unwrap_or_default(),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name").unwrap_or_default(),
        }
    }

    /// True for the object of this kind and name.
    #[must_use]
    pub fn is(&self, kind: &str, name: &str) -> bool {
        self.0["kind"] == kind && self.0["metadata"]["name"] == name
    }

    /// The pod that a DaemonSet makes.
    pub(super) fn pod(&mut self) -> &mut Value {
        &mut self.0["spec"]["template"]["spec"]
    }
}

impl Id {
    /// How the API calls objects of its kind.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind))
    }

    /// The calls for it.
    #[must_use]
    pub fn api(&self, client: kube::Client) -> kube::Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => kube::Api::namespaced_with(client, namespace, &self.resource()),
            None => kube::Api::all_with(client, &self.resource()),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
