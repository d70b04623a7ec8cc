//! A node: its namespaces, its disk, and the real processes of Selvedge on it; and what can happen to a node.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use selvedge::kernel::netlink::Netlink;

use crate::cni::{self, Network};
use crate::plan::{Cable, NodePlan, Plan};
use crate::process::{Process, Program};
use crate::space::{self, DISK, Space};
use crate::underlay::{self, Underlay};

/// Name of the tunnel's device.
pub const TUNNEL_DEVICE: &str = "selvedge0";

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// The product's binary.
    pub binary: &'a Path,
    /// The lab's folder: `nodes/NAME` becomes the disk, `logs` takes what the processes print.
    pub folder: &'a Path,
    /// The kubeconfig of the node's agent.
    pub kubeconfig: &'a str,
    /// Address plan of the lab.
    pub plan: Plan,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    disk: PathBuf,
    state: Mutex<State>,
    /// `selvedge tunnel`.
    pub tunnel: Process,
    /// `selvedge agent`.
    pub agent: Process,
    /// `selvedge ports`.
    pub ports: Process,
}

#[derive(Debug)]
struct State {
    space: Arc<Space>,
    cable: Cable,
    on: bool,
}

/// What went wrong with a node.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespaces.
    #[error(transparent)]
    Space(#[from] space::Error),
    /// Its cable.
    #[error(transparent)]
    Underlay(#[from] underlay::Error),
    /// Its disk.
    #[error("write {path}: {source}")]
    Disk {
        /// What was written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Node {
    /// Switches a node on: its cable must have been laid.
    pub async fn start(plan: NodePlan, parts: &Parts<'_>, underlay: &Underlay) -> Result<Self, Error> {
        let node = Self::prepare(plan, parts, underlay).await?;
        node.resume();
        Ok(node)
    }

    /// As [`Node::start`], but tunnel and agent stay down until they are resumed.
    pub async fn prepare(plan: NodePlan, parts: &Parts<'_>, underlay: &Underlay) -> Result<Self, Error> {
        let disk = parts.folder.join("nodes").join(&plan.name);
        furnish(&disk, &plan, parts)?;
        let space = Arc::new(Space::create(&plan.name, &disk)?);
        underlay.plug(&plan.cable, space.net()).await?;
        let tunnel = program(&plan, parts, "tunnel", &["tunnel", TUNNEL_DEVICE, "--managed"]);
        let (config, kubeconfig) = (format!("{DISK}/etc/config.toml"), format!("{DISK}/etc/kubeconfig"));
        let flags = ["agent", "--config", &config, "--node-name", &plan.name, "--kubeconfig", &kubeconfig];
        let agent = program(&plan, parts, "agent", &flags);
        let ports = program(&plan, parts, "ports", &["ports"]);
        Ok(Self {
            ports: Process::prepare(ports, space.clone()),
            tunnel: Process::prepare(tunnel, space.clone()),
            agent: Process::prepare(agent, space.clone()),
            state: Mutex::new(State { space, cable: plan.cable.clone(), on: true }),
            plan,
            disk,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Its addresses on the underlay, the first family first.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.state().cable.addresses()
    }

    /// Its cable, with the addresses it has now.
    #[must_use]
    pub fn cable(&self) -> Cable {
        self.state().cable.clone()
    }

    /// `spec.podCIDRs`.
    #[must_use]
    pub fn pod_cidrs(&self) -> &[IpNet] {
        &self.plan.pod_cidrs
    }

    /// Its fabric addresses: the first of each pod CIDR.
    #[must_use]
    pub fn fabric_addresses(&self) -> Vec<IpAddr> {
        self.plan
            .pod_cidrs
            .iter()
            .filter_map(|cidr| cidr.hosts().next().map(|first| after_network(cidr, first)))
            .collect()
    }

    /// Its namespaces. After a reboot they are others.
    #[must_use]
    pub fn space(&self) -> Arc<Space> {
        self.state().space.clone()
    }

    /// Its disk, as the lab sees it; the node sees it as [`DISK`].
    #[must_use]
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// Whether it is switched on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state().on
    }

    /// A netlink socket on the node, to do to it what administrators do. Needs a tokio runtime.
    pub fn netlink(&self) -> Result<Netlink, selvedge::kernel::netlink::Error> {
        Netlink::in_ns(self.space().net())
    }

    /// The CNI configuration that the agent has installed.
    pub fn network(&self) -> Result<Network, cni::Error> {
        let env = environment().into_iter().filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
        let env = env.filter_map(|(key, value)| Some((key, value.into_string().ok()?))).collect();
        Network::load(&self.disk.join("cni/net.d"), &Path::new(DISK).join("cni/bin"), env)
    }

    /// Kills agent, tunnel and holder of ports, and keeps them down.
    pub fn hold(&self) {
        self.agent.hold();
        self.tunnel.hold();
        self.ports.hold();
    }

    /// Runs them again.
    pub fn resume(&self) {
        self.ports.resume();
        self.tunnel.resume();
        self.agent.resume();
    }

    /// Pulls the plug: processes, devices, routes, nftables and `/run` are gone, the disk stays. Whoever holds
    /// pods of the node has to let go of them.
    pub async fn power_off(&self, underlay: &Underlay) -> Result<(), Error> {
        let (space, cable) = {
            let mut state = self.state();
            state.on = false;
            (state.space.clone(), state.cable.clone())
        };
        underlay.unplug(&cable, space.net()).await?;
        self.hold();
        Ok(())
    }

    /// Boots it: new namespaces, the old disk. Agent and tunnel stay down until [`Node::resume`].
    pub async fn power_on(&self, underlay: &Underlay) -> Result<(), Error> {
        let space = Arc::new(Space::create(self.name(), &self.disk)?);
        let cable = self.state().cable.clone();
        underlay.plug(&cable, space.net()).await?;
        self.tunnel.relocate(space.clone());
        self.agent.relocate(space.clone());
        self.ports.relocate(space.clone());
        let mut state = self.state();
        state.space = space;
        state.on = true;
        Ok(())
    }

    /// Changes its addresses on the underlay to those of `cable`.
    pub async fn renumber(&self, cable: Cable, underlay: &Underlay) -> Result<(), Error> {
        let old = self.state().cable.clone();
        underlay.renumber(&old, &cable, self.space().net()).await?;
        self.state().cable = cable;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `hosts` of an IPv6 net begins with the network's own address, of an IPv4 one behind it.
fn after_network(cidr: &IpNet, first: IpAddr) -> IpAddr {
    match first {
        IpAddr::V6(first) if IpAddr::V6(first) == cidr.network() => {
            IpAddr::V6((u128::from(first) + 1).into())
        }
        other => other,
    }
}

/// Where the node's processes find their files: on its disk and in its own `/run`.
#[must_use]
pub fn environment() -> Vec<(OsString, OsString)> {
    let own = [
        ("SELVEDGE_CONFIG", format!("{DISK}/etc/config.toml")),
        ("SELVEDGE_STATE_DIR", format!("{DISK}/state")),
        ("SELVEDGE_RUN_DIR", "/run/selvedge".to_owned()),
        ("SELVEDGE_UAPI_DIR", "/run/wireguard".to_owned()),
    ];
    own.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

fn program(plan: &NodePlan, parts: &Parts<'_>, what: &str, args: &[&str]) -> Program {
    let name = format!("{}-{what}", plan.name);
    Program {
        log: parts.folder.join("logs").join(format!("{name}.log")),
        name,
        binary: parts.binary.to_owned(),
        args: args.iter().map(OsString::from).collect(),
        env: environment(),
    }
}

fn furnish(disk: &Path, plan: &NodePlan, parts: &Parts<'_>) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Disk { path, source }
    };
    for folder in ["etc", "state", "cni/bin", "cni/net.d"] {
        let folder = disk.join(folder);
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    }
    let logs = parts.folder.join("logs");
    std::fs::create_dir_all(&logs).map_err(failed(&logs))?;
    let files = [
        ("etc/config.toml", configuration(plan, &parts.plan)),
        ("etc/kubeconfig", parts.kubeconfig.to_owned()),
    ];
    for (name, text) in files {
        let path = disk.join(name);
        std::fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

/// `config.toml` of a node.
fn configuration(node: &NodePlan, plan: &Plan) -> String {
    let list = |nets: &[IpNet]| {
        let quoted: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let datapath = plan.datapath;
    let (name, pods, services) = (&node.name, list(&plan.cluster_pod_cidrs()), list(&plan.service_cidrs()));
    format!(
        "nodeName = \"{name}\"\nclusterPodCIDRs = {pods}\nserviceCIDRs = {services}\ndatapath = \"{datapath}\"\n\n\
         [cni]\nbinDir = \"{DISK}/cni/bin\"\nconfDir = \"{DISK}/cni/net.d\"\n\n\
         [agent]\nkubeconfig = \"{DISK}/etc/kubeconfig\"\n"
    )
}

#[cfg(test)]
mod tests {
    use selvedge::config::{Config, Overrides};

    use super::*;
    use crate::plan::Families;

    #[test]
    fn the_configuration_is_one_the_product_takes() {
        let plan = Plan::new(Families::Dual, 2);
        let text = configuration(&plan.node_plans()[1], &plan);
        let config = Config::parse(Path::new("config.toml"), &text, &Overrides::default()).unwrap();
        assert_eq!(config.node_name, "node2");
        assert_eq!(config.cluster_pod_cidrs, plan.cluster_pod_cidrs());
        assert_eq!(config.cni.bin_dir, Path::new("/run/node/cni/bin"));
    }

    #[test]
    fn the_fabric_address_is_the_one_after_the_networks() {
        for (cidr, fabric) in [("10.244.3.0/24", "10.244.3.1"), ("fd00:10:244:3::/64", "fd00:10:244:3::1")] {
            let cidr: IpNet = cidr.parse().unwrap();
            assert_eq!(after_network(&cidr, cidr.hosts().next().unwrap()), fabric.parse::<IpAddr>().unwrap());
        }
    }
}
