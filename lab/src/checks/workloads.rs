//! What users of a real Kubernetes do: a Deployment with its pods on every node, reached by address, by Service and by
//! name, from pods, nodes and the internet.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde_json::{Value, json};

use super::{Failed, Report, check};
use crate::kubernetes::Kubernetes;
use crate::plan::Family;

pub(super) const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.66.1";
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a Service may take until all its pods have answered: kube-proxy gathers changes for a second.
const SPREAD: Duration = Duration::from_secs(15);

/// Port of each node that leads to its pod of the Deployment.
const HOST_PORT: u16 = 8089;

type Body<'a> = fn(&Web<'a>, Family) -> Result<String, Failed>;

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn workloads(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let mut web = None;
    check("Deployment on every node", report, || {
        let deployed = Web::deploy(cluster)?;
        let measured = format!("{} pods on {} nodes", deployed.pods.len(), deployed.nodes());
        web = Some(deployed);
        Ok(measured)
    });
    let Some(web) = web else { return };
    let in_each_family: [(&str, Body<'_>); 6] = [
        ("Deployment's pods reach each other", Web::each_other),
        ("ClusterIP from a pod", Web::cluster_ip_from_a_pod),
        ("ClusterIP from a node", Web::cluster_ip_from_a_node),
        ("NodePort from the internet", Web::node_port),
        ("host port from the internet", Web::host_port),
        ("the internet from a container", Web::internet),
    ];
    for (name, body) in in_each_family {
        for family in cluster.world().plan().families.each() {
            check(&format!("{name}, {family}"), report, || body(&web, *family));
        }
    }
    check("Service by name (CoreDNS)", report, || web.by_name("web.default.svc.cluster.local:80"));
    check("API server by name from a pod", report, || web.by_name("kubernetes.default:443"));
    check("kubectl logs", report, || web.logs());
    check("Deployment deleted", report, || web.delete());
}

/// A Deployment of web servers, and its Service.
struct Web<'a> {
    cluster: &'a Kubernetes,
    pods: Vec<Pod>,
    service: Vec<IpAddr>,
    node_port: u16,
}

struct Pod {
    name: String,
    node: String,
    addresses: Vec<IpAddr>,
}

impl<'a> Web<'a> {
    fn deploy(cluster: &'a Kubernetes) -> Result<Self, Failed> {
        let manifest = cluster.folder().join("web.json");
        std::fs::write(&manifest, objects(cluster.node_names().len()).to_string())
            .map_err(|error| Failed(error.to_string()))?;
        cluster.kubectl(&["apply", "--filename", &manifest.display().to_string()])?;
        cluster.kubectl(&["rollout", "status", "--timeout=90s", "deployment/web"])?;
        let pods = get(cluster, &["get", "pods", "--selector=app=web"])?;
        let pods = pods["items"].as_array().into_iter().flatten().map(pod).collect();
        let service = get(cluster, &["get", "service", "web"])?;
        let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        let web = Self {
            cluster,
            pods,
            service: addresses(&service["spec"]["clusterIPs"]),
            node_port: u16::try_from(node_port).map_err(|error| Failed(error.to_string()))?,
        };
        match web.nodes() < cluster.node_names().len() {
            true => Err(Failed(format!("its pods are on {} nodes alone", web.nodes()))),
            false => Ok(web),
        }
    }

    fn nodes(&self) -> usize {
        self.pods.iter().map(|pod| &pod.node).collect::<BTreeSet<_>>().len()
    }

    /// Every pod connects to every pod, by the containers' own program.
    fn each_other(&self, family: Family) -> Result<String, Failed> {
        for from in &self.pods {
            for to in &self.pods {
                self.connect(from, &SocketAddr::new(pick(family, &to.addresses)?, 8080).to_string())?;
            }
        }
        Ok(format!("{} connections", self.pods.len() * self.pods.len()))
    }

    fn cluster_ip_from_a_pod(&self, family: Family) -> Result<String, Failed> {
        for pod in &self.pods {
            self.spread(&self.cluster.pod_namespace(&pod.node, &pod.addresses)?, family)?;
        }
        Ok("each pod met every pod, itself too".into())
    }

    fn cluster_ip_from_a_node(&self, family: Family) -> Result<String, Failed> {
        for name in self.cluster.node_names() {
            let space = self.cluster.node_space(&name).ok_or_else(|| Failed(format!("no node {name}")))?;
            self.spread(space.net(), family)?;
        }
        Ok("each node met every pod".into())
    }

    fn node_port(&self, family: Family) -> Result<String, Failed> {
        for name in self.cluster.node_names() {
            let (addresses, _) = self.cluster.node(&name)?;
            let server = SocketAddr::new(pick(family, &addresses)?, self.node_port);
            self.all_answer(self.cluster.world().internet(), server)?;
        }
        Ok(format!("port {} of each node met every pod", self.node_port))
    }

    fn host_port(&self, family: Family) -> Result<String, Failed> {
        for pod in &self.pods {
            let (addresses, _) = self.cluster.node(&pod.node)?;
            let server = SocketAddr::new(pick(family, &addresses)?, HOST_PORT);
            let name = host_name(self.cluster.world().internet(), server)?;
            if name != pod.name {
                return Err(Failed(format!("{server} was answered by {name}, not by {}", pod.name)));
            }
        }
        Ok(format!("port {HOST_PORT} of each node is its own pod's"))
    }

    fn internet(&self, family: Family) -> Result<String, Failed> {
        let address = pick(family, &self.cluster.world().plan().internet().addresses())?;
        let server = SocketAddr::new(address, crate::plan::INTERNET_PORTS[0]);
        self.pods.iter().try_for_each(|pod| self.connect(pod, &server.to_string()))?;
        Ok(format!("{server} from {} pods", self.pods.len()))
    }

    fn by_name(&self, server: &str) -> Result<String, Failed> {
        self.pods.iter().try_for_each(|pod| self.connect(pod, server))?;
        Ok(format!("{server} from {} pods", self.pods.len()))
    }

    fn logs(&self) -> Result<String, Failed> {
        let first = self.pods.first().ok_or_else(|| Failed("no pod".into()))?;
        let lines = self.cluster.kubectl(&["logs", &first.name])?.lines().count();
        Ok(format!("{lines} lines of {}", first.name))
    }

    fn delete(&self) -> Result<String, Failed> {
        self.cluster.kubectl(&["delete", "--timeout=60s", "deployment/web", "service/web"])?;
        self.cluster.kubectl(&["wait", "--for=delete", "--timeout=60s", "pods", "--selector=app=web"])?;
        Ok(String::from("no pod is left"))
    }

    fn spread(&self, ns: &NetNs, family: Family) -> Result<(), Failed> {
        self.all_answer(ns, SocketAddr::new(pick(family, &self.service)?, 80))
    }

    /// Asks a Service until all its pods have answered.
    fn all_answer(&self, ns: &NetNs, service: SocketAddr) -> Result<(), Failed> {
        let expected: BTreeSet<String> = self.pods.iter().map(|pod| pod.name.clone()).collect();
        let (end, mut names, mut last) = (Instant::now() + SPREAD, BTreeSet::new(), String::new());
        while names != expected {
            match host_name(ns, service) {
                Ok(name) => drop(names.insert(name)),
                Err(failed) => last = failed.0,
            }
            if Instant::now() > end {
                let what = format!("{service} was answered by {names:?}, not by {expected:?} {last}");
                return Err(Failed(what));
            }
        }
        Ok(())
    }

    fn connect(&self, from: &Pod, to: &str) -> Result<(), Failed> {
        let exec = ["exec", &from.name, "--", "/agnhost", "connect", "--timeout=5s", to];
        Ok(self.cluster.kubectl(&exec).map(drop)?)
    }
}

fn objects(replicas: usize) -> Value {
    let labels = json!({"app": "web"});
    let container = json!({
        "name": "web", "image": AGNHOST, "imagePullPolicy": "Never", "args": ["netexec", "--http-port=8080"],
        "ports": [{"containerPort": 8080, "hostPort": HOST_PORT}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
    });
    let spread = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [container], "topologySpreadConstraints": [spread],
                "terminationGracePeriodSeconds": 1,
            }},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {
            "type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "selector": labels,
            "ports": [{"port": 80, "targetPort": 8080}],
        }},
    ]})
}

/// What kubectl prints, as JSON.
pub(super) fn get(cluster: &Kubernetes, args: &[&str]) -> Result<Value, Failed> {
    let text = cluster.kubectl(&[args, &["--output", "json"]].concat())?;
    serde_json::from_str(&text).map_err(|error| Failed(format!("kubectl {}: {error}", args.join(" "))))
}

fn pod(object: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ips = object["status"]["podIPs"].as_array().into_iter().flatten();
    Pod {
        name: text(&object["metadata"]["name"]),
        node: text(&object["spec"]["nodeName"]),
        addresses: ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect(),
    }
}

pub(super) fn addresses(list: &Value) -> Vec<IpAddr> {
    list.as_array().into_iter().flatten().filter_map(|address| address.as_str()?.parse().ok()).collect()
}

pub(super) fn pick(family: Family, addresses: &[IpAddr]) -> Result<IpAddr, Failed> {
    family.pick(addresses).ok_or_else(|| Failed(format!("no {family} address among {addresses:?}")))
}

/// The name of the pod that answers.
pub(super) fn host_name(ns: &NetNs, server: SocketAddr) -> Result<String, Failed> {
    let failed = |error: std::io::Error| Failed(format!("ask {server}: {error}"));
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ns.run(ask).map_err(|error| Failed(error.to_string()))?.map_err(failed)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned());
    body.filter(|name| !name.is_empty()).ok_or_else(|| Failed(format!("{server} answered {answer:?}")))
}
