//! What speaks against installing.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::discover::Facts;
use super::{Error, absent};
use crate::config::Config;
use crate::manifest::{NAMESPACE, cleanup};

/// DaemonSets of pod networks, and whose they are.
const NETWORKS: [(&str, &str); 12] = [
    ("antrea-agent", "Antrea"),
    ("aws-node", "the AWS VPC CNI"),
    ("azure-cni", "Azure CNI"),
    ("calico-node", "Calico"),
    ("canal", "Canal"),
    ("cilium", "Cilium"),
    ("kindnet", "kind"),
    ("kube-flannel-ds", "Flannel"),
    ("kube-ovn-cni", "Kube-OVN"),
    ("kube-router", "kube-router"),
    ("ovnkube-node", "OVN-Kubernetes"),
    ("weave-net", "Weave Net"),
];

/// One thing that speaks against it, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The sentence.
    pub text: String,
    /// Whether nobody can want it all the same.
    pub fatal: bool,
}

/// Why nothing is installed. `old` is the minor version of a Kubernetes that is too old.
///
/// # Errors
/// When the API server does not tell.
pub async fn look(
    client: &Client,
    facts: &Facts,
    config: &Config,
    old: Option<u32>,
) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    if let Some(minor) = old {
        findings.push(format!(
            "Kubernetes 1.{minor} is older than 1.30, which the admission policy needs: upgrade it"
        ));
    }
    let sets = Api::<DaemonSet>::all(client.clone()).list(&ListParams::default()).await;
    let sets = sets.map_err(|error| Error::call("list the DaemonSets", error))?.items;
    let namespace = absent(Api::<Namespace>::all(client.clone()).get(NAMESPACE).await);
    let namespace = namespace.map_err(|error| Error::call(format!("get Namespace {NAMESPACE}"), error))?;
    findings.extend(networks(&sets));
    findings.extend(ranges(facts, config));
    let mut findings: Vec<_> = findings.into_iter().map(|text| Finding { text, fatal: false }).collect();
    let fatal = uninstalling(&sets, namespace.as_ref()).map(|text| Finding { text, fatal: true });
    findings.extend(fatal);
    Ok(findings)
}

fn uninstalling(sets: &[DaemonSet], namespace: Option<&Namespace>) -> Option<String> {
    let ours =
        |set: &&DaemonSet| set.namespace().as_deref() == Some(NAMESPACE) && set.name_any() == cleanup::NAME;
    let going = namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
    (going || sets.iter().any(|set| ours(&set))).then(|| {
        "Selvedge is being uninstalled here, which would take it off again: let `selvedge uninstall --yes` end first"
            .into()
    })
}

fn networks(sets: &[DaemonSet]) -> Vec<String> {
    let known = |set: &DaemonSet| NETWORKS.iter().find(|(name, _)| *name == set.name_any());
    let found = sets.iter().filter_map(|set| known(set).map(|(_, whose)| (set, whose)));
    found
        .map(|(set, whose)| {
            format!(
                "there is another pod network, {whose}: DaemonSet {}/{}. Remove it and what it left in /etc/cni/net.d \
                 of the nodes",
                set.namespace().unwrap_or_default(),
                set.name_any()
            )
        })
        .collect()
}

fn ranges(facts: &Facts, config: &Config) -> Vec<String> {
    let outside = facts.outside(&config.cluster_pod_cidrs).into_iter().map(|(node, net)| {
        format!(
            "Node {node} has the pod CIDR {net}, which is in none of the cluster's: it would be refused. Give all of \
             them with --cluster-pod-cidr, or in clusterPodCIDRs"
        )
    });
    let without = facts.without_pod_cidrs();
    let without = (!without.is_empty() && without.len() == facts.nodes.len()).then(|| {
        "no Node has spec.podCIDRs, and without it pods get no addresses: run kube-controller-manager with \
         --allocate-node-cidrs and --cluster-cidr (kubeadm: networking.podSubnet)"
            .to_owned()
    });
    outside.chain(without).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(namespace: &str, name: &str) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}})).unwrap()
    }

    #[test]
    fn another_network_is_named_and_strangers_are_not() {
        let findings = networks(&[set("kube-system", "kube-proxy"), set("kube-flannel", "kube-flannel-ds")]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].contains("Flannel: DaemonSet kube-flannel/kube-flannel-ds"), "{findings:?}");
    }

    #[test]
    fn an_uninstall_under_way_is_seen() {
        assert!(uninstalling(&[set(NAMESPACE, "selvedge-agent")], None).is_none());
        assert!(uninstalling(&[set(NAMESPACE, cleanup::NAME)], None).is_some());
        let going = json!({"metadata": {"name": NAMESPACE, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(uninstalling(&[], Some(&serde_json::from_value(going).unwrap())).is_some());
    }
}
