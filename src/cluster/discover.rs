//! What a cluster says of itself: its ranges and how it was made. Each answer comes with the place that it is from.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use super::{Error, absent, code};
use crate::manifest::Distribution;

/// Where control planes have their own things.
const SYSTEM: &str = "kube-system";
/// Annotation with the command line of k3s, a JSON list.
const K3S_ARGS: &str = "k3s.io/node-args";
/// What k3s takes when it is not told.
const K3S_PODS: &str = "10.42.0.0/16";
const K3S_SERVICES: &str = "10.43.0.0/16";
/// The object that an API server makes of `--service-cluster-ip-range`.
const FIRST_SERVICE_CIDR: &str = "kubernetes";

/// All that is looked at.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The Nodes.
    pub nodes: Vec<Node>,
    /// ServiceCIDR objects, which Kubernetes has from 1.33 on.
    pub service_cidrs: Vec<ServiceCIDR>,
    /// kubeadm's configuration of the cluster, as YAML.
    pub kubeadm: Option<String>,
    /// kube-proxy's configuration, as YAML.
    pub kube_proxy: Option<String>,
    /// Control planes that run as pods.
    pub pods: Vec<Pod>,
}

/// Prefixes, and what they were read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Of both families.
    pub cidrs: Vec<IpNet>,
    /// The place.
    pub from: String,
}

impl Found {
    /// What of it lies in none of `ranges`.
    #[must_use]
    pub fn outside(&self, ranges: &[IpNet]) -> Vec<IpNet> {
        // Neighbours hold together what neither holds alone.
        let ranges = IpNet::aggregate(&ranges.to_vec());
        self.cidrs.iter().filter(|net| !ranges.iter().any(|range| range.contains(*net))).copied().collect()
    }
}

impl Facts {
    /// Asks for all of it. What the operator may not see counts as not there.
    ///
    /// # Errors
    /// When the Nodes cannot be listed, or nobody answers.
    pub async fn fetch(client: &Client) -> Result<Self, Error> {
        let all = ListParams::default();
        let nodes = Api::<Node>::all(client.clone()).list(&all).await;
        let nodes = nodes.map_err(|error| Error::call("list the Nodes", error))?.items;
        let services = seen(Api::<ServiceCIDR>::all(client.clone()).list(&all).await, "list ServiceCIDRs")?;
        let maps = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM);
        let kubeadm = seen(maps.get("kubeadm-config").await, "get the ConfigMap kubeadm-config")?;
        let proxy = seen(maps.get("kube-proxy").await, "get the ConfigMap kube-proxy")?;
        let components =
            ListParams::default().labels("component in (kube-controller-manager,kube-apiserver)");
        let pods = Api::<Pod>::namespaced(client.clone(), SYSTEM).list(&components).await;
        let pods = seen(pods, "list the pods of the control plane")?;
        Ok(Self {
            nodes,
            service_cidrs: services.map(|list| list.items).unwrap_or_default(),
            kubeadm: kubeadm.and_then(|map| entry(map, "ClusterConfiguration")),
            kube_proxy: proxy.and_then(|map| entry(map, "config.conf")),
            pods: pods.map(|list| list.items).unwrap_or_default(),
        })
    }

    /// How the cluster was made, if its Nodes tell; kubeadm is what is like all that does not.
    #[must_use]
    pub fn distribution(&self) -> (Distribution, &'static str) {
        let provider = |start: &str| {
            let ids = self.nodes.iter().filter_map(|node| node.spec.as_ref()?.provider_id.as_deref());
            ids.into_iter().any(|id| id.starts_with(start))
        };
        if self.is_k3s() {
            (Distribution::K3s, "the version of the Nodes' kubelets")
        } else if provider("kind://") {
            (Distribution::Kind, "the provider of the Nodes")
        } else if ["aws://", "azure://", "gce://"].into_iter().any(provider) && self.pods.is_empty() {
            (Distribution::Managed, "the provider of the Nodes, and a control plane that is not to be seen")
        } else {
            (Distribution::Kubeadm, "nothing that speaks for another")
        }
    }

    /// Every pod address of the cluster.
    #[must_use]
    pub fn pod_cidrs(&self) -> Option<Found> {
        let given = || {
            let flags = self.flag("kube-controller-manager", "cluster-cidr");
            flags.or_else(|| self.k3s("cluster-cidr", K3S_PODS))
        };
        from_yaml(
            self.kubeadm.as_deref(),
            "/networking/podSubnet",
            "podSubnet of the ConfigMap kubeadm-config",
        )
        .or_else(given)
        .or_else(|| {
            from_yaml(self.kube_proxy.as_deref(), "/clusterCIDR", "clusterCIDR of the ConfigMap kube-proxy")
        })
    }

    /// Every Service address of the cluster. ServiceCIDRs come first, because ranges may have been added by them.
    #[must_use]
    pub fn service_cidrs(&self) -> Option<Found> {
        self.services(|_| true)
    }

    /// Those that the cluster has had from its start. Agents learn of others by themselves.
    #[must_use]
    pub fn first_service_cidrs(&self) -> Option<Found> {
        self.services(|name| name == FIRST_SERVICE_CIDR)
    }

    fn services(&self, counts: impl Fn(&str) -> bool) -> Option<Found> {
        let place = "serviceSubnet of the ConfigMap kubeadm-config";
        self.service_objects(counts)
            .or_else(|| from_yaml(self.kubeadm.as_deref(), "/networking/serviceSubnet", place))
            .or_else(|| self.flag("kube-apiserver", "service-cluster-ip-range"))
            .or_else(|| self.flag("kube-controller-manager", "service-cluster-ip-range"))
            .or_else(|| self.k3s("service-cidr", K3S_SERVICES))
    }

    /// Nodes whose pod CIDRs lie outside of `cidrs`, with these; their agents would be refused.
    #[must_use]
    pub fn outside(&self, cidrs: &[IpNet]) -> Vec<(String, IpNet)> {
        let inside = |net: &IpNet| cidrs.iter().any(|range| range.contains(net));
        let each =
            self.nodes.iter().flat_map(|node| pod_cidrs(node).into_iter().map(|net| (node.name_any(), net)));
        each.filter(|(_, net)| !inside(net)).collect()
    }

    /// Nodes that have no pod CIDRs.
    #[must_use]
    pub fn without_pod_cidrs(&self) -> Vec<String> {
        let without = self.nodes.iter().filter(|node| pod_cidrs(node).is_empty());
        without.map(|node| node.name_any()).collect()
    }

    fn is_k3s(&self) -> bool {
        let versions = self.nodes.iter().filter_map(|node| node.status.as_ref()?.node_info.as_ref());
        versions.into_iter().any(|info| info.kubelet_version.contains("+k3s"))
    }

    fn service_objects(&self, counts: impl Fn(&str) -> bool) -> Option<Found> {
        let objects: Vec<_> = self.service_cidrs.iter().filter(|object| counts(&object.name_any())).collect();
        let specs = objects.iter().filter_map(|object| object.spec.as_ref());
        let cidrs: Vec<IpNet> =
            specs.flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|net| net.parse().ok()).collect();
        let names: Vec<String> = objects.iter().map(|object| object.name_any()).collect();
        found(&cidrs, format!("ServiceCIDR {}", names.join(", ")))
    }

    /// A flag of a part of the control plane, where that runs as a pod.
    fn flag(&self, component: &str, flag: &str) -> Option<Found> {
        let of = self
            .pods
            .iter()
            .filter(|pod| pod.labels().get("component").is_some_and(|name| name == component));
        of.into_iter().find_map(|pod| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let words =
                containers.flat_map(|container| container.command.iter().chain(&container.args).flatten());
            let words: Vec<&str> = words.map(String::as_str).collect();
            found(&list(value(&words, flag)?), format!("--{flag} of the pod {}", pod.name_any()))
        })
    }

    /// As a server of k3s was told, or what k3s takes otherwise.
    fn k3s(&self, flag: &str, default: &str) -> Option<Found> {
        if !self.is_k3s() {
            return None;
        }
        let told = self.nodes.iter().find_map(|node| {
            let words: Vec<String> = serde_json::from_str(node.annotations().get(K3S_ARGS)?).ok()?;
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            found(&list(value(&words, flag)?), format!("--{flag} of k3s on Node {}", node.name_any()))
        });
        told.or_else(|| found(&list(default), "k3s's default".into()))
    }
}

/// What may not be seen is as if it were not there.
fn seen<T>(result: Result<T, kube::Error>, doing: &str) -> Result<Option<T>, Error> {
    match absent(result) {
        Err(error) if code(&error) == Some(403) => Ok(None),
        other => other.map_err(|error| Error::call(doing, error)),
    }
}

fn entry(map: ConfigMap, key: &str) -> Option<String> {
    map.data?.remove(key)
}

fn from_yaml(text: Option<&str>, pointer: &str, place: &str) -> Option<Found> {
    let document: Value = serde_saphyr::from_str(text?).ok()?;
    found(&list(document.pointer(pointer)?.as_str()?), place.into())
}

/// What stands behind `--flag=` or `--flag`.
fn value<'a>(words: &[&'a str], flag: &str) -> Option<&'a str> {
    let name = format!("--{flag}");
    words.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(&*name)? {
        "" => words.get(index + 1).copied(),
        rest => rest.strip_prefix('='),
    })
}

fn list(text: &str) -> Vec<IpNet> {
    text.split(',').filter_map(|net| net.trim().parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// Ranges that overlap, as those of ServiceCIDRs may, become one: a configuration takes none that do.
fn found(cidrs: &[IpNet], from: String) -> Option<Found> {
    let cidrs = IpNet::aggregate(&cidrs.to_vec());
    (!cidrs.is_empty()).then_some(Found { cidrs, from })
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    spec.into_iter().flatten().filter_map(|net| net.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, version: &str, cidr: &str, args: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {K3S_ARGS: args}},
            "spec": {"podCIDRs": if cidr.is_empty() { vec![] } else { vec![cidr] }},
            "status": {"nodeInfo": {
                "kubeletVersion": version, "architecture": "", "bootID": "", "containerRuntimeVersion": "",
                "kernelVersion": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": ""}},
        }))
        .unwrap()
    }

    fn pod(component: &str, command: &[&str]) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{component}-a"), "labels": {"component": component}},
            "spec": {"containers": [{"name": "x", "command": command}]},
        }))
        .unwrap()
    }

    fn told(found: Option<Found>) -> (String, String) {
        let found = found.unwrap();
        (found.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","), found.from)
    }

    #[test]
    fn a_cluster_that_says_nothing_has_no_ranges() {
        let facts = Facts { nodes: vec![node("a", "v1.36.0", "10.244.0.0/24", "")], ..Facts::default() };
        assert_eq!((facts.pod_cidrs(), facts.service_cidrs()), (None, None));
        assert_eq!(facts.distribution().0, Distribution::Kubeadm);
    }

    #[test]
    fn kubeadm_says_both_and_service_cidrs_say_more() {
        let kubeadm = "kind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.1.0.0/16,fd00::/56\n  serviceSubnet: 10.2.0.0/16\n";
        let mut facts = Facts { kubeadm: Some(kubeadm.into()), ..Facts::default() };
        assert_eq!(told(facts.pod_cidrs()).0, "10.1.0.0/16,fd00::/56");
        let services = told(facts.service_cidrs());
        assert_eq!(services.0, "10.2.0.0/16");
        assert!(services.1.contains("kubeadm-config"));
        let object = |name: &str, net: &str| {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": [net]}})).unwrap()
        };
        facts.service_cidrs = vec![object("kubernetes", "10.2.0.0/16"), object("more", "10.3.0.0/24")];
        let services = told(facts.service_cidrs());
        assert_eq!(services, ("10.2.0.0/16,10.3.0.0/24".into(), "ServiceCIDR kubernetes, more".into()));
    }

    #[test]
    fn service_cidrs_that_overlap_are_one_range() {
        let object = |name: &str, nets: &[&str]| {
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": nets}})).unwrap()
        };
        let service_cidrs =
            vec![object("a", &["10.2.0.0/16", "fd00::/112"]), object("b", &["10.2.3.0/24", "10.3.0.0/16"])];
        let facts = Facts { service_cidrs, ..Facts::default() };
        let found = facts.service_cidrs().unwrap();
        assert_eq!(told(Some(found.clone())).0, "10.2.0.0/15,fd00::/112");
        let configured = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        assert_eq!(found.outside(&configured(&["10.2.0.0/16", "10.3.0.0/16", "fd00::/112"])), []);
        assert_eq!(found.outside(&configured(&["10.2.0.0/15"])), configured(&["fd00::/112"]));
    }

    #[test]
    fn flags_of_the_control_plane_say_it_in_either_form() {
        let pods = vec![
            pod("kube-apiserver", &["kube-apiserver", "--service-cluster-ip-range=10.9.0.0/16"]),
            pod("kube-controller-manager", &["kube-controller-manager", "--cluster-cidr", "10.8.0.0/16"]),
        ];
        let facts = Facts { pods, ..Facts::default() };
        let from = |name: &str| format!("of the pod {name}-a");
        let pods = told(facts.pod_cidrs());
        assert!(pods.0 == "10.8.0.0/16" && pods.1.ends_with(&from("kube-controller-manager")), "{pods:?}");
        let services = told(facts.service_cidrs());
        assert!(services.0 == "10.9.0.0/16" && services.1.ends_with(&from("kube-apiserver")), "{services:?}");
    }

    #[test]
    fn k3s_is_seen_and_has_defaults() {
        let mut facts =
            Facts { nodes: vec![node("a", "v1.33.1+k3s1", "", "[\"server\"]")], ..Facts::default() };
        assert_eq!(facts.distribution().0, Distribution::K3s);
        assert_eq!(told(facts.pod_cidrs()), (K3S_PODS.into(), "k3s's default".into()));
        facts.nodes = vec![node("a", "v1.33.1+k3s1", "", r#"["server","--cluster-cidr","10.7.0.0/16"]"#)];
        assert_eq!(told(facts.pod_cidrs()).0, "10.7.0.0/16");
        assert_eq!(told(facts.service_cidrs()).0, K3S_SERVICES);
        assert_eq!(facts.without_pod_cidrs(), ["a"]);
    }

    #[test]
    fn nodes_outside_of_the_ranges_are_named() {
        let nodes = vec![node("in", "v1", "10.244.3.0/24", ""), node("out", "v1", "10.1.3.0/24", "")];
        let facts = Facts { nodes, ..Facts::default() };
        let outside = facts.outside(&["10.244.0.0/16".parse().unwrap()]);
        assert_eq!(outside, [("out".into(), "10.1.3.0/24".parse().unwrap())]);
    }
}
