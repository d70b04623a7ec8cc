//! A pod on a node: a network namespace wired by the CNI plugin, and servers in place of its containers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use selvedge::kernel::netns::{self, NetNs};
use serde_json::Value;

use crate::cni::{self, Container, Network};
use crate::node::Node;
use crate::space::{self, Space};
use crate::traffic::{self, Canary, Server};

/// Port of a container that names none; further containers of the pod take the next ones.
pub const PORT: u16 = 8080;

/// A pod that runs.
#[derive(Debug)]
pub struct Sandbox {
    ns: Arc<NetNs>,
    addresses: Vec<IpAddr>,
    wiring: Option<Wiring>,
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Wiring {
    container: Container,
    network: Network,
    result: Value,
    space: Arc<Space>,
}

/// What a pod is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSpec {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uses the node's own network.
    pub host_network: bool,
    /// The containers' names and ports.
    pub containers: Vec<(String, Vec<u16>)>,
    /// Host ports, as CNI's `portMappings` has them.
    pub port_mappings: Vec<Value>,
}

/// What went wrong with a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plugin, or that there is none yet.
    #[error(transparent)]
    Cni(#[from] cni::Error),
    /// Its namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The node's namespaces.
    #[error(transparent)]
    Space(#[from] space::Error),
    /// Its servers.
    #[error(transparent)]
    Server(#[from] traffic::Error),
    /// No random number for its id.
    #[error("make a container id: {0}")]
    Random(String),
}

impl Sandbox {
    /// Starts a pod on a node: namespace, ADD, servers. What fails is undone.
    pub fn start(spec: &PodSpec, node: &Node, canary: &Canary) -> Result<Self, Error> {
        let space = node.space();
        let (ns, addresses, wiring) = match spec.host_network {
            true => (Arc::new(space.run(NetNs::current)??), node.addresses(), None),
            false => {
                let (ns, addresses, wiring) = wire(spec, node, space)?;
                (ns, addresses, Some(wiring))
            }
        };
        let mut sandbox = Self { ns, addresses, wiring, servers: Vec::new() };
        for (container, ports) in &spec.containers {
            match Server::start(&sandbox.ns, &format!("{}/{container}", spec.name), ports, canary) {
                Ok(server) => sandbox.servers.push(server),
                Err(error) => {
                    let _ = sandbox.stop();
                    return Err(error.into());
                }
            }
        }
        Ok(sandbox)
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its network namespace.
    #[must_use]
    pub fn ns(&self) -> &Arc<NetNs> {
        &self.ns
    }

    /// CNI CHECK.
    pub fn check(&self) -> Result<(), Error> {
        let Some(wiring) = &self.wiring else { return Ok(()) };
        Ok(wiring.network.check(&wiring.space, &wiring.container, &wiring.result)?)
    }

    /// Ends it: servers, DEL, namespace. All is tried; the first error is given.
    pub fn stop(mut self) -> Result<(), Error> {
        self.servers.clear();
        let Some(wiring) = &self.wiring else { return Ok(()) };
        let deleted = wiring.network.delete(&wiring.space, &wiring.container, &wiring.result);
        let removed = wiring.space.run(|| NetNs::remove_named(&wiring.container.netns))?;
        deleted?;
        Ok(removed?)
    }
}

fn wire(spec: &PodSpec, node: &Node, space: Arc<Space>) -> Result<(Arc<NetNs>, Vec<IpAddr>, Wiring), Error> {
    let network = node.network()?;
    let mut id = [0; 32];
    getrandom::fill(&mut id).map_err(|error| Error::Random(error.to_string()))?;
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let netns = PathBuf::from(format!("/run/netns/cni-{}", &id[..16]));
    let pod = (spec.namespace.clone(), spec.name.clone());
    let container = Container { id, netns, pod, port_mappings: spec.port_mappings.clone() };
    let ns = space.run(|| NetNs::create_named(&container.netns))??;
    match network.add(&space, &container) {
        Ok(added) => {
            let wiring = Wiring { container, network, result: added.result, space };
            Ok((Arc::new(ns), added.addresses, wiring))
        }
        Err(error) => {
            // As a runtime does: DEL after a failed ADD, whose own failure matters less.
            let _ = network.delete(&space, &container, &Value::Null);
            let _ = space.run(|| NetNs::remove_named(&container.netns));
            Err(error.into())
        }
    }
}
