//! What speaks against installing.

use ipnet::IpNet;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::discover::{Facts, Found};
use super::rollout::not_ready;
use super::{Error, absent, ours};
use crate::config::Config;
use crate::manifest::{AGENT, NAMESPACE, cleanup};
use crate::mesh::annotation::PUBLIC_KEY;

/// What Helm writes on an object of a release.
const RELEASE: &str = "meta.helm.sh/release-name";
/// More Nodes' names than this are no help.
const NAMED: usize = 3;

/// DaemonSets of pod networks, and whose they are.
const NETWORKS: [(&str, &str); 14] = [
    ("anetd", "GKE Dataplane V2"),
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
    ("rke2-canal", "RKE2's Canal"),
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

impl From<String> for Finding {
    fn from(text: String) -> Self {
        Self { text, fatal: false }
    }
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
    match ours(&sets, AGENT) {
        Some(agent) => findings.extend(released(agent)),
        None => findings.extend(ready(&facts.nodes)),
    }
    findings.extend(ranges(facts, config));
    let mut findings: Vec<_> = findings.into_iter().map(Finding::from).collect();
    let fatal = [uninstalling(&sets, namespace.as_ref()), ours::elsewhere(&sets)];
    findings.extend(fatal.into_iter().flatten().map(|text| Finding { text, fatal: true }));
    Ok(findings)
}

fn ours<'a>(sets: &'a [DaemonSet], name: &str) -> Option<&'a DaemonSet> {
    sets.iter().find(|set| set.namespace().as_deref() == Some(NAMESPACE) && set.name_any() == name)
}

/// Helm would take back what it does not know of.
fn released(agent: &DaemonSet) -> Option<String> {
    let release = agent.annotations().get(RELEASE)?;
    Some(format!("Selvedge is the Helm release {release} here: upgrade it with Helm"))
}

/// A kubelet is ready only with a network for pods, whoever made it: some networks have no DaemonSet.
fn ready(nodes: &[Node]) -> Option<String> {
    let is_linux = |node: &&Node| node.labels().get("kubernetes.io/os").is_some_and(|os| os == "linux");
    let is_ready = |node: &&Node| not_ready(node).is_none() && !node.annotations().contains_key(PUBLIC_KEY);
    let nodes = nodes.iter().filter(is_linux).filter(is_ready);
    let names: Vec<String> = nodes.map(|node| node.name_any()).collect();
    let more = names.len().saturating_sub(NAMED);
    (!names.is_empty()).then(|| {
        let mut list = names[..names.len() - more].join(", ");
        if more > 0 {
            list += &format!(" and {more} more");
        }
        format!(
            "ready for pods already: Node {list}. Another network is configured there. Remove it (k3s: \
             --flannel-backend=none --disable-network-policy) and what it left in /etc/cni/net.d of the nodes"
        )
    })
}

fn uninstalling(sets: &[DaemonSet], namespace: Option<&Namespace>) -> Option<String> {
    let going = namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
    (going || ours(sets, cleanup::NAME).is_some()).then(|| {
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
    let told = [
        lacking("clusterPodCIDRs", "--cluster-pod-cidr", &config.cluster_pod_cidrs, facts.pod_cidrs()),
        lacking("serviceCIDRs", "--service-cidr", &config.service_cidrs, facts.first_service_cidrs()),
    ];
    outside.chain(without).chain(told.into_iter().flatten()).collect()
}

/// What is in no range is the internet to Selvedge.
fn lacking(key: &str, flag: &str, configured: &[IpNet], told: Option<Found>) -> Option<String> {
    let told = told?;
    let lacking: Vec<String> = told.outside(configured).iter().map(ToString::to_string).collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "the cluster's {} would be the internet to Selvedge, although {} tells of it: give it with {flag}, or in \
             {key}",
            lacking.join(", "),
            told.from
        )
    })
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

    #[test]
    fn a_node_that_is_ready_without_us_has_another_network() {
        let node = |name: &str, os: &str, ready: &str, annotations: serde_json::Value| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/os": os}, "annotations": annotations},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let mut nodes = vec![
            node("waits", "linux", "False", json!({})),
            node("other", "windows", "True", json!({})),
            node("ours", "linux", "True", json!({PUBLIC_KEY: "k"})),
        ];
        assert_eq!(ready(&nodes), None);
        nodes.extend(["a", "b", "c", "d"].map(|name| node(name, "linux", "True", json!({}))));
        let text = ready(&nodes).unwrap();
        assert!(text.contains("Node a, b, c and 1 more. Another network"), "{text}");
    }

    #[test]
    fn a_release_of_helm_is_for_helm() {
        let mut agent = set(NAMESPACE, AGENT);
        assert_eq!(released(&agent), None);
        agent.annotations_mut().insert(RELEASE.into(), "mesh".into());
        assert!(released(&agent).unwrap().contains("release mesh here: upgrade it with Helm"));
    }

    #[test]
    fn ranges_that_the_cluster_tells_of_have_to_be_given() {
        let kubeadm = "networking: {podSubnet: \"10.1.0.0/16,fd00::/56\", serviceSubnet: 10.2.0.0/16}";
        let facts = Facts { kubeadm: Some(kubeadm.into()), ..Facts::default() };
        let findings = |text: &str| {
            ranges(&facts, &crate::manifest::configuration::parse(std::path::Path::new("x"), text).unwrap())
        };
        let found = findings("clusterPodCIDRs = [\"10.1.0.0/16\"]\nserviceCIDRs = [\"10.2.0.0/17\"]");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("fd00::/56") && found[0].contains("--cluster-pod-cidr"), "{found:?}");
        assert!(found[1].contains("10.2.0.0/16") && found[1].contains("--service-cidr"), "{found:?}");
        let whole = "clusterPodCIDRs = [\"10.1.0.0/16\", \"fd00::/48\"]\n\
                     serviceCIDRs = [\"10.2.0.0/17\", \"10.2.128.0/17\"]";
        assert_eq!(findings(whole), Vec::<String>::new());
        let object = |name: &str, range: &str| {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}})).unwrap()
        };
        let service_cidrs = vec![object("kubernetes", "10.2.0.0/16"), object("more", "10.3.0.0/16")];
        let facts = Facts { service_cidrs, ..Facts::default() };
        let config =
            |text: &str| crate::manifest::configuration::parse(std::path::Path::new("x"), text).unwrap();
        assert_eq!(ranges(&facts, &config(whole)), Vec::<String>::new(), "agents add those of other objects");
        let other = "clusterPodCIDRs = [\"10.1.0.0/16\"]\nserviceCIDRs = [\"10.4.0.0/16\"]";
        assert!(ranges(&facts, &config(other))[0].contains("10.2.0.0/16"));
    }
}
