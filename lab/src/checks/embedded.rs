//! The lab with its embedded API server, as a [`Cluster`].

use std::sync::Arc;

use super::{Cluster, Failed, Host};
use crate::capture::Seen;
use crate::lab::Lab;
use crate::plan::{Families, INTERNET_MTU, POD_MTU};
use crate::plan::{HOST_PORTS, INTERNET_PORTS, PLAIN_PORT};
use crate::traffic::Canary;
use selvedge::kernel::netns::NetNs;

impl Cluster for Lab {
    fn families(&self) -> Families {
        self.plan().families
    }

    fn canary(&self) -> &Canary {
        Lab::canary(self)
    }

    fn nodes(&self) -> Result<Vec<Host>, Failed> {
        let host = |node: &Arc<crate::node::Node>| {
            let ns = node.space().run(NetNs::current)?.map_err(|error| Failed(error.to_string()))?;
            Ok(Host {
                name: node.name().to_owned(),
                ns: Arc::new(ns),
                addresses: node.addresses(),
                fabric: node.fabric_addresses(),
                port: HOST_PORTS[0],
            })
        };
        Lab::nodes(self).iter().map(host).collect()
    }

    fn internet(&self) -> Result<Host, Failed> {
        let ns = Lab::internet(self).run(NetNs::current).and_then(|ns| ns);
        Ok(Host {
            name: "internet".into(),
            ns: Arc::new(ns.map_err(|error| Failed(error.to_string()))?),
            addresses: self.plan().internet().addresses(),
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
        let (ns, addresses) = Lab::create_pod(self, name, node, containers)?;
        let port = containers.first().map_or(0, |(_, port)| *port);
        Ok(Host { name: name.to_owned(), ns, addresses, fabric: Vec::new(), port })
    }

    fn settle(&self) {
        // What cannot be settled now shows as frames not captured in the end.
        let _ = self.capture().seen();
    }

    fn plant(&self) -> Result<Vec<Seen>, Failed> {
        Ok(Lab::plant(self)?)
    }

    fn delete_pod(&self, name: &str) -> Result<(), Failed> {
        Ok(Lab::delete_pod(self, name)?)
    }
}
