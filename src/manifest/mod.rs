//! What Selvedge is on a cluster: the objects of `deploy/base`, with what a distribution and an operator change.
//!
//! Pure: [`Settings`] go in, [`Object`]s come out, the same ones that `kubectl kustomize` makes of the overlay.

mod base;
pub mod cleanup;
pub mod configuration;
mod distribution;
mod hash;
mod object;
mod render;

pub use distribution::Distribution;
pub use object::{Id, Object};
pub use render::{ApiServer, SERVER_HOST, SERVER_PORT, Settings, admission_policy, is_generated};

/// Where the DaemonSets run. The admission policy names their account by it.
pub const NAMESPACE: &str = "selvedge-system";
/// The DaemonSet of the control plane.
pub const AGENT: &str = "selvedge-agent";
/// The DaemonSet of the data plane.
pub const TUNNEL: &str = "selvedge-tunnel";
/// What every name of ours on a Node begins with.
pub const PREFIX: &str = "selvedge.dev/";

/// The image that `deploy/base` names; no registry has it.
#[must_use]
pub fn default_image() -> String {
    format!("localhost/selvedge:{}", env!("CARGO_PKG_VERSION"))
}

/// Every object as YAML, a document each.
#[must_use]
pub fn yaml(objects: &[Object]) -> String {
    let document =
        |object: &Object| serde_saphyr::to_string(&object.0).expect("JSON is YAML, whose keys are text");
    let documents: Vec<_> =
        objects.iter().map(|object| document(object).trim_end().to_owned() + "\n").collect();
    documents.join("---\n")
}

/// The objects that belong to the whole cluster or to another namespace than [`NAMESPACE`], in the order in which they
/// can be removed once no agent is left; all others go with that.
#[must_use]
pub fn outside_of_the_namespace() -> Vec<Id> {
    let mut ids: Vec<Id> = base::objects().iter().map(Object::id).collect();
    ids.retain(|id| id.kind != "Namespace" && id.namespace.as_deref() != Some(NAMESPACE));
    let rank = |id: &Id| match &*id.kind {
        "ValidatingAdmissionPolicyBinding" => 0,
        "ValidatingAdmissionPolicy" => 1,
        "RoleBinding" | "ClusterRoleBinding" => 2,
        _ => 3,
    };
    ids.sort_by_key(rank);
    ids
}

#[cfg(test)]
mod tests;
