//! One of the two programs, on its node.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{Connection, Family};
use selvedge::service::table::TABLE;
use serde_json::json;

use super::Options;
use super::object::{NAMESPACE, PROBE, probe_slice, slice_name};
use crate::api::resource::ENDPOINT_SLICES;
use crate::api::{self, Server as ApiServer, Store, User};
use crate::error::{Doing as _, Error};
use crate::node;
use crate::node::Node;
use crate::plan::{NodePlan, Plan};
use crate::process::{self, Process, Program};
use crate::space::{DISK, Space};
use crate::underlay::Underlay;

/// Pause between two looks at the number of the ruleset.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than the pause between the end of a process and its next start.
const PAUSE: Duration = Duration::from_millis(500);
/// A program that has not served all Services by then never will.
const PATIENCE: Duration = Duration::from_secs(900);
/// Programs beside the one measured have this long to start.
const BESIDE: Duration = Duration::from_secs(20);

/// What a contender is made from.
pub(super) struct Parts<'a> {
    pub(super) options: &'a Options,
    pub(super) plan: Plan,
    pub(super) node: NodePlan,
    pub(super) underlay: &'a Underlay,
    pub(super) api: ApiServer,
    pub(super) url: String,
    pub(super) services: u32,
}

/// A program that serves Services.
pub(super) struct Contender {
    pub(super) name: &'static str,
    program: Runs,
    space: Arc<Space>,
    connection: Connection,
    api: ApiServer,
    /// A map with an element for each Service: family, table, name.
    map: (Family, &'static str, &'static str),
    /// The tables that it makes.
    tables: &'static [(Family, &'static str)],
    services: u32,
}

/// Where a program is given objects and packets.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    store: &'a Store,
    /// The network namespace of its node.
    pub(super) net: &'a NetNs,
}

enum Runs {
    Selvedge(Box<Node>),
    KubeProxy(Process),
}

impl Contender {
    /// Selvedge's agent, with tunnel and holder of ports beside it, as on any node.
    pub(super) async fn selvedge(parts: Parts<'_>) -> Result<Self, Error> {
        let what = "make the node of Selvedge";
        let Parts { options, plan, node, underlay, api, url, services } = parts;
        let agent = User::agent(&node.name);
        api.add_user(agent.clone());
        let kubeconfig = api.kubeconfig(&agent.name, &url);
        let (binary, folder) = (options.selvedge.as_path(), options.folder.as_path());
        let parts = node::Parts { binary, folder, kubeconfig: &kubeconfig, plan };
        let node = Node::prepare(node, &parts, underlay).await.doing(what)?;
        let space = node.space();
        Ok(Self {
            name: "selvedge",
            connection: open(&space)?,
            program: Runs::Selvedge(Box::new(node)),
            space,
            api,
            map: (Family::Inet, TABLE, "inside4"),
            tables: &[(Family::Inet, TABLE)],
            services,
        })
    }

    /// kube-proxy, with its defaults but for what a network namespace does not allow.
    pub(super) async fn kube_proxy(parts: Parts<'_>) -> Result<Self, Error> {
        let what = "make the node of kube-proxy";
        let Parts { options, plan, node, underlay, api, url, services } = parts;
        let disk = options.folder.join("kube-proxy");
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "detectLocalMode": "ClusterCIDR",
            "clusterCIDR": plan.cluster_pod_cidrs().first(),
            "hostnameOverride": node.name,
            // The lab's API server has no other content type.
            "clientConnection": {
                "kubeconfig": format!("{DISK}/kubeconfig"), "contentType": "application/json",
                "acceptContentTypes": "application/json",
            },
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        write(&disk.join("config.json"), &config.to_string())?;
        write(&disk.join("kubeconfig"), &api.kubeconfig("kube-proxy", &url))?;
        let space = Arc::new(Space::create(&node.name, &disk).doing(what)?);
        underlay.plug(&node.cable, space.net()).await.doing(what)?;
        let program = Program {
            name: "kube-proxy".into(),
            binary: options.kube_proxy.clone(),
            args: ["--config", &format!("{DISK}/config.json")].map(Into::into).to_vec(),
            env: Vec::new(),
            log: disk.join("log"),
        };
        Ok(Self {
            name: "kube-proxy",
            connection: open(&space)?,
            program: Runs::KubeProxy(Process::prepare(program, space.clone())),
            space,
            api,
            map: (Family::Ipv4, "kube-proxy", "service-ips"),
            tables: &[(Family::Ipv4, "kube-proxy"), (Family::Ipv6, "kube-proxy")],
            services,
        })
    }

    /// The process that is measured.
    pub(super) fn process(&self) -> &Process {
        match &self.program {
            Runs::Selvedge(node) => &node.agent,
            Runs::KubeProxy(process) => process,
        }
    }

    /// Where it is given objects and packets.
    pub(super) fn site(&self) -> Site<'_> {
        Site { store: self.api.store(), net: self.space.net() }
    }

    /// Starts the program on a node that has nothing of it. Returns how long it took until all Services were in the kernel.
    pub(super) fn start(&mut self) -> Result<Duration, Error> {
        self.start_beside()?;
        // What supervises it makes a pause after its last end.
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        self.process().resume();
        match self.wait_until_served() {
            Ok(()) => Ok(begun.elapsed()),
            Err(why) => {
                let log = process::tail(self.process().log(), 10);
                Err(Error::new(format!("start {}", self.name), format!("{why}\n{log}")))
            }
        }
    }

    /// Ends it and takes away what it has made in the kernel.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        self.process().stop();
        for (family, table) in self.tables {
            self.connection.delete(*family, table).doing("delete the tables of a program")?;
        }
        Ok(())
    }

    /// The number of the ruleset of its node.
    pub(super) fn generation(&mut self) -> Result<u32, Error> {
        self.connection.generation().doing("read the number of the ruleset")
    }

    fn start_beside(&self) -> Result<(), Error> {
        let Runs::Selvedge(node) = &self.program else { return Ok(()) };
        node.tunnel.resume();
        node.ports.resume();
        let run = || node.tunnel.pid().is_some() && node.ports.pid().is_some();
        process::wait_for("tunnel and holder of ports", BESIDE, run)
            .map_err(|why| Error::new("start what runs beside the agent", why))
    }

    fn wait_until_served(&mut self) -> Result<(), String> {
        // One more is the Service whose packets are observed.
        let wanted = usize::try_from(self.services).unwrap_or(usize::MAX).saturating_add(1);
        let (mut seen, mut error) = (None, None);
        let (family, table, map) = self.map;
        let connection = &mut self.connection;
        // All of a map is read only when somebody has changed the ruleset: that is not for nothing.
        let served = || {
            let now = connection.generation().ok();
            if now.is_none() || now == seen {
                return false;
            }
            seen = now;
            match connection.elements(family, table, map) {
                Ok(elements) => elements.len() >= wanted,
                Err(failed) => {
                    error = Some(failed.to_string());
                    false
                }
            }
        };
        let waited = process::wait_every(LOOK, "all Services in the kernel", PATIENCE, served);
        waited.map_err(|why| format!("{why}; {}", error.unwrap_or_default()))
    }
}

impl Site<'_> {
    /// Sets the endpoint of the Service whose packets are observed: the first (0) or the second (1).
    pub(super) fn set_probe_endpoint(&self, which: usize) -> Result<(), Error> {
        self.set_slice(PROBE, || probe_slice(which))
    }

    /// Writes the slice of a Service.
    pub(super) fn set_slice(
        &self,
        service: &str,
        slice: impl FnOnce() -> serde_json::Value,
    ) -> Result<(), Error> {
        let name = slice_name(service);
        let written =
            self.store.modify(&ENDPOINT_SLICES, NAMESPACE, &name, |_| Ok::<_, api::Failure>(slice()));
        written.map(drop).doing("write an EndpointSlice")
    }
}

fn open(space: &Space) -> Result<Connection, Error> {
    let what = "open a connection to nftables on a node";
    space.net().run(Connection::open).doing(what)?.doing(what)
}

/// Writes a file of a node's disk.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text)).doing(format!("write {}", path.display()))
}
