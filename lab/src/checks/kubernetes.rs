//! A real Kubernetes, as a [`Cluster`]. Its pods run pauses; servers of the lab stand in their networks beside them, so
//! that the same checks are made as elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use selvedge::kernel::netns::NetNs;

use super::{Cluster, Failed, Host};
use crate::capture::Seen;
use crate::kubernetes::Kubernetes;
use crate::plan::{Families, INTERNET_MTU, POD_MTU};
use crate::plan::{HOST_PORTS, INTERNET_PORTS, PLAIN_PORT};
use crate::traffic::{Canary, Server};

/// The cluster with the servers in its pods.
pub struct Served<'a> {
    cluster: &'a Kubernetes,
    servers: Mutex<BTreeMap<String, Vec<Server>>>,
}

impl<'a> Served<'a> {
    /// No pods yet.
    #[must_use]
    pub fn new(cluster: &'a Kubernetes) -> Self {
        Self { cluster, servers: Mutex::default() }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, name: &str) -> Result<Host, Failed> {
        let space = self.cluster.node_space(name).ok_or_else(|| Failed(format!("no node {name}")))?;
        let ns = space.net().run(NetNs::current).and_then(|ns| ns);
        let (addresses, pod_cidrs) = self.cluster.node(name)?;
        Ok(Host {
            name: name.to_owned(),
            ns: Arc::new(ns.map_err(|error| Failed(error.to_string()))?),
            addresses,
            fabric: pod_cidrs.iter().filter_map(fabric_address).collect(),
            port: HOST_PORTS[0],
        })
    }
}

/// The one after the network's own.
fn fabric_address(cidr: &IpNet) -> Option<IpAddr> {
    cidr.hosts().find(|address| *address != cidr.network())
}

impl Cluster for Served<'_> {
    fn families(&self) -> Families {
        self.cluster.world().plan().families
    }

    fn canary(&self) -> &Canary {
        self.cluster.world().canary()
    }

    fn nodes(&self) -> Result<Vec<Host>, Failed> {
        self.cluster.node_names().iter().map(|name| self.node(name)).collect()
    }

    fn internet(&self) -> Result<Host, Failed> {
        let world = self.cluster.world();
        let ns = world.internet().run(NetNs::current).and_then(|ns| ns);
        Ok(Host {
            name: "internet".into(),
            ns: Arc::new(ns.map_err(|error| Failed(error.to_string()))?),
            addresses: world.plan().internet().addresses(),
            fabric: Vec::new(),
            port: INTERNET_PORTS[0],
        })
    }

    fn internet_mtu(&self) -> Option<u32> {
        Some(INTERNET_MTU)
    }

    fn pod_mtu(&self) -> u32 {
        POD_MTU
    }

    fn plain_port(&self) -> u16 {
        PLAIN_PORT
    }

    fn create_pod(&self, name: &str, node: &str, containers: &[(&str, u16)]) -> Result<Host, Failed> {
        let names: Vec<&str> = containers.iter().map(|(container, _)| *container).collect();
        let (ns, addresses) = self.cluster.create_pod(name, node, &names)?;
        let serve = |(container, port): &(&str, u16)| {
            Server::start(&ns, &format!("{name}/{container}"), &[*port], self.canary())
        };
        let servers = containers.iter().map(serve).collect::<Result<Vec<_>, _>>()?;
        self.servers().insert(name.to_owned(), servers);
        let port = containers.first().map_or(0, |(_, port)| *port);
        Ok(Host { name: name.to_owned(), ns, addresses, fabric: Vec::new(), port })
    }

    fn settle(&self) {
        // What cannot be settled now shows as frames not captured in the end.
        let _ = self.cluster.world().capture().seen();
    }

    fn plant(&self) -> Result<Vec<Seen>, Failed> {
        Ok(self.cluster.plant()?)
    }

    fn delete_pod(&self, name: &str) -> Result<(), Failed> {
        drop(self.servers().remove(name));
        Ok(self.cluster.delete_pod(name)?)
    }
}
