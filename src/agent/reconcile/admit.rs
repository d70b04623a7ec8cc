//! What tells the cluster that pods may start on this node: the condition `NetworkUnavailable`, which clouds set on new
//! nodes, is cleared, and the start-up taint is taken off.

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch, PatchParams};

use super::{NEEDED, Reconciler, in_time};
use crate::agent::parts::Name;
use crate::mesh::node_object::{NETWORK_UNAVAILABLE, OwnNode};

impl Reconciler {
    /// Admits pods once everything that they need works. A node that stops working later keeps what it has: its pods are
    /// held back by the CNI plugin, and those that run need the node less than they would suffer from being driven off.
    pub(super) async fn admit(&mut self, own: &OwnNode) {
        if !self.parts.all_well(&NEEDED) {
            return;
        }
        let result = match (own.network_unavailable, self.without_taint(own)) {
            (true, _) => self.clear_condition(own).await,
            // One write in a pass: the next one has the object's new version.
            (false, Some(taints)) => self.take_taint_off(own, taints).await,
            (false, None) => Ok(Vec::new()),
        };
        self.parts.settle(Name::Admission, result);
    }

    /// The taints that stay; None when there is nothing to take off.
    fn without_taint(&self, own: &OwnNode) -> Option<Vec<Taint>> {
        let key = &self.start.config.agent.startup_taint;
        let stays = |taint: &&Taint| taint.key != *key;
        let taints: Vec<Taint> = own.taints.iter().filter(stays).cloned().collect();
        (taints.len() < own.taints.len()).then_some(taints)
    }

    async fn clear_condition(&self, own: &OwnNode) -> Result<Vec<String>, String> {
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
        let ((api, parameters), patch) = (self.nodes(), Patch::Strategic(&node));
        let written = api.patch_status(&own.name, &parameters, &patch);
        in_time(unless_changed(written, format!("condition {NETWORK_UNAVAILABLE}"))).await
    }

    async fn take_taint_off(&self, own: &OwnNode, taints: Vec<Taint>) -> Result<Vec<String>, String> {
        let spec = NodeSpec { taints: Some(taints), ..NodeSpec::default() };
        let node = Node { metadata: same(own), spec: Some(spec), ..Node::default() };
        let ((api, parameters), patch) = (self.nodes(), Patch::Merge(&node));
        let written = api.patch(&own.name, &parameters, &patch);
        in_time(unless_changed(written, format!("taint {}", self.start.config.agent.startup_taint))).await
    }

    /// The answer's metadata is all that is read of it.
    fn nodes(&self) -> (Api<PartialObjectMeta<Node>>, PatchParams) {
        let parameters =
            PatchParams { field_manager: Some("selvedge-agent".into()), ..PatchParams::default() };
        (Api::all(self.start.client.clone()), parameters)
    }
}

/// Makes the API server refuse the patch when the Node was changed or replaced since.
fn same(own: &OwnNode) -> ObjectMeta {
    let (uid, resource_version) = (Some(own.uid.clone()), Some(own.resource_version.clone()));
    ObjectMeta { uid, resource_version, ..ObjectMeta::default() }
}

/// When somebody changed the Node in between, its new state is on its way here.
async fn unless_changed<T>(
    written: impl Future<Output = Result<T, kube::Error>>,
    what: String,
) -> Result<Vec<String>, kube::Error> {
    match written.await {
        Ok(_) => Ok(vec![what]),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
