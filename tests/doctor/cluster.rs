//! A node with a cluster to ask.

use selvedge_lab::api::resource::{CONFIG_MAPS, NAMESPACES, NODES, PODS};
use selvedge_lab::api::{Options, Server};
use selvedge_lab::isolated;
use serde_json::json;

use crate::host::{Host, NO_POLICIES, expect};

/// An API server, and a kubeconfig for it in the host's root.
struct Cluster {
    server: Server,
    kubeconfig: String,
    _runtime: tokio::runtime::Runtime,
}

impl Cluster {
    fn new(host: &Host) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let server = runtime.block_on(async { Server::start(vec![listener], Options::default()) }).unwrap();
        host.write("/kubeconfig", &server.kubeconfig("admin", &url));
        let kubeconfig = host.path("/kubeconfig").to_str().unwrap().to_owned();
        // It may be there from the start.
        let _ = server.store().create(&NAMESPACES, json!({"metadata": {"name": "kube-system"}}));
        Self { server, kubeconfig, _runtime: runtime }
    }

    fn node(&self, name: &str, spec: &serde_json::Value, annotations: &serde_json::Value) {
        let node = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
        self.server.store().create(&NODES, node).unwrap();
    }

    fn control_plane(&self) {
        let command = [
            "kube-controller-manager",
            "--cluster-cidr=10.244.0.0/16",
            "--service-cluster-ip-range=10.96.0.0/12",
        ];
        let pod = json!({
            "metadata": {
                "name": "kube-controller-manager-cp", "namespace": "kube-system",
                "labels": {"component": "kube-controller-manager"},
            },
            "spec": {"containers": [{"name": "c", "command": command}]},
        });
        self.server.store().create(&PODS, pod).unwrap();
    }
}

#[test]
fn ranges_are_offered_before_there_is_a_configuration_and_compared_after() {
    isolated!(|| {
        let host = Host::new();
        let cluster = Cluster::new(&host);
        cluster.node("n1", &json!({"podCIDRs": ["10.244.0.0/24"]}), &json!({}));
        cluster.control_plane();
        let options = ["--kubeconfig", &cluster.kubeconfig];
        let (report, exit) = host.doctor(&options);
        assert_eq!(exit, 0, "{report:#}");
        let suggested = report["suggestedConfig"].as_str().unwrap();
        assert_eq!(suggested, "clusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\n");
        expect(&report, "nodes", &[("ok", "1 Nodes, all with pod CIDRs")]);
        expect(&report, "rbac", &[("skipped", "--as-agent")]);

        // What is offered is taken.
        host.write("/etc/selvedge/config.toml", &format!("nodeName = \"n1\"\n{suggested}"));
        let (report, exit) = host.doctor(&options);
        expect(&report, "cluster-ranges", &[("ok", "are the cluster's")]);
        expect(&report, "config", &[("ok", "valid for node n1")]);
        assert_eq!(exit, 0, "{report:#}");
    });
}

#[test]
fn what_the_cluster_lacks_is_named() {
    isolated!(|| {
        let host = Host::new();
        let cluster = Cluster::new(&host);
        cluster.node("n1", &json!({}), &json!({"selvedge.dev/public-key": "x"}));
        cluster.node("n2", &json!({"podCIDRs": ["10.250.0.0/24"]}), &json!({}));
        let kubeadm = "networking:\n  podSubnet: 10.250.0.0/16\n  serviceSubnet: 10.96.0.0/12\n";
        let map = json!({
            "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
            "data": {"ClusterConfiguration": kubeadm},
        });
        cluster.server.store().create(&CONFIG_MAPS, map).unwrap();
        let config =
            "nodeName = \"n1\"\nclusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\n";
        host.write("/etc/selvedge/config.toml", config);
        let (report, exit) = host.doctor(&["--kubeconfig", &cluster.kubeconfig]);
        assert_eq!(exit, 3);
        expect(&report, "nodes", &[("problem", "Nodes without spec.podCIDRs: n1")]);
        let lacks =
            ("problem", "clusterPodCIDRs lacks 10.250.0.0/16 of podSubnet of the ConfigMap kubeadm-config");
        expect(&report, "cluster-ranges", &[lacks, ("problem", "outside of clusterPodCIDRs: Nodes n2")]);
        expect(&report, "admission", &NO_POLICIES);
    });
}

#[test]
fn an_api_server_that_was_named_has_to_answer() {
    isolated!(|| {
        let host = Host::new();
        let cluster = Cluster::new(&host);
        let (kubeconfig, _) = (cluster.kubeconfig.clone(), drop(cluster));
        let (report, exit) = host.doctor(&["--kubeconfig", &kubeconfig]);
        expect(&report, "cluster", &[("problem", "cannot be reached")]);
        assert_eq!(exit, 3);
        let (report, exit) = host.doctor(&[]);
        expect(&report, "cluster", &[("skipped", "no Kubernetes API is configured")]);
        assert_eq!(exit, 0);
    });
}
