//! What is taken from the metadata of a Node.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::PartialObjectMeta;

use crate::mesh::annotation;
use crate::mesh::resolve::NodeClaims;

/// What the Node publishes. Heartbeats, labels and other annotations do not change it.
pub(super) fn claims(node: &PartialObjectMeta<Node>) -> NodeClaims {
    NodeClaims {
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        published: annotation::parse(node.annotations()),
    }
}
