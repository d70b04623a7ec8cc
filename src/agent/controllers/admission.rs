//! What tells the cluster that pods may start on this node: the condition `NetworkUnavailable`, which clouds set on new
//! nodes, is cleared, and the start-up taint is taken off.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch};

use crate::agent::api::{Written, patching, unless_changed};
use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::mesh::node_object::{NETWORK_UNAVAILABLE, OwnNode};

/// Admits pods once everything that they need works. A node that stops working later keeps what it has: its pods are held
/// back by the CNI plugin, and those that run need the node less than they would suffer from being driven off.
pub(in crate::agent) struct Admission {
    context: Arc<Context>,
}

impl Admission {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }

    /// The taints that stay; None when there is nothing to take off.
    fn without_taint(&self, own: &OwnNode) -> Option<Vec<Taint>> {
        let key = &self.context.config.agent.startup_taint;
        let stays = |taint: &&Taint| taint.key != *key;
        let taints: Vec<Taint> = own.taints.iter().filter(stays).cloned().collect();
        (taints.len() < own.taints.len()).then_some(taints)
    }

    async fn clear_condition(&self, own: &OwnNode) -> Result<Written, String> {
        let now = Some(Time(Timestamp::now()));
        let condition = NodeCondition {
            type_: NETWORK_UNAVAILABLE.into(),
            status: "False".into(),
            reason: Some("SelvedgeIsReady".into()),
            message: Some("Selvedge is ready for pods on this node".into()),
            last_heartbeat_time: now.clone(),
            last_transition_time: now,
        };
        let status = NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() };
        let node = Node { metadata: same(own), status: Some(status), ..Node::default() };
        let (name, what) = (own.name.clone(), format!("condition {NETWORK_UNAVAILABLE}"));
        let write = |client| async move {
            // The answer's metadata is all that is read of it.
            let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
            unless_changed(nodes.patch_status(&name, &patching(), &Patch::Strategic(&node)).await, what)
        };
        self.context.api.ask(write).await
    }

    async fn take_taint_off(&self, own: &OwnNode, taints: Vec<Taint>) -> Result<Written, String> {
        let spec = NodeSpec { taints: Some(taints), ..NodeSpec::default() };
        let node = Node { metadata: same(own), spec: Some(spec), ..Node::default() };
        let (name, what) = (own.name.clone(), format!("taint {}", self.context.config.agent.startup_taint));
        let write = |client| async move {
            let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
            unless_changed(nodes.patch(&name, &patching(), &Patch::Merge(&node)).await, what)
        };
        self.context.api.ask(write).await
    }
}

impl Controller for Admission {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        if !self.context.board.behind(None).is_empty() {
            return Ok(Vec::new());
        }
        let own = self.context.own()?;
        let result = match (own.network_unavailable, self.without_taint(&own)) {
            (true, _) => self.clear_condition(&own).await,
            // One write at a time: the next run has the object's new version.
            (false, Some(taints)) => self.take_taint_off(&own, taints).await,
            (false, None) => return Ok(Vec::new()),
        };
        result.map_err(Unmet::failed)?.outcome()
    }
}

/// Makes the API server refuse the patch when the Node was changed or replaced since.
fn same(own: &OwnNode) -> ObjectMeta {
    let (uid, resource_version) = (Some(own.uid.clone()), Some(own.resource_version.clone()));
    ObjectMeta { uid, resource_version, ..ObjectMeta::default() }
}
