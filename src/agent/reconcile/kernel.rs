//! The kernel's part of a pass: TUN device, routes, rules, sysctls, masquerading, the CNI plugin.

use std::path::Path;

use super::{Reconciler, blocking};
use crate::agent::parts::Name;
use crate::egress::{self, EgressConfig};
use crate::fabric::device;
use crate::fabric::{self, RoutingConfig};
use crate::kernel::link::Link;
use crate::kernel::netlink::Error;
use crate::kernel::route::{MAIN, Route};
use crate::kernel::sysctl;
use crate::mesh::node_object::OwnNode;
use crate::pod;
use crate::pod::gateway;
use crate::pod::lease::Leases;
use crate::pod::node::{Datapath, NodeInfo, is_ready, mark_ready};

/// Name of the network in the CNI configuration.
const NETWORK: &str = "selvedge";

impl Reconciler {
    /// `known`: whether the other nodes are known. Until then what depends on them is left as it is.
    pub(super) async fn ensure_kernel(&mut self, own: Option<&OwnNode>, known: bool) {
        let remembered = match own {
            Some(_) => None,
            None => NodeInfo::load(&self.start.paths).ok(),
        };
        let pod_cidrs = own
            .map(|own| own.pod_cidrs.clone())
            .or_else(|| remembered.map(|info| info.pod_cidrs))
            .unwrap_or_default();
        let link = match self.netlink.link_named(&self.start.config.interface).await {
            Ok(link) => link,
            Err(error) => {
                self.parts.settle(Name::Link, Err(error));
                return;
            }
        };
        let desired = RoutingConfig {
            cluster_pod_cidrs: self.start.config.cluster_pod_cidrs.clone(),
            pod_cidrs,
            node_addresses: self.members.addresses(),
            tunnel: link.as_ref().map(|link| link.index),
            routed: self.has_routed(),
        };
        self.ensure_link(link, own, &desired).await;
        // The rules for pods without a bridge need their sysctl.
        self.ensure_sysctls(&desired).await;
        // A node whose addresses get routes into the tunnel is heard in the tunnel alone from then on.
        if let (Some(own), true) = (own, known) {
            self.ensure_egress(own, &desired).await;
        }
        self.ensure_routes(&desired, known).await;
        self.ensure_wiring().await;
    }

    async fn ensure_link(&mut self, link: Option<Link>, own: Option<&OwnNode>, desired: &RoutingConfig) {
        let Some(link) = link else {
            let name = &self.start.config.interface;
            self.parts.wait(Name::Link, format!("there is no device {name}; is the tunnel running?"));
            return;
        };
        let addresses = desired.fabric_addresses();
        let mtu = match own {
            Some(own) => self.mtu(&own.internal).await,
            None => Ok(link.mtu),
        };
        let result = match mtu {
            Ok(mtu) => device::ensure(&self.netlink, &link, mtu, &addresses).await,
            Err(error) => Err(error),
        };
        self.parts.settle(Name::Link, result);
    }

    async fn ensure_routes(&mut self, desired: &RoutingConfig, known: bool) {
        // Without the other nodes' addresses the pods' table stays as it is.
        let owns = |route: &Route| fabric::owns(route) && (known || route.table == MAIN);
        let result = async {
            let routes: Vec<Route> = desired.routes().into_iter().filter(|route| owns(route)).collect();
            let mut changes = self.netlink.sync_routes(&routes, owns).await?;
            changes.extend(self.netlink.sync_rules(&desired.rules()).await?);
            Ok::<_, Error>(changes)
        };
        let result = result.await;
        self.parts.settle(Name::Routes, result);
    }

    /// Whether there are pods without a bridge, or will be. Leases that can't be read may be theirs.
    fn has_routed(&self) -> bool {
        let leases = Leases::new(self.start.paths.leases()).list();
        let running = leases.is_ok_and(|(leases, unreadable)| {
            !unreadable.is_empty() || leases.iter().any(|lease| lease.datapath == Datapath::Routed)
        });
        running || super::datapath(self.start.config.datapath) == Datapath::Routed
    }

    async fn ensure_sysctls(&mut self, desired: &RoutingConfig) {
        let device = desired.tunnel.map(|_| self.start.config.interface.clone());
        let routed = desired.routed;
        let result = blocking(move || sysctls(device.as_deref(), routed)).await;
        self.parts.settle(Name::Sysctls, result);
    }

    /// Puts back what others took away of running pods.
    async fn ensure_wiring(&mut self) {
        // Without it there has been no pod yet.
        let Ok(node) = NodeInfo::load(&self.start.paths) else { return };
        let result = pod::repair(&self.netlink, &self.start.paths, &node).await;
        self.parts.settle(Name::Wiring, result);
    }

    async fn ensure_egress(&mut self, own: &OwnNode, desired: &RoutingConfig) {
        let config = &self.start.config;
        let egress = EgressConfig {
            tunnel: config.interface.clone(),
            listen_port: config.listen_port,
            pod_cidrs: desired.pod_cidrs.clone(),
            fabric_addresses: desired.fabric_addresses(),
            own_addresses: own.internal.clone(),
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            non_masquerade_cidrs: config.non_masquerade_cidrs.clone(),
            member_addresses: desired.node_addresses.clone(),
        };
        let result = blocking(move || egress::ensure(&egress)).await;
        self.parts.settle(Name::Egress, result.map(|changes| changes.0));
    }

    /// Writes down what the CNI plugin needs and installs it, once all that pods need is in place.
    pub(super) async fn install(&mut self, own: &OwnNode) {
        let needed = [Name::Guard, Name::Link, Name::Routes, Name::Sysctls, Name::Tunnel, Name::Egress];
        if !self.parts.all_well(&needed) {
            self.parts.wait(Name::Pods, "the plugin waits for the rest of the node");
            return;
        }
        let mtu = match self.mtu(&own.internal).await {
            Ok(mtu) => mtu,
            Err(error) => {
                self.parts.settle(Name::Pods, Err(error));
                return;
            }
        };
        let info = self.node_info(own, mtu);
        let paths = self.start.paths.clone();
        let cni = self.start.config.cni.clone();
        let result = blocking(move || {
            let mut changes = Vec::new();
            if NodeInfo::load(&paths).ok().as_ref() != Some(&info) {
                info.save(&paths)?;
                changes.push("node.json".to_owned());
            }
            let written = pod::install(&paths, &cni.bin_dir, &cni.conf_dir, NETWORK)?;
            changes.extend(written.iter().map(|path| path.display().to_string()));
            if !is_ready(&paths) {
                mark_ready(&paths)?;
                changes.push("ready for pods".to_owned());
            }
            Ok::<_, anyhow::Error>(changes)
        });
        let result = result.await;
        self.parts.settle(Name::Pods, result);
    }
}

fn sysctls(tunnel: Option<&str>, routed: bool) -> Result<Vec<String>, sysctl::Error> {
    let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    if ipv6 && sysctl::read(fabric::IPV6_FORWARDING)? != "1" {
        gateway::keep_router_advertisements()?;
    }
    sysctl::ensure_all(fabric::sysctls(tunnel, ipv6, routed))
}
