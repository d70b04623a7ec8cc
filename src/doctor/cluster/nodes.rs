//! Nodes without pod CIDRs: their pods get no addresses.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

use super::super::finding::{Finding, some};
use crate::mesh::annotation::PUBLIC_KEY;

pub(super) const CHECK: &str = "nodes";

/// Whether an agent has been on it.
pub(super) fn is_member(node: &Node) -> bool {
    node.annotations().contains_key(PUBLIC_KEY)
}

/// `spec.podCIDRs`, or the older `spec.podCIDR`.
pub(super) fn pod_cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    spec.pod_cidrs.clone().or_else(|| spec.pod_cidr.clone().map(|cidr| vec![cidr])).unwrap_or_default()
}

/// The first few names, and how many more there are.
pub(super) fn names(nodes: &[&Node]) -> String {
    some(nodes.iter().map(|node| node.name_any()))
}

pub(super) fn judge(nodes: &[Node]) -> Finding {
    let without: Vec<&Node> = nodes.iter().filter(|node| pod_cidrs(node).is_empty()).collect();
    if without.is_empty() {
        let members = nodes.iter().filter(|node| is_member(node)).count();
        return Finding::ok(
            CHECK,
            format!("{} Nodes, all with pod CIDRs; {members} are members", nodes.len()),
        );
    }
    Finding::problem(
        CHECK,
        format!("Nodes without spec.podCIDRs: {}", names(&without)),
        "run kube-controller-manager with --allocate-node-cidrs=true and --cluster-cidr (kubeadm: \
         --pod-network-cidr), or have what gives out pod CIDRs give them some",
    )
}

/// Without its Node a node gets no pod CIDRs, and can publish nothing.
pub(super) fn missing(nodes: &[Node], name: &str) -> Option<Finding> {
    let remedy = "set nodeName to the name that `kubectl get nodes` shows for this node, or let its kubelet join first";
    let there = nodes.iter().any(|node| node.name_any() == name);
    (!there).then(|| Finding::problem(CHECK, format!("there is no Node {name}"), remedy))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::super::finding::Severity;
    use super::*;

    pub(crate) fn node(name: &str, cidrs: &[&str]) -> Node {
        let spec =
            if cidrs.is_empty() { serde_json::json!({}) } else { serde_json::json!({"podCIDRs": cidrs}) };
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    #[test]
    fn nodes_without_pod_cidrs_are_named() {
        let mut nodes = vec![node("a", &["10.244.0.0/24"])];
        assert_eq!(judge(&nodes).severity, Severity::Ok);
        nodes.extend(["b", "c", "d", "e", "f", "g", "h"].map(|name| node(name, &[])));
        let finding = judge(&nodes);
        assert_eq!(finding.severity, Severity::Problem);
        assert_eq!(finding.seen, "Nodes without spec.podCIDRs: b, c, d, e, f, and 2 more");
    }

    #[test]
    fn a_node_has_to_have_its_node() {
        let nodes = [node("a", &[]), node("b", &[])];
        assert_eq!(missing(&nodes, "b"), None);
        let finding = missing(&nodes, "b.example").unwrap();
        assert_eq!(
            (finding.severity, finding.seen.as_str()),
            (Severity::Problem, "there is no Node b.example")
        );
    }
}
