//! This node's annotations.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{PartialObjectMeta, Patch, PatchParams};

use super::{Reconciler, in_time};
use crate::agent::parts::Name;
use crate::config::{ClusterRanges, Config, range};
use crate::mesh::annotation::{MAX_ENDPOINTS, MAX_NODE_ADDRESSES, NodeAnnotations, merge_patch, render};
use crate::mesh::node_object::OwnNode;
use crate::mesh::resolve::endpoint_problem;

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
        let written = async {
            match api.patch(&own.name, &parameters, &Patch::Merge(&patch)).await {
                Ok(_) => Ok(vec![format!("annotations of Node {}", own.name)]),
                // Somebody changed the Node in between: its new state is on its way here.
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        let result = in_time(written).await;
        self.parts.settle(Name::Annotations, result);
    }

    fn annotations(&self, own: &OwnNode) -> NodeAnnotations {
        let (keys, key_epoch, created) = self.start.keys.published();
        let mut pod_cidrs = own.pod_cidrs.clone();
        pod_cidrs.sort();
        NodeAnnotations {
            keys,
            next_keys: None,
            key_epoch,
            key_created: Some(created),
            endpoints: endpoints(&self.start.config, own),
            pod_cidrs,
            node_addresses: node_addresses(&self.start.config.ranges(), own),
            location: self.start.config.location.clone(),
            features: Vec::new(),
        }
    }
}

/// This node's addresses, without those that other nodes would refuse.
fn node_addresses(ranges: &ClusterRanges, own: &OwnNode) -> Vec<IpAddr> {
    let usable = |address: &&IpAddr| range::special(**address).is_none() && !ranges.contains(**address);
    let mut addresses: Vec<IpAddr> = own.internal.iter().filter(usable).copied().collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MAX_NODE_ADDRESSES);
    addresses
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
        if endpoint_problem(&ranges, endpoint).is_none() && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_published_that_other_nodes_would_refuse() {
        let ranges = ClusterRanges {
            pods: vec!["10.244.0.0/16".parse().unwrap()],
            services: vec!["10.96.0.0/16".parse().unwrap()],
        };
        let addresses =
            ["172.31.1.2", "127.0.0.1", "fe80::1", "10.244.0.1", "10.96.0.1", "172.31.1.2", "fd00::2"];
        let internal = addresses.map(|address| address.parse().unwrap()).to_vec();
        let own = OwnNode { internal, ..OwnNode::default() };
        let expected: Vec<IpAddr> = vec!["172.31.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(node_addresses(&ranges, &own), expected);
    }
}
