//! Selvedge as it is shipped: `deploy/` applied with the values of this cluster, and CoreDNS beside it.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::{Kubernetes, dns_addresses};
use crate::lab::{Doing as _, Error};
use crate::plan::Plan;

/// Image of containers that do nothing.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10.2";
const COREDNS: &str = "registry.k8s.io/coredns/coredns:v1.15.0";
/// Key of the taint that nodes begin with.
pub const TAINT: &str = "selvedge.dev/not-ready";
const CONDITION: &str = "NetworkUnavailable";
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
        progress("applying Selvedge's manifests");
        let overlay = self.options.folder.join("deploy/overlays/lab");
        write_overlay(&self.options.assets.deploy_folder, &overlay, self.world.plan())
            .doing("write the lab's overlay")?;
        self.kubectl(&["apply", "--server-side", "--kustomize", &overlay.display().to_string()])?;
        progress("waiting for the nodes to be ready, because of our CNI plugin");
        self.wait("every node to be ready", |cluster| {
            let nodes = cluster.client.list::<Node>("/api/v1/nodes")?;
            Ok(nodes.iter().filter(|node| is_ready(node)).count() == cluster.machines.len())
        })?;
        self.wait("every node to admit pods", |cluster| {
            let nodes = cluster.client.list::<Node>("/api/v1/nodes")?;
            Ok(nodes.iter().all(admits_pods))
        })?;
        progress("starting CoreDNS");
        let manifest = self.options.folder.join("coredns.json");
        std::fs::write(&manifest, coredns(self.world.plan())).doing("write CoreDNS's manifest")?;
        self.kubectl(&["apply", "--server-side", "--filename", &manifest.display().to_string()])?;
        for (namespace, what) in [
            ("selvedge-system", "daemonset/selvedge-tunnel"),
            ("selvedge-system", "daemonset/selvedge-agent"),
            ("kube-system", "deployment/coredns"),
        ] {
            let rollout =
                self.kubectl(&["rollout", "status", "--timeout=120s", "--namespace", namespace, what]);
            rollout.map_err(|error| Error::new(error.what, format!("{}\n{}", error.why, self.logs())))?;
        }
        Ok(())
    }
}

fn is_ready(node: &Node) -> bool {
    has(node, "Ready", "True")
}

/// Neither the condition nor the taint of a new node is left.
fn admits_pods(node: &Node) -> bool {
    has(node, CONDITION, "False") && !is_tainted(node)
}

/// It is ready, and the taint that it registered with is gone.
pub(super) fn takes_pods(node: &Node) -> bool {
    is_ready(node) && !is_tainted(node)
}

fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == TAINT)
}

fn has(node: &Node, condition: &str, status: &str) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|found| found.type_ == condition && found.status == status)
}

/// A copy of `deploy/` with one overlay more, which names this cluster's ranges.
fn write_overlay(deploy: &Path, overlay: &Path, plan: &Plan) -> std::io::Result<()> {
    let base = overlay.join("../../base");
    std::fs::create_dir_all(overlay)?;
    std::fs::create_dir_all(&base)?;
    for entry in std::fs::read_dir(deploy.join("base"))?.flatten() {
        std::fs::copy(entry.path(), base.join(entry.file_name()))?;
    }
    std::fs::write(overlay.join("config.toml"), configuration(plan))?;
    std::fs::write(overlay.join("kustomization.yaml"), KUSTOMIZATION)
}

const KUSTOMIZATION: &str = "\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../base]
configMapGenerator:
  - name: selvedge-config
    namespace: selvedge-system
    behavior: replace
    files: [config.toml]
";

fn configuration(plan: &Plan) -> String {
    let list = |nets: Vec<IpNet>| {
        let quoted: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    format!(
        "clusterPodCIDRs = {}\nserviceCIDRs = {}\ntrustedSources = {}\ndatapath = \"{}\"\n",
        list(plan.cluster_pod_cidrs()),
        list(plan.service_cidrs()),
        list(plan.trusted_sources().into_iter().map(IpNet::from).collect()),
        plan.datapath
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
