//! ADD: all of it, or nothing.

use std::path::PathBuf;

use super::admission::{self, admit};
use super::attachment::{Attachment, PodName};
use super::error::{Code, Error};
use super::gateway::{self, BRIDGE, BRIDGE_MAC};
use super::hostport;
use super::lease::{GRACE, Holder, Lease, Leases};
use super::mapping::{HostPort, Protocol};
use super::node::{Datapath, NodeInfo};
use super::pool::Pool;
use super::release::release;
use super::reply::{Added, Wired};
use super::request::{Config, Version};
use super::wiring::{self, Wiring};
use super::{spoof, vanished};
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::NetNs;
use crate::local::Client;
use crate::paths::Paths;

/// A pod interface to make.
#[derive(Debug)]
pub(super) struct Add {
    pub(super) config: Config,
    pub(super) attachment: Attachment,
    pub(super) netns: PathBuf,
    pub(super) pod: PodName,
    pub(super) host_ports: Vec<HostPort>,
    pub(super) paths: Paths,
}

impl Add {
    /// Makes it and tells what was made. After an error nothing is left of it.
    pub(super) async fn run(self, version: Version) -> Result<Added, Error> {
        let node = NodeInfo::load(&self.paths)?;
        let netns = self.open()?;
        let netlink = Netlink::new()?;
        let bridge = self.prepare(&netlink, &node).await?;
        let leases = Leases::new(self.paths.leases());
        let vanished = vanished::release(&leases, &node, &self.netns);
        let lease = self.lease(&leases, &node, &netns).map_err(|error| with_vanished(error, vanished))?;
        let built = async {
            spoof::ensure_behind(&leases.list()?.0, &node).map_err(wiring::Error::from)?;
            Wiring { lease: &lease, node: &node, bridge }.build(&netlink, &netns).await?;
            hostport::open(&netlink, &leases, &lease, &node).await?;
            admit(&self.agent(), &lease).await
        };
        if let Err(error) = built.await {
            return Err(self.undo(&netlink, &node, error).await);
        }
        Ok(self.added(version, &node, &lease))
    }

    fn open(&self) -> Result<NetNs, Error> {
        let netns = NetNs::open(&self.netns)?;
        if netns.is_same(&NetNs::current()?) {
            let reason = format!("{} is the node's own network namespace", self.netns.display());
            return Err(Error::new(Code::InvalidEnvironment, "CNI_NETNS is not a pod's", reason));
        }
        Ok(netns)
    }

    /// What has to be there before any pod: guard, unreachable routes, bridge, sysctls.
    async fn prepare(&self, netlink: &Netlink, node: &NodeInfo) -> Result<u32, Error> {
        let unguarded = |error: &dyn std::fmt::Display| {
            Error::new(Code::Unguarded, "pods can't be kept from speaking in the clear here", error)
        };
        gateway::ensure_guard(node).map_err(|error| unguarded(&error))?;
        gateway::ensure_unreachable(netlink, node).await.map_err(|error| unguarded(&error))?;
        Ok(gateway::ensure(netlink, node).await?)
    }

    fn lease(&self, leases: &Leases, node: &NodeInfo, netns: &NetNs) -> Result<Lease, Error> {
        let tunnels =
            |port: &&HostPort| port.protocol == Protocol::Udp && Some(port.host_port) == node.tunnel_port;
        if let Some(port) = self.host_ports.iter().find(tunnels) {
            return Err(Error::new(
                Code::HostPortTaken,
                "the host port is in use",
                format!("{port} is the tunnel's"),
            ));
        }
        let holder = Holder {
            network: self.config.network.clone(),
            attachment: self.attachment.clone(),
            netns: self.netns.clone(),
            netns_id: netns.id(),
            pod: self.pod.clone(),
            mtu: node.mtu,
            datapath: node.datapath,
            host_ports: self.host_ports.clone(),
        };
        Ok(leases.lock()?.take(&Pool::new(&node.pod_cidrs), holder)?)
    }

    fn agent(&self) -> Client {
        Client::new(&self.paths.agent_socket()).with_timeout(admission::PATIENCE)
    }

    /// Takes back what was made; gives the error that led here, and what went wrong on the way back.
    async fn undo(&self, netlink: &Netlink, node: &NodeInfo, mut error: Error) -> Error {
        let leases = Leases::new(self.paths.leases());
        let further = release(netlink, &leases, Some(node), &self.attachment).await;
        if !further.is_empty() {
            error.details = format!("{}; and taking it back failed: {}", error.details, further.join("; "));
        }
        error
    }

    fn added(&self, version: Version, node: &NodeInfo, lease: &Lease) -> Added {
        let port = self.attachment.port();
        let with_gateway = |address: std::net::IpAddr| Some((address, node.fabric(address.is_ipv6())?));
        let wired = Wired {
            bridge: (lease.datapath == Datapath::Bridge).then_some((BRIDGE, BRIDGE_MAC)),
            port: (&port.name, wiring::port_mac(lease)),
            pod: (&self.attachment.interface, port.pod_mac),
            netns: &self.netns,
            mtu: lease.mtu,
            addresses: lease.addresses.iter().filter_map(with_gateway).collect(),
            dns: self.config.dns.clone(),
        };
        Added::new(version, wired)
    }
}

/// Says of an address or host port that is not to be had that pods which are gone have some, or why they still do.
fn with_vanished(error: Error, vanished: Result<usize, vanished::Error>) -> Error {
    let note = match vanished {
        _ if !matches!(error.code, Code::NoAddresses | Code::HostPortTaken) => return error,
        Ok(0) => return error,
        Ok(count) => {
            format!("{count} pods are gone without DEL; what they had is free {GRACE:?} after that was seen")
        }
        Err(error) => format!("what pods have that are gone could not be released: {error}"),
    };
    Error { details: format!("{}; {note}", error.details), ..error }
}
