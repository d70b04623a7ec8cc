//! This node's annotations.

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch};

use crate::agent::api::{patching, unless_changed};
use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Triggers, Unmet};
use crate::config::{ClusterRanges, Config};
use crate::mesh::annotation::{MAX_ENDPOINTS, NodeAnnotations, merge_patch, render};
use crate::mesh::node_object::OwnNode;
use crate::mesh::resolve::{endpoint_problem, node_addresses};

pub(in crate::agent) struct Annotations {
    context: Arc<Context>,
}

impl Annotations {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        Ok(Self { context })
    }

    fn wanted(&self, own: &OwnNode) -> NodeAnnotations {
        let (keys, key_epoch, created, next_keys) = self.context.keys.lock().published();
        let (config, ranges) = (&self.context.config, self.context.ranges());
        let mut pod_cidrs = own.pod_cidrs.clone();
        pod_cidrs.sort();
        NodeAnnotations {
            keys,
            next_keys,
            key_epoch,
            key_created: Some(created),
            endpoints: endpoints(config, &ranges, own),
            pod_cidrs,
            node_addresses: node_addresses(&ranges, own.internal.iter().copied()),
            location: config.location.clone(),
            features: Vec::new(),
        }
    }
}

impl Controller for Annotations {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        let own = self.context.own()?;
        // Others send to this node once it publishes: by then it knows them.
        self.context.members()?;
        // Its own controller makes newer keys, which is a trigger.
        if self.context.keys.lock().is_behind(&own.annotations) {
            return Err(Unmet::waiting("this node's keys are older than those on its Node object"));
        }
        let wanted = render(&self.wanted(&own));
        let patch = merge_patch(&own.annotations, &wanted, &own.uid, &own.resource_version);
        let Some(patch) = patch else { return Ok(Vec::new()) };
        let name = own.name.clone();
        let write = |client| async move {
            // The answer's metadata is all that is read of it.
            let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
            let written = nodes.patch(&name, &patching(), &Patch::Merge(&patch)).await;
            unless_changed(written, format!("annotations of Node {name}"))
        };
        self.context.api.ask(write).await.map_err(Unmet::failed)?.outcome()
    }
}

/// Where other nodes may reach this one: as configured, else its internal, then its external addresses.
fn endpoints(config: &Config, ranges: &ClusterRanges, own: &OwnNode) -> Vec<SocketAddr> {
    if !config.endpoints.is_empty() {
        return config.endpoints.clone();
    }
    let mut endpoints = Vec::new();
    for address in own.internal.iter().chain(&own.external) {
        let endpoint = SocketAddr::new(*address, config.listen_port);
        if endpoint_problem(ranges, endpoint).is_none() && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}
