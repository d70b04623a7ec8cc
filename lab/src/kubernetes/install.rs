//! Selvedge as it is shipped: `selvedge install` with the values of this cluster, and CoreDNS beside it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use selvedge::manifest::default_image;
use serde_json::json;

use super::assets::PREVIOUS_IMAGE;
use super::{Kubernetes, dns_addresses, said};
use crate::error::{Doing as _, Error};
use crate::plan::Plan;

/// Image of containers that do nothing.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.15.0";
/// Key of the taint that nodes begin with.
pub const TAINT: &str = "selvedge.dev/not-ready";
const CONDITION: &str = "NetworkUnavailable";
/// How long the nodes may take to be ready.
const INSTALL: &str = "3m";
/// What tells why Selvedge is not ready.
pub(super) const LOGS: [&[&str]; 4] = [
    &["get", "nodes,pods", "--all-namespaces", "-o", "wide"],
    &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"],
    &["logs", "--namespace=selvedge-system", "--selector=app.kubernetes.io/component=tunnel", "--tail=20"],
    &["logs", "--namespace=selvedge-system", "--selector=app.kubernetes.io/component=agent", "--tail=20"],
];

impl Kubernetes {
    /// Installs Selvedge, then CoreDNS, and waits until the nodes and these are ready.
    pub fn install(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
        // As clouds do it.
        let unavailable = json!([{"type": CONDITION, "status": "True", "reason": "NoRouteCreated"}]);
        let patch = json!({"status": {"conditions": unavailable}}).to_string();
        for node in self.node_names() {
            self.kubectl(&["patch", "node", &node, "--subresource=status", "--patch", &patch])?;
        }
        self.before = Some(self.doctor(&self.node_names()[0])?);
        progress("selvedge install, which waits until the nodes are ready because of our CNI plugin");
        std::fs::write(self.config(), configuration(self.world.plan(), self.has_kube_proxy()))
            .doing("write the configuration")?;
        let first = if self.options.assets.previous.is_some() { Version::Previous } else { Version::Ours };
        self.install_version(first)?;
        self.wait("every node to admit pods", |cluster| {
            let nodes = cluster.client.list::<Node>("/api/v1/nodes")?;
            Ok(nodes.iter().all(admits_pods))
        })?;
        progress("starting CoreDNS");
        let manifest = self.options.folder.join("coredns.json");
        std::fs::write(&manifest, coredns(self.world.plan())).doing("write CoreDNS's manifest")?;
        self.kubectl(&["apply", "--server-side", "--filename", &manifest.display().to_string()])?;
        let rollout = self.kubectl(&[
            "rollout",
            "status",
            "--timeout=120s",
            "--namespace=kube-system",
            "deployment/coredns",
        ]);
        rollout.map_err(|error| Error::new(error.what, format!("{}\n{}", error.why, self.logs())))?;
        Ok(())
    }

    /// Whether the cluster began with another Selvedge.
    #[must_use]
    pub fn has_previous(&self) -> bool {
        self.options.assets.previous.is_some()
    }

    /// Installs a version, over whatever is installed, and waits until all nodes run it and are ready.
    pub fn install_version(&self, version: Version) -> Result<(), Error> {
        let (binary, image) = match (version, &self.options.assets.previous) {
            (Version::Previous, Some(previous)) => (&previous.binary, PREVIOUS_IMAGE.to_owned()),
            _ => (&self.options.binary, default_image()),
        };
        let config = self.config();
        let mut install = Command::new(binary);
        install.args(["install", "--timeout", INSTALL, "--image", &image, "--config"]).arg(&config);
        if !self.is_kube_proxy_everywhere() {
            install.arg("--api-server").arg(self.api_url().trim_start_matches("https://"));
        }
        let said = said("selvedge install", install.arg("--kubeconfig").arg(self.kubeconfig()));
        said.map_err(|error| Error::new(error.what, format!("{}\n{}", error.why, self.logs())))?;
        // What was before may take its time to end.
        self.wait(&format!("{image} alone to run"), |cluster| {
            let pods = cluster.client.list::<Pod>("/api/v1/namespaces/selvedge-system/pods")?;
            let containers = pods.iter().flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers));
            let mut images = containers.map(|container| container.image.as_deref());
            Ok(!pods.is_empty() && images.all(|running| running == Some(&image)))
        })
    }

    fn config(&self) -> PathBuf {
        self.options.folder.join("config.toml")
    }
}

/// Which Selvedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// That of this project.
    Ours,
    /// The one that the cluster began with.
    Previous,
}

/// Neither the condition nor the taint of a new node is left.
fn admits_pods(node: &Node) -> bool {
    has(node, CONDITION, "False") && !is_tainted(node)
}

/// It is ready, and the taint that it registered with is gone.
pub(super) fn takes_pods(node: &Node) -> bool {
    has(node, "Ready", "True") && !is_tainted(node)
}

fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == TAINT)
}

fn has(node: &Node, condition: &str, status: &str) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|found| found.type_ == condition && found.status == status)
}

fn configuration(plan: &Plan, kube_proxy: bool) -> String {
    let list = |nets: Vec<IpNet>| {
        let quoted: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    format!(
        "clusterPodCIDRs = {}\nserviceCIDRs = {}\ntrustedSources = {}\ndatapath = \"{}\"\nservices = \"{}\"\n\
         nodePortAddresses = [\"primary\", \"localhost\"]\n",
        list(plan.cluster_pod_cidrs()),
        list(plan.service_cidrs()),
        list(plan.trusted_sources().into_iter().map(IpNet::from).collect()),
        plan.datapath,
        if kube_proxy { "auto" } else { "on" }
    )
}

/// CoreDNS for the names of this cluster alone: there is no other DNS here to forward to.
fn coredns(plan: &Plan) -> String {
    let addresses: Vec<String> = dns_addresses(plan).iter().map(IpAddr::to_string).collect();
    let families: Vec<&str> =
        dns_addresses(plan).iter().map(|address| if address.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let named = |name: &str| json!({"name": name, "namespace": "kube-system"});
    let labels = json!({"k8s-app": "kube-dns"});
    let corefile = ".:53 {\n  errors\n  health\n  ready\n  kubernetes cluster.local in-addr.arpa ip6.arpa {\n    \
                    pods insecure\n    fallthrough in-addr.arpa ip6.arpa\n    ttl 5\n  }\n  loop\n  loadbalance\n}\n";
    let ports = [("dns", "UDP"), ("dns-tcp", "TCP")].map(|(name, protocol)| (name, protocol));
    let container_ports =
        ports.map(|(name, protocol)| json!({"name": name, "protocol": protocol, "containerPort": 53}));
    let service_ports = ports.map(|(name, protocol)| json!({"name": name, "protocol": protocol, "port": 53}));
    let rules = json!([
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]);
    let pod = json!({
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "coredns", "image": COREDNS, "imagePullPolicy": "Never",
            "args": ["-conf", "/etc/coredns/Corefile"],
            "ports": container_ports,
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": true}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    });
    let items = json!([
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("coredns")},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"}, "rules": rules},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}]},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named("coredns"), "data": {"Corefile": corefile}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named("coredns"),
            "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": named("kube-dns"),
            "spec": {"selector": labels, "clusterIPs": addresses, "clusterIP": addresses.first(),
                "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                "ipFamilies": families, "ports": service_ports}},
    ]);
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
