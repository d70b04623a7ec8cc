//! A whole cluster: underlay, internet, API server, nodes, captures. Everything of it is gone when it is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde_json::{Value, json};

use crate::api::resource::{NODES, PODS};
use crate::api::{self, Deletion, Review, Server as ApiServer, Store, User};
use crate::capture::{Capture, Seen};
use crate::error::{Doing as _, Error};
use crate::kubelet::{Key, Kubelet};
use crate::node::{Node, Parts};
use crate::plan::{API_PORT, Cable, Datapath, Families, Plan};
use crate::process;
use crate::traffic::{Canary, Server};
use crate::underlay::Underlay;
use crate::world::World;

pub use crate::plan::{HOST_PORTS, INTERNET_PORTS, PLAIN_PORT};

const READY: Duration = Duration::from_secs(60);
const POD: Duration = Duration::from_secs(20);

/// How a lab is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// Which families.
    pub families: Families,
    /// How pods are wired.
    pub datapath: Datapath,
    /// Where it keeps its files; an empty folder.
    pub folder: PathBuf,
    /// The product's binary.
    pub binary: PathBuf,
}

impl Options {
    /// Two nodes of both families, `node1` and `node2`.
    #[must_use]
    pub fn pair(folder: &Path, binary: impl Into<PathBuf>) -> Self {
        Self {
            nodes: 2,
            families: Families::Dual,
            datapath: Datapath::default(),
            folder: folder.to_owned(),
            binary: binary.into(),
        }
    }
}

/// A running cluster. Its methods block, and must not be called on a thread of an async runtime.
#[derive(Debug)]
pub struct Lab {
    // In the order in which they have to end.
    kubelets: Vec<Kubelet>,
    nodes: Vec<Arc<Node>>,
    hosts: Vec<Mutex<Option<Server>>>,
    api: Api,
    world: World,
    options: Options,
}

struct Api(ApiServer);

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Lab {
    /// Builds a cluster in the network namespace that the caller is in, which becomes its control plane, and
    /// waits until every node is ready. `progress` is told of each step as it begins.
    pub fn start(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let lab = Self::build(options, progress)?;
        for kubelet in 0..lab.kubelets.len() {
            progress(&format!("waiting for {}", lab.nodes[kubelet].name()));
            lab.wait_ready(kubelet)?;
        }
        Ok(lab)
    }

    /// As [`Lab::start`], without waiting for the nodes.
    pub fn build(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let plan = Plan { datapath: options.datapath, ..Plan::new(options.families, options.nodes) };
        progress("laying the underlay: a router, its cables, the internet");
        let world = World::build(plan)?;
        progress("starting the API server");
        let api = world.runtime().block_on(async { start_api(&plan) })?;
        write_kubeconfig(&api, &options.folder)?;
        let (kubelets, nodes, hosts) = (Vec::new(), Vec::new(), Vec::new());
        let mut lab = Self { kubelets, nodes, hosts, api: Api(api), world, options };
        progress(&format!("starting {} nodes", plan.node_plans().len()));
        for number in 0..plan.node_plans().len() {
            lab.start_node(number)?;
        }
        Ok(lab)
    }

    fn start_node(&mut self, number: usize) -> Result<(), Error> {
        let node = self.plan().node_plans().remove(number);
        let what = format!("start {}", node.name);
        let agent = User::agent(&node.name);
        self.api.0.add_user(agent.clone());
        let url = format!("https://{}", self.plan().api());
        let kubeconfig = self.api.0.kubeconfig(&agent.name, &url);
        let object = node_object(&node.name, &node.pod_cidrs, &node.cable);
        self.store().create(&NODES, object).doing(&what)?;
        let (binary, folder) = (self.options.binary.as_path(), self.options.folder.as_path());
        let parts = Parts { binary, folder, kubeconfig: &kubeconfig, plan: *self.plan() };
        let node = self.runtime().block_on(Node::start(node, &parts, self.underlay())).doing(&what)?;
        let node = Arc::new(node);
        let host = Server::start(node.space().net(), node.name(), &HOST_PORTS, self.canary()).doing(&what)?;
        self.hosts.push(Mutex::new(Some(host)));
        let given = self.world.given().clone();
        given.add(node.fabric_addresses());
        self.kubelets.push(Kubelet::start(node.clone(), self.store().clone(), self.canary().clone(), given));
        self.nodes.push(node);
        Ok(())
    }

    fn wait_ready(&self, number: usize) -> Result<(), Error> {
        let (node, kubelet) = (&self.nodes[number], &self.kubelets[number]);
        let waited = process::wait_for("it to be ready for pods", READY, || kubelet.not_ready().is_none());
        waited.map_err(|why| {
            let last = kubelet.not_ready().unwrap_or_default();
            Error::new(node.name(), format!("{why}; it said: {last}\n{}", logs(node)))
        })
    }

    /// Waits until every node is ready for pods.
    pub fn wait_until_ready(&self) -> Result<(), Error> {
        (0..self.nodes.len()).try_for_each(|number| self.wait_ready(number))
    }

    /// Address plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.world.plan()
    }

    /// How it was asked to be.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What every payload carries.
    #[must_use]
    pub fn canary(&self) -> &Canary {
        self.world.canary()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The API server.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.api.0
    }

    /// The objects of the API server.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        self.api.0.store()
    }

    /// The router and its cables.
    #[must_use]
    pub fn underlay(&self) -> &Underlay {
        self.world.underlay()
    }

    /// The namespace outside.
    #[must_use]
    pub fn internet(&self) -> &NetNs {
        self.world.internet()
    }

    /// The capture of every link.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        self.world.capture()
    }

    /// The kubelet of the node with this index.
    #[must_use]
    pub fn kubelet(&self, number: usize) -> &Kubelet {
        &self.kubelets[number]
    }

    /// For calling what is async, such as [`Node::netlink`].
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        self.world.runtime()
    }

    /// The kubeconfig of an administrator, for programs in the lab's own network namespace.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.options.folder.join("kubeconfig")
    }

    /// Creates a Pod object on a node and waits until it runs; gives its namespace and addresses.
    pub fn create_pod(
        &self,
        name: &str,
        node: &str,
        containers: &[(&str, u16)],
    ) -> Result<(Arc<NetNs>, Vec<IpAddr>), Error> {
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, port)| json!({"name": name, "image": "lab", "ports": [{"containerPort": port}]}))
            .collect();
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": containers}});
        self.store().create(&PODS, pod).doing(format!("create pod {name}"))?;
        self.wait_pod(name)
    }

    /// Waits until a pod of the default namespace runs; gives its namespace and addresses.
    pub fn wait_pod(&self, name: &str) -> Result<(Arc<NetNs>, Vec<IpAddr>), Error> {
        let key = default_namespace(name);
        let mut found = None;
        let waited = process::wait_for("it to run", POD, || {
            found = self.pod(&key);
            found.is_some()
        });
        found.ok_or_else(|| {
            let why = self.kubelets.iter().find_map(|kubelet| kubelet.failure(&key));
            let node = self.store().get(&PODS, &key.0, &key.1).ok();
            let node = node.and_then(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned));
            let node = self.nodes.iter().find(|candidate| Some(candidate.name()) == node.as_deref());
            let why = why.unwrap_or_else(|| "its node says nothing".into());
            let waited = waited.err().unwrap_or_default();
            Error::new(
                format!("pod {name}"),
                format!("{waited}: {why}\n{}", node.map(|n| logs(n)).unwrap_or_default()),
            )
        })
    }

    /// Namespace and addresses of a pod that runs.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<(Arc<NetNs>, Vec<IpAddr>)> {
        self.kubelets.iter().find_map(|kubelet| kubelet.pod(key))
    }

    /// Deletes a Pod of the default namespace and waits until it is gone.
    pub fn delete_pod(&self, name: &str) -> Result<(), Error> {
        let key = default_namespace(name);
        let what = format!("delete pod {name}");
        self.store()
            .delete(&PODS, &key.0, &key.1, &Deletion { grace: 1, ..Deletion::default() })
            .doing(&what)?;
        let gone = || self.store().get(&PODS, &key.0, &key.1).is_err() && self.pod(&key).is_none();
        process::wait_for("it to be gone", POD, gone).doing(what)
    }

    /// Reboots a node: all kernel state and `/run` are gone, the disk stays, pods are started again. With `agent`
    /// false the node comes up without its agent and tunnel.
    pub fn reboot(&self, number: usize, agent: bool) -> Result<(), Error> {
        let node = &self.nodes[number];
        let what = format!("reboot {}", node.name());
        self.runtime().block_on(node.power_off(self.underlay())).doing(&what)?;
        self.kubelets[number].forget();
        let mut host = self.hosts[number].lock().unwrap_or_else(PoisonError::into_inner);
        drop(host.take());
        self.runtime().block_on(node.power_on(self.underlay())).doing(&what)?;
        *host =
            Some(Server::start(node.space().net(), node.name(), &HOST_PORTS, self.canary()).doing(&what)?);
        if agent {
            node.resume();
        }
        Ok(())
    }

    /// Gives a node other addresses on the underlay, in the network and in its Node object.
    pub fn renumber(&self, number: usize, cable: &Cable) -> Result<(), Error> {
        let node = &self.nodes[number];
        let what = format!("renumber {}", node.name());
        self.runtime().block_on(node.renumber(cable.clone(), self.underlay())).doing(&what)?;
        let addresses = json!({"status": {"addresses": node_addresses(node.name(), cable)}});
        self.store().patch(&NODES, "", node.name(), &addresses).doing(what)?;
        Ok(())
    }

    /// Plants frames that must be found, on every link, and tells what each capture has seen since the beginning.
    pub fn plant(&self) -> Result<Vec<Seen>, Error> {
        let spaces: Vec<_> = self.nodes.iter().map(|node| (node.name(), node.space())).collect();
        self.world.plant(|name| spaces.iter().find(|(node, _)| *node == name).map(|(_, space)| space.net()))
    }
}

/// The last lines of what a node's processes have written.
#[must_use]
pub fn logs(node: &Node) -> String {
    const LINES: usize = 15;
    let processes = [("tunnel", &node.tunnel), ("agent", &node.agent), ("ports", &node.ports)];
    let parts = processes.map(|(name, process)| {
        let failure = process.failure().map(|why| format!("cannot be started: {why}\n")).unwrap_or_default();
        format!(
            "--- {} {name}, started {} times, {}\n{failure}{}",
            node.name(),
            process.starts(),
            process.log().display(),
            process::tail(process.log(), LINES)
        )
    });
    parts.join("\n")
}

fn default_namespace(name: &str) -> Key {
    ("default".to_owned(), name.to_owned())
}

fn start_api(plan: &Plan) -> Result<ApiServer, Error> {
    let what = "start the API server";
    let any: IpAddr = match plan.families {
        Families::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        Families::Ipv6 | Families::Dual => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = TcpListener::bind(SocketAddr::new(any, API_PORT)).doing(what)?;
    let addresses = plan.control().addresses();
    let names = addresses.iter().map(IpAddr::to_string).chain(["kubernetes.default.svc".to_owned()]);
    let nodes: Vec<String> = plan.node_plans().into_iter().map(|node| node.name).collect();
    let next = AtomicUsize::new(0);
    let schedule = move |review: &Review<'_>, object: &mut Value| {
        let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
        if review.before.is_none() && review.resource == &PODS && unscheduled {
            let turn = next.fetch_add(1, Ordering::AcqRel) % nodes.len().max(1);
            object["spec"]["nodeName"] = nodes.get(turn).cloned().into();
        }
        Ok(())
    };
    let options = api::Options {
        names: names.collect(),
        graceful_pods: true,
        admission: Some(Arc::new(schedule)),
        ..api::Options::default()
    };
    ApiServer::start(vec![listener], options).doing(what)
}

fn write_kubeconfig(api: &ApiServer, folder: &Path) -> Result<(), Error> {
    let text = api.kubeconfig("admin", &format!("https://127.0.0.1:{API_PORT}"));
    let path = folder.join("kubeconfig");
    std::fs::write(&path, text).doing(format!("write {}", path.display()))
}

fn node_object(name: &str, pod_cidrs: &[ipnet::IpNet], cable: &Cable) -> Value {
    let info = json!({
        "kubeletVersion": "v0.0.0-lab", "osImage": "network namespace", "kernelVersion": kernel(),
        "containerRuntimeVersion": "lab://0", "operatingSystem": "linux", "architecture": std::env::consts::ARCH,
    });
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs},
        "status": {"addresses": node_addresses(name, cable), "nodeInfo": info},
    })
}

fn node_addresses(name: &str, cable: &Cable) -> Value {
    let internal = cable.addresses().into_iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    internal.chain([json!({"type": "Hostname", "address": name})]).collect()
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Time since `start`, for progress lines.
#[must_use]
pub fn elapsed(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}
