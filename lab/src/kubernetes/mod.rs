//! A real Kubernetes on one machine: etcd, API server, controllers, scheduler, and nodes with their own containerd,
//! kubelet, if wanted kube-proxy, with Selvedge as it is shipped. The underlay, the internet and the captures are those of
//! every lab. It needs root, for control groups and overlay mounts.

mod assets;
mod client;
mod control_plane;
mod crowd;
mod fault;
mod install;
mod machine;
mod obstacle;
mod pki;
mod static_pod;
mod token;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use selvedge::kernel::netns::NetNs;
use serde_json::{Value, json};

pub use assets::{Assets, Error as AssetsError, Previous};
use client::Client;
use control_plane::ControlPlane;
pub use fault::Starved;
pub use install::{PAUSE, TAINT, Version};
use machine::{Machine, Site};
pub use obstacle::{Obstacle, Obstructed};
use pki::Authority;
pub use static_pod::StaticPod;
pub use token::Replacement;

use crate::capture::Seen;
use crate::error::{Doing as _, Error};
use crate::plan::{API_PORT, Datapath, Families, HOST_PORTS, NodePlan, OUTSIDE_NAME, Plan};
use crate::process::{self, Process};
use crate::space::Space;
use crate::traffic::Server;
use crate::world::World;

/// How long each step of starting may take: this machine may be busy with other things.
const READY: Duration = Duration::from_secs(180);
const POD: Duration = Duration::from_secs(90);
/// Pause between questions to the API server.
const LOOK: Duration = Duration::from_millis(100);
const PODS: &str = "/api/v1/namespaces/default/pods";

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes; the control plane runs on the first unless it is outside.
    pub nodes: usize,
    /// How pods are wired.
    pub datapath: Datapath,
    /// The control plane is on a machine of its own, which is no node.
    pub outside: bool,
    /// kube-proxy runs, and Selvedge serves Services where it does not.
    pub kube_proxy: Option<KubeProxy>,
    /// Where it keeps its files; an empty folder, on a file system that overlay mounts can lie on.
    pub folder: PathBuf,
    /// What it is made of.
    pub assets: Assets,
    /// The program that installs Selvedge; what is installed is the image's.
    pub binary: PathBuf,
}

/// How kube-proxy is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KubeProxy {
    /// In this mode.
    pub mode: ProxyMode,
    /// On so many nodes, the last ones.
    pub nodes: usize,
}

/// A mode of kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ProxyMode {
    /// Rules in nftables.
    Nftables,
    /// Rules in iptables; here iptables-nft.
    Iptables,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// A running cluster. Its methods block, and must not be called on a thread of an async runtime.
pub struct Kubernetes {
    // In the order in which they have to end.
    client: Client,
    hosts: Vec<Server>,
    machines: Vec<Machine>,
    control_plane: ControlPlane,
    /// Name and namespaces of the machine that it is on.
    control_machine: (String, Arc<Space>),
    world: World,
    options: Options,
    /// What the doctor found before Selvedge was installed.
    before: Option<Value>,
}

impl Kubernetes {
    /// Builds a cluster and installs Selvedge on it. The caller is in namespaces of its own but for users, and in a
    /// control group of its own. `progress` is told of each step as it begins.
    pub fn start(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        let mut cluster = Self::build(options, progress)?;
        cluster.install(progress)?;
        Ok(cluster)
    }

    /// As [`Kubernetes::start`], without Selvedge: the nodes are there and not ready.
    pub fn build(options: Options, progress: &mut dyn FnMut(&str)) -> Result<Self, Error> {
        // Taken already is fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        crate::cgroup::enter().doing("enter a control group namespace")?;
        let plan = Plan {
            datapath: options.datapath,
            outside: options.outside,
            ..Plan::new(Families::Dual, options.nodes)
        };
        progress("laying the underlay: a router, its cables, the internet");
        let world = World::build(plan)?;
        let authority = Authority::create().doing("make a certificate authority")?;
        let mut spaces = Vec::new();
        for node in plan.node_plans() {
            let space = Machine::space(&options.folder, &node)?;
            let plugged = world.runtime().block_on(world.underlay().plug(&node.cable, space.net()));
            plugged.doing(format!("plug {} in", node.name))?;
            spaces.push((node, space));
        }
        let Some((first, space)) = spaces.first() else {
            return Err(Error::new("start a cluster", "it needs a node".into()));
        };
        let (name, cable, space) = match plan.outside() {
            None => (first.name.clone(), first.cable.clone(), space.clone()),
            Some(cable) => {
                let machine = NodePlan { name: OUTSIDE_NAME.into(), cable, pod_cidrs: Vec::new() };
                let space = Machine::space(&options.folder, &machine)?;
                let plugged = world.runtime().block_on(world.underlay().plug(&machine.cable, space.net()));
                plugged.doing("plug the control plane in")?;
                (machine.name, machine.cable, space)
            }
        };
        let addresses = cable.addresses();
        let url = api_url(&addresses);
        let (assets, folder) = (&options.assets, options.folder.as_path());
        let site = Site { assets, folder, plan, authority: &authority, api: url.clone() };
        progress("starting etcd, API server, controllers and scheduler");
        let control_plane = ControlPlane::start(&site, &name, &addresses, &space)?;
        let admin = authority.client("lab-admin", "system:masters").doing("make an administrator")?;
        let kubeconfig = authority.kubeconfig(&url, &admin);
        std::fs::write(options.folder.join("kubeconfig"), &kubeconfig).doing("write the kubeconfig")?;
        let client = Client::connect(world.runtime(), &kubeconfig)?;
        let waited = process::wait_every(LOOK, "the API server to be ready", READY, || client.is_ready());
        waited
            .map_err(|why| Error::new("start the API server", format!("{why}\n{}", control_plane.logs())))?;
        progress("starting containerd and kubelet on every node, with their images");
        let mut machines = Vec::new();
        let without =
            options.kube_proxy.map_or(usize::MAX, |proxy| options.nodes.saturating_sub(proxy.nodes));
        for (index, (node, space)) in spaces.into_iter().enumerate() {
            let proxy = options.kube_proxy.filter(|_| index >= without).map(|proxy| proxy.mode);
            machines.push(Machine::start(node, space, &site, proxy)?);
        }
        let control_machine = (name, space);
        let hosts = Vec::new();
        let before = None;
        let mut cluster =
            Self { client, hosts, machines, control_plane, control_machine, world, options, before };
        cluster.start_hosts()?;
        progress("waiting for the nodes to register and to get their pod CIDRs");
        cluster.wait("every node to have pod CIDRs", |cluster| {
            let nodes = cluster.client.list::<Node>("/api/v1/nodes")?;
            let with = nodes.iter().filter(|node| !pod_cidrs(node).is_empty()).count();
            Ok(with == cluster.machines.len())
        })?;
        cluster.note_given()?;
        cluster.lay_routes()?;
        Ok(cluster)
    }

    /// A control plane outside finds pods by routes of the underlay, as in a cloud.
    fn lay_routes(&self) -> Result<(), Error> {
        if !self.options.outside {
            return Ok(());
        }
        for machine in &self.machines {
            let (_, cidrs) = self.node(&machine.plan().name)?;
            for cidr in cidrs {
                let laid = self.world.underlay().route(cidr, &machine.plan().cable);
                self.world.runtime().block_on(laid).doing("route to pods")?;
            }
        }
        Ok(())
    }

    /// Where the API server is, whoever serves its Service.
    fn api_url(&self) -> String {
        let plan = self.world.plan();
        let cable = plan.outside().or_else(|| Some(plan.node_plans().first()?.cable.clone()));
        api_url(&cable.map(|cable| cable.addresses()).unwrap_or_default())
    }

    /// Whether kube-proxy runs on some node.
    #[must_use]
    pub fn has_kube_proxy(&self) -> bool {
        self.options.kube_proxy.is_some()
    }

    /// Whether it runs on all: then agents find the API server by its Service.
    fn is_kube_proxy_everywhere(&self) -> bool {
        self.options.kube_proxy.is_some_and(|proxy| proxy.nodes >= self.options.nodes)
    }

    /// kube-proxy of a node.
    #[must_use]
    pub fn kube_proxy(&self, node: &str) -> Option<&Process> {
        self.machines.iter().find(|machine| machine.plan().name == node)?.kube_proxy()
    }

    /// The namespaces that the control plane is in.
    #[must_use]
    pub fn control_space(&self) -> &Arc<Space> {
        &self.control_machine.1
    }

    fn start_hosts(&mut self) -> Result<(), Error> {
        for machine in &self.machines {
            let (net, name) = (machine.namespaces().net(), &machine.plan().name);
            let server = Server::start(net, name, &HOST_PORTS, self.world.canary());
            self.hosts.push(server.doing(format!("start the server of {name}"))?);
        }
        Ok(())
    }

    /// The world around it.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The names of its nodes.
    #[must_use]
    pub fn node_names(&self) -> Vec<String> {
        self.machines.iter().map(|machine| machine.plan().name.clone()).collect()
    }

    /// The namespaces of a node.
    #[must_use]
    pub fn node_space(&self, name: &str) -> Option<&Arc<Space>> {
        self.machine(name).map(Machine::namespaces)
    }

    /// A node's addresses, and its pod CIDRs as the API server has them.
    pub fn node(&self, name: &str) -> Result<(Vec<IpAddr>, Vec<IpNet>), Error> {
        let node = self.client.get::<Node>(&format!("/api/v1/nodes/{name}"))?;
        let machine = self.machine(name);
        let addresses = machine.map(|machine| machine.plan().cable.addresses()).unwrap_or_default();
        Ok((addresses, pod_cidrs(&node)))
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }

    /// The shipped manifests.
    #[must_use]
    pub fn deploy_folder(&self) -> &Path {
        &self.options.assets.deploy_folder
    }

    /// A program of Kubernetes.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.options.assets.binary(name)
    }

    /// Certificate and key of the authority that the API server believes about clients.
    #[must_use]
    pub fn client_authority(&self) -> (PathBuf, PathBuf) {
        let folder = self.control_plane_folder();
        (folder.join("ca.crt"), folder.join("ca.key"))
    }

    /// Where the API server writes what Selvedge's service accounts asked it for: an event of the audit log in a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.control_plane_folder().join(control_plane::AUDIT_LOG)
    }

    fn control_plane_folder(&self) -> PathBuf {
        Machine::disk(&self.options.folder, &self.control_machine.0).join("control-plane")
    }

    /// The kubeconfig of an administrator, for programs in the lab's own network namespace.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.options.folder.join("kubeconfig")
    }

    /// A verb of Selvedge's on the whole cluster, as an administrator; gives what it prints.
    pub fn selvedge(&self, args: &[&str]) -> Result<String, Error> {
        let mut command = std::process::Command::new(&self.options.binary);
        let what = format!("selvedge {}", args.join(" "));
        said(&what, command.args(args).arg("--kubeconfig").arg(self.kubeconfig()))
    }

    /// A verb of Selvedge's on a node, outside of all containers.
    pub fn selvedge_on(&self, node: &str, args: &[&str]) -> Result<String, Error> {
        let what = format!("selvedge {} on {node}", args.join(" "));
        let space = self.node_space(node).ok_or_else(|| Error::new(&what, "no such node".into()))?;
        let mut command = std::process::Command::new(&self.options.binary);
        said(&what, space.place(command.args(args)))
    }

    /// What the doctor finds on a node, outside of all containers, as an administrator: its answer in JSON.
    pub fn doctor(&self, node: &str) -> Result<Value, Error> {
        let what = format!("selvedge doctor on {node}");
        let space = self.node_space(node).ok_or_else(|| Error::new(&what, "no such node".into()))?;
        let mut command = std::process::Command::new(&self.options.binary);
        command.args(["doctor", "--output", "json", "--kubeconfig"]).arg(self.kubeconfig());
        // Where it finds a problem it ends with another exit code.
        let output = space.place(command.stdin(std::process::Stdio::null())).output().doing(&what)?;
        let error =
            |error| Error::new(&what, format!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_slice(&output.stdout).map_err(error)
    }

    /// What it found on the first node before Selvedge was installed.
    #[must_use]
    pub fn doctor_before(&self) -> Option<&Value> {
        self.before.as_ref()
    }

    /// A command of kubectl's, as an administrator; gives what it prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.kubectl_raw(args)?).into_owned())
    }

    /// The same, of what is no text.
    pub fn kubectl_raw(&self, args: &[&str]) -> Result<Vec<u8>, Error> {
        let mut command = std::process::Command::new(self.options.assets.binary("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        printed(&format!("kubectl {}", args.join(" ")), &mut command)
    }

    /// The name of the agent's pod on a node.
    pub fn agent_on(&self, node: &str) -> Result<String, Error> {
        let field = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let selector = "--selector=app.kubernetes.io/component=agent";
        let names = "--output=jsonpath={.items[*].metadata.name}";
        let name = self.kubectl(&["get", "pods", "--namespace=selvedge-system", selector, &field, names])?;
        match name.trim() {
            "" => Err(Error::new(format!("find the agent on {node}"), "none runs".into())),
            name => Ok(name.to_owned()),
        }
    }

    /// Creates a pod on a node, with nothing but pauses in it, and waits until it runs; gives its namespace and
    /// addresses.
    pub fn create_pod(
        &self,
        name: &str,
        node: &str,
        containers: &[&str],
    ) -> Result<(Arc<NetNs>, Vec<IpAddr>), Error> {
        let containers: Vec<_> = containers
            .iter()
            .map(|name| json!({"name": name, "image": PAUSE, "imagePullPolicy": "Never"}))
            .collect();
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node, "containers": containers, "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
            },
        });
        self.client.create(PODS, &pod)?;
        let mut addresses = Vec::new();
        let running = process::wait_every(LOOK, "it to run", POD, || {
            addresses = self.client.get::<Pod>(&path(name)).map(|pod| running(&pod)).unwrap_or_default();
            !addresses.is_empty()
        });
        running.map_err(|why| Error::new(format!("pod {name}"), format!("{why}\n{}", self.events(name))))?;
        Ok((Arc::new(self.pod_namespace(node, &addresses)?), addresses))
    }

    /// Deletes a pod and waits until it is gone.
    pub fn delete_pod(&self, name: &str) -> Result<(), Error> {
        self.client.delete(&path(name))?;
        let gone = process::wait_every(LOOK, "it to be gone", POD, || {
            self.client.find::<Pod>(&path(name)).is_ok_and(|found| found.is_none())
        });
        gone.map_err(|why| Error::new(format!("delete pod {name}"), format!("{why}\n{}", self.events(name))))
    }

    /// Has the kubelet of `node`, whose Node object was deleted, register it again, and waits until it takes pods.
    pub fn register_again(&self, node: &str) -> Result<(), Error> {
        let what = format!("register {node} again");
        let machine = self.machine(node).ok_or_else(|| Error::new(&what, "no such node".into()))?;
        machine.kubelet.kill();
        let path = format!("/api/v1/nodes/{node}");
        self.wait(&format!("{node} to take pods"), |cluster| {
            Ok(cluster.client.find::<Node>(&path)?.as_ref().is_some_and(install::takes_pods))
        })
    }

    /// All Node objects.
    pub fn nodes(&self) -> Result<Vec<Node>, Error> {
        self.client.list("/api/v1/nodes")
    }

    /// Kills the API server, keeps it away while `work` is done, and waits until it answers again.
    pub fn without_api_server<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let api = &self.control_plane.api;
        api.hold();
        let done = work();
        api.resume();
        let ready = process::wait_every(LOOK, "the API server to be back", READY, || self.client.is_ready());
        let done = done?;
        ready.map_err(|why| Error::new("the cluster", format!("{why}\n{}", self.control_plane.logs())))?;
        Ok(done)
    }

    /// Where the containerd of a node writes its log.
    #[must_use]
    pub fn runtime_log(&self, node: &str) -> Option<&Path> {
        self.machine(node).map(|machine| machine.containerd.log())
    }

    /// Plants frames that must be found, on every link, and tells what each capture has seen since the beginning.
    pub fn plant(&self) -> Result<Vec<Seen>, Error> {
        self.note_given()?;
        self.world.plant(|name| match self.machine(name) {
            Some(machine) => Some(machine.namespaces().net()),
            None => (name == OUTSIDE_NAME).then(|| self.control_space().net()),
        })
    }

    /// Passes the addresses in use to the captures: all of the nodes' pod CIDRs, as pods come and go without the lab's
    /// doing, and those of Services.
    fn note_given(&self) -> Result<(), Error> {
        let given = self.world.given();
        self.nodes()?.iter().for_each(|node| given.add(pod_cidrs(node)));
        for service in self.client.list::<Service>("/api/v1/services")? {
            let addresses = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
            given.add(addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()));
        }
        Ok(())
    }

    /// The last lines of what all processes of the cluster and Selvedge's pods have written.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut parts = vec![self.control_plane.logs()];
        parts.extend(self.machines.iter().map(Machine::logs));
        for args in install::LOGS {
            parts.push(self.kubectl(args).unwrap_or_else(|error| error.to_string()));
        }
        parts.join("\n")
    }

    fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.plan().name == name)
    }

    /// What the API server's Events say of an object; for error messages.
    fn events(&self, name: &str) -> String {
        let field = format!("involvedObject.name={name}");
        let events = ["get", "events", "--all-namespaces", "--field-selector", &field];
        self.kubectl(&events).unwrap_or_else(|error| error.to_string())
    }

    /// The network namespace on a node that has this address.
    pub fn pod_namespace(&self, node: &str, addresses: &[IpAddr]) -> Result<NetNs, Error> {
        let what = format!("find the network namespace of {addresses:?} on {node}");
        let machine = self.machine(node).ok_or_else(|| Error::new(&what, "no such node".into()))?;
        let found = machine.namespaces().run(|| find_namespace(addresses)).doing(&what)?;
        found.ok_or_else(|| Error::new(what, "none in /run/netns has it".into()))
    }

    fn wait(&self, what: &str, mut holds: impl FnMut(&Self) -> Result<bool, Error>) -> Result<(), Error> {
        let mut last = String::new();
        let waited = process::wait_every(LOOK, what, READY, || match holds(self) {
            Ok(holds) => holds,
            Err(error) => {
                last = error.to_string();
                false
            }
        });
        waited.map_err(|why| Error::new("the cluster", format!("{why}; {last}\n{}", self.logs())))
    }
}

/// What a command prints; an error with all that it says, if it fails.
fn said(what: &str, command: &mut std::process::Command) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&printed(what, command)?).into_owned())
}

fn printed(what: &str, command: &mut std::process::Command) -> Result<Vec<u8>, Error> {
    let output = command.stdin(std::process::Stdio::null()).output().doing(what)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    Err(Error::new(what, format!("{}: {err}{out}", output.status)))
}

/// Runtimes name the namespaces of their pods there.
fn find_namespace(addresses: &[IpAddr]) -> Option<NetNs> {
    let has = |ns: &NetNs| {
        // Only where the address is a local one, a socket can be bound to it.
        let bind = |address: &IpAddr| std::net::UdpSocket::bind((*address, 0)).is_ok();
        ns.run(|| addresses.iter().any(bind)).unwrap_or(false)
    };
    let entries = std::fs::read_dir("/run/netns").ok()?;
    entries.flatten().filter_map(|entry| NetNs::open(entry.path()).ok()).find(has)
}

fn running(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Running")) else {
        return Vec::new();
    };
    let ready = status.container_statuses.iter().flatten().all(|container| container.ready);
    let addresses = status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok());
    addresses.filter(|_| ready).collect()
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_ref());
    spec.into_iter().flatten().filter_map(|net| net.parse().ok()).collect()
}

/// Of a pod in the API.
fn path(name: &str) -> String {
    format!("{PODS}/{name}")
}

fn api_url(addresses: &[IpAddr]) -> String {
    let address = addresses.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    format!("https://{}", std::net::SocketAddr::new(address, API_PORT))
}

/// Address number `number` of a range.
fn nth(net: IpNet, number: u8) -> IpAddr {
    match net.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + u32::from(number)).into()),
        IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(number)).into()),
    }
}

/// Where the cluster's DNS server is reached, by custom number 10 of each range of Services.
fn dns_addresses(plan: &Plan) -> Vec<IpAddr> {
    plan.service_cidrs().into_iter().map(|net| nth(net, 10)).collect()
}
