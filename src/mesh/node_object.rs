//! This node as its own Node object has it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Taint};

/// Type of the condition that says whether the network of a node is not there yet.
pub const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// The label with a Node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the agent needs of its own Node object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OwnNode {
    /// Name.
    pub name: String,
    /// UID: another one is another node.
    pub uid: String,
    /// For writes that must not overwrite somebody else's.
    pub resource_version: String,
    /// `spec.podCIDRs`; empty until the controller manager has given some.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type `InternalIP`.
    pub internal: Vec<IpAddr>,
    /// `status.addresses` of type `ExternalIP`.
    pub external: Vec<IpAddr>,
    /// `status.daemonEndpoints.kubeletEndpoint.Port`.
    pub kubelet_port: Option<u16>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// It is being deleted.
    pub is_deleted: bool,
    /// Whether the condition of that name is there and not false.
    pub network_unavailable: bool,
}

/// Why a Node object cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnNodeError {
    /// The object lacks what every stored object has.
    #[error("the Node object has no {0}")]
    Missing(&'static str),
    /// A pod CIDR is no CIDR.
    #[error("spec.podCIDRs of Node {node} holds {text:?}, which is no CIDR: {error}")]
    PodCidr {
        /// The node.
        node: String,
        /// The text, cut.
        text: String,
        /// What is wrong with it.
        error: ipnet::AddrParseError,
    },
    /// A pod CIDR lies outside of the cluster's.
    #[error(
        "pod CIDR {cidr} of Node {node} lies outside of clusterPodCIDRs; correct clusterPodCIDRs in the configuration \
         or the controller manager's --cluster-cidr"
    )]
    OutsideCluster {
        /// The node.
        node: String,
        /// The CIDR.
        cidr: IpNet,
    },
}

impl OwnNode {
    /// Reads the Node object.
    ///
    /// # Errors
    /// When it lacks name, UID or resource version, or its pod CIDRs are none or outside `cluster_pod_cidrs`.
    pub fn from_object(node: &Node, cluster_pod_cidrs: &[IpNet]) -> Result<Self, OwnNodeError> {
        let field = |value: &Option<String>, name| value.clone().ok_or(OwnNodeError::Missing(name));
        let name = field(&node.metadata.name, "name")?;
        let pod_cidrs = pod_cidrs(&name, node, cluster_pod_cidrs)?;
        Ok(Self {
            uid: field(&node.metadata.uid, "uid")?,
            resource_version: field(&node.metadata.resource_version, "resourceVersion")?,
            pod_cidrs,
            internal: addresses(node, "InternalIP"),
            external: addresses(node, "ExternalIP"),
            kubelet_port: kubelet_port(node),
            zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned(),
            annotations: node.metadata.annotations.clone().unwrap_or_default(),
            taints: node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            is_deleted: node.metadata.deletion_timestamp.is_some(),
            network_unavailable: network_unavailable(node),
            name,
        })
    }
}

fn kubelet_port(node: &Node) -> Option<u16> {
    let endpoint = node.status.as_ref()?.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?;
    u16::try_from(endpoint.port).ok().filter(|port| *port != 0)
}

fn network_unavailable(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == NETWORK_UNAVAILABLE && condition.status != "False")
}

/// A reference for Events about the Node `name`.
#[must_use]
pub fn reference(name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
        ..ObjectReference::default()
    }
}

/// The pod CIDRs of any Node object, as `spec.podCIDRs` or the older `spec.podCIDR` has them.
///
/// # Errors
/// When one is no CIDR or lies outside `cluster_pod_cidrs`.
pub fn pod_cidrs(name: &str, node: &Node, cluster_pod_cidrs: &[IpNet]) -> Result<Vec<IpNet>, OwnNodeError> {
    let spec = node.spec.as_ref();
    let texts = spec
        .and_then(|spec| spec.pod_cidrs.clone().or_else(|| spec.pod_cidr.clone().map(|cidr| vec![cidr])))
        .unwrap_or_default();
    let parse = |text: &String| {
        let cidr: IpNet = text.parse().map_err(|error| OwnNodeError::PodCidr {
            node: name.into(),
            text: text.chars().take(60).collect(),
            error,
        })?;
        let cidr = cidr.trunc();
        if !cluster_pod_cidrs.iter().any(|cluster| cluster.contains(&cidr)) {
            return Err(OwnNodeError::OutsideCluster { node: name.into(), cidr });
        }
        Ok(cidr)
    };
    texts.iter().map(parse).collect()
}

/// The addresses of one type in `status.addresses` that are IP addresses.
#[must_use]
pub fn addresses(node: &Node, kind: &str) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    all.iter()
        .filter(|address| address.type_ == kind)
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(cidrs: &[&str]) -> Node {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7"},
            "spec": {"podCIDRs": cidrs},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "172.31.1.2"},
                {"type": "Hostname", "address": "a"},
                {"type": "ExternalIP", "address": "2001:db8::1"},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn reads_addresses_and_pod_cidrs() {
        let cluster: Vec<IpNet> = vec!["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()];
        let own = OwnNode::from_object(&node(&["10.244.3.0/24", "fd00:0:0:3::/64"]), &cluster).unwrap();
        assert_eq!(own.internal, ["172.31.1.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(own.external, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(own.pod_cidrs.len(), 2);
    }

    #[test]
    fn the_kubelet_has_the_port_that_the_node_names() {
        let with = |port: i64| {
            let mut object = serde_json::to_value(node(&[])).unwrap();
            object["status"]["daemonEndpoints"] = serde_json::json!({"kubeletEndpoint": {"Port": port}});
            OwnNode::from_object(&serde_json::from_value(object).unwrap(), &[]).unwrap().kubelet_port
        };
        assert_eq!(OwnNode::from_object(&node(&[]), &[]).unwrap().kubelet_port, None);
        assert_eq!([10_255, 0, -1, 70_000].map(with), [Some(10_255), None, None, None]);
    }

    #[test]
    fn the_network_is_unavailable_while_a_condition_says_so() {
        let own = |conditions: serde_json::Value| {
            let mut object = node(&[]);
            let conditions = serde_json::from_value(conditions).unwrap();
            object.status.get_or_insert_default().conditions = Some(conditions);
            OwnNode::from_object(&object, &[]).unwrap().network_unavailable
        };
        let condition = |status| serde_json::json!([{"type": "NetworkUnavailable", "status": status}]);
        assert!(own(condition("True")) && own(condition("Unknown")));
        assert!(!own(condition("False")) && !own(serde_json::json!([{"type": "Ready", "status": "True"}])));
    }

    #[test]
    fn a_node_outside_of_the_cluster_range_is_refused() {
        let cluster: Vec<IpNet> = vec!["10.244.0.0/16".parse().unwrap()];
        for (cidr, part) in [("10.245.0.0/24", "outside"), ("x", "no CIDR"), ("0.0.0.0/0", "outside")] {
            let error = OwnNode::from_object(&node(&[cidr]), &cluster).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
