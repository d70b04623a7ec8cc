//! This node's annotations.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch, PatchParams};

use super::Reconciler;
use crate::agent::own::OwnNode;
use crate::agent::parts::Name;
use crate::config::Config;
use crate::mesh::annotation::{MAX_ENDPOINTS, NodeAnnotations, merge_patch, render};

impl Reconciler {
    /// Writes the annotations when they are not as they should be.
    pub(super) async fn publish(&mut self, own: &OwnNode) {
        let wanted = render(&self.annotations(own));
        let Some(patch) = merge_patch(&own.annotations, &wanted, &own.uid, &own.resource_version) else {
            self.parts.settle::<String>(Name::Annotations, Ok(Vec::new()));
            return;
        };
        // The answer's metadata is all that is read of it.
        let api: Api<PartialObjectMeta<Node>> = Api::all(self.start.client.clone());
        let parameters =
            PatchParams { field_manager: Some("selvedge-agent".into()), ..PatchParams::default() };
        let result = api.patch(&own.name, &parameters, &Patch::Merge(&patch)).await;
        let result = match result {
            Ok(_) => Ok(vec![format!("annotations of Node {}", own.name)]),
            // Somebody changed the Node in between: its new state is on its way here.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        self.parts.settle(Name::Annotations, result);
    }

    fn annotations(&self, own: &OwnNode) -> NodeAnnotations {
        let (keys, key_epoch, created) = self.start.keys.published();
        let sorted = |mut addresses: Vec<IpAddr>| {
            addresses.sort();
            addresses.dedup();
            addresses
        };
        let mut pod_cidrs = own.pod_cidrs.clone();
        pod_cidrs.sort();
        NodeAnnotations {
            keys,
            next_keys: None,
            key_epoch,
            key_created: Some(created),
            endpoints: endpoints(&self.start.config, own),
            pod_cidrs,
            node_addresses: sorted(own.internal.clone()),
            location: self.start.config.location.clone(),
            features: Vec::new(),
        }
    }
}

/// Where other nodes may reach this one: as configured, else its internal, then its external addresses.
fn endpoints(config: &Config, own: &OwnNode) -> Vec<SocketAddr> {
    if !config.endpoints.is_empty() {
        return config.endpoints.clone();
    }
    let ranges = config.ranges();
    let mut endpoints = Vec::new();
    for address in own.internal.iter().chain(&own.external) {
        let endpoint = SocketAddr::new(*address, config.listen_port);
        let usable = crate::config::range::special(*address).is_none() && !ranges.contains(*address);
        if usable && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}
