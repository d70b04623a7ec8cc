//! What the CNI plugin has to know of its node, written down by the agent so that pods start while it is down.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::file::{self, Durability};
use crate::kernel::route::Route;
use crate::mtu;
use crate::paths::Paths;

/// Metric of the unreachable routes behind the routes into the tunnel.
pub const UNREACHABLE_METRIC: u32 = 51830;

/// `node.json` in the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Name of the Node object.
    pub node_name: String,
    /// UID of the Node object.
    pub node_uid: String,
    /// `spec.podCIDRs` of the Node object: at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Where all pods of the cluster have their addresses.
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// Where all Services of the cluster have their addresses.
    pub service_cidrs: Vec<IpNet>,
    /// What may speak to pods from outside the fabric.
    #[serde(default)]
    pub trusted_sources: Vec<IpNet>,
    /// Largest packet of a pod, in bytes: the underlay's less 80.
    pub mtu: u32,
    /// How pods are connected to the node.
    #[serde(default)]
    pub datapath: Datapath,
    /// The tunnel's UDP port, which no pod may have.
    #[serde(default)]
    pub tunnel_port: Option<u16>,
}

/// How pods are connected to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Datapath {
    /// Isolated ports of one bridge.
    #[default]
    Bridge,
    /// A link of its own for each, without a bridge.
    Routed,
}

/// Why `node.json` or the readiness marker is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent has not written it yet.
    #[error("{} is not there yet: the agent of this node has not finished its first start", .0.display())]
    Missing(PathBuf),
    /// It can't be read or written.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// Read or write.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It makes no sense.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl NodeInfo {
    /// Reads it.
    pub fn load(paths: &Paths) -> Result<Self, Error> {
        let path = paths.node();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(path)),
            Err(source) => return Err(Error::Io { what: "read", path, source }),
        };
        let info: Self = match serde_json::from_slice(&text) {
            Ok(info) => info,
            Err(source) => return Err(Error::Json { path, source }),
        };
        match info.problem() {
            None => Ok(info),
            Some(reason) => Err(Error::Invalid { path, reason }),
        }
    }

    /// Writes it, so that a reader or a power cut finds the old or the new one.
    pub fn save(&self, paths: &Paths) -> Result<(), Error> {
        let path = paths.node();
        let mut text =
            serde_json::to_vec_pretty(self).map_err(|source| Error::Json { path: path.clone(), source })?;
        text.push(b'\n');
        file::replace(&path, 0o644, Durability::Disk, &text).map_err(|source| Error::Io {
            what: "write",
            path,
            source,
        })
    }

    /// What makes it unusable, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let count = |ipv6: bool| self.pod_cidrs.iter().filter(|net| net.addr().is_ipv6() == ipv6).count();
        if self.pod_cidrs.is_empty() {
            return Some("the node has no pod CIDR".to_owned());
        }
        if count(false) > 1 || count(true) > 1 {
            return Some("the node has several pod CIDRs of one family".to_owned());
        }
        let outside = |net: &&IpNet| !self.cluster_pod_cidrs.iter().any(|cluster| cluster.contains(*net));
        if let Some(net) = self.pod_cidrs.iter().find(outside) {
            return Some(format!("pod CIDR {net} is not within the cluster's pod CIDRs"));
        }
        let least = mtu::least(count(true) > 0);
        (self.mtu < least).then(|| format!("an MTU of {} is below the least of {least}", self.mtu))
    }

    /// The fabric addresses: first usable one of each pod CIDR, gateway of the pods.
    #[must_use]
    pub fn fabric_addresses(&self) -> Vec<IpAddr> {
        self.pod_cidrs.iter().map(fabric_address).collect()
    }

    /// The fabric address of a family.
    #[must_use]
    pub fn fabric(&self, ipv6: bool) -> Option<IpAddr> {
        self.fabric_addresses().into_iter().find(|address| address.is_ipv6() == ipv6)
    }

    /// This node's [`unreachable_routes`].
    #[must_use]
    pub fn unreachable_routes(&self) -> Vec<Route> {
        unreachable_routes(&self.pod_cidrs, &self.cluster_pod_cidrs)
    }
}

/// The routes of the main table that keep pod traffic from leaving by a default route while there is no better one: for
/// the node's own pod CIDRs (a running pod has a longer prefix) and for all pod CIDRs of the cluster. Each once, sorted.
///
/// Agent and CNI plugin both ensure them.
#[must_use]
pub fn unreachable_routes(pod_cidrs: &[IpNet], cluster_pod_cidrs: &[IpNet]) -> Vec<Route> {
    let nets = pod_cidrs.iter().chain(cluster_pod_cidrs);
    let mut routes: Vec<Route> =
        nets.map(|net| Route::unreachable(net.trunc()).with_metric(UNREACHABLE_METRIC)).collect();
    routes.sort();
    routes.dedup();
    routes
}

/// First usable address of a pod CIDR: network + 1.
#[must_use]
pub fn fabric_address(pod_cidr: &IpNet) -> IpAddr {
    match pod_cidr.network() {
        IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) | 1).into(),
        IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) | 1).into(),
    }
}

/// Tells the container runtime (by CNI STATUS) that pods may come. Call it when tunnel, routes, guard and egress
/// are in place; it holds until the next boot, whatever becomes of the agent.
pub fn mark_ready(paths: &Paths) -> Result<(), Error> {
    let path = marker(paths);
    file::replace(&path, 0o644, Durability::Memory, b"").map_err(|source| Error::Io {
        what: "write",
        path,
        source,
    })
}

/// Takes [`mark_ready`] back.
pub fn clear_ready(paths: &Paths) -> Result<(), Error> {
    let path = marker(paths);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove", path, source })
        }
        _ => Ok(()),
    }
}

/// Whether [`mark_ready`] was called since boot.
#[must_use]
pub fn is_ready(paths: &Paths) -> bool {
    marker(paths).exists()
}

fn marker(paths: &Paths) -> PathBuf {
    paths.run.join("ready")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::pod) fn paths(folder: &std::path::Path) -> Paths {
        Paths { state: folder.join("state"), run: folder.join("run"), ..Paths::default() }
    }

    pub(in crate::pod) fn info() -> NodeInfo {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        NodeInfo {
            node_name: "one".to_owned(),
            node_uid: "0-1".to_owned(),
            pod_cidrs: nets(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
            cluster_pod_cidrs: nets(&["10.244.0.0/16", "fd00:10:244::/48"]),
            service_cidrs: nets(&["10.96.0.0/16", "fd00:10:96::/108"]),
            trusted_sources: vec![],
            mtu: 1420,
            datapath: Datapath::Bridge,
            tunnel_port: Some(51830),
        }
    }

    #[test]
    fn written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        assert!(matches!(NodeInfo::load(&paths), Err(Error::Missing(_))));
        info().save(&paths).unwrap();
        assert_eq!(NodeInfo::load(&paths).unwrap(), info());
        std::fs::write(paths.node(), b"{").unwrap();
        assert!(matches!(NodeInfo::load(&paths), Err(Error::Json { .. })));
        NodeInfo { pod_cidrs: vec![], ..info() }.save(&paths).unwrap();
        assert!(matches!(NodeInfo::load(&paths), Err(Error::Invalid { .. })));
    }

    #[test]
    fn fabric_is_the_first_usable_address() {
        let texts: Vec<String> = info().fabric_addresses().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.244.1.1", "fd00:10:244:1::1"]);
    }

    #[test]
    fn unreachable_routes_come_each_once() {
        let cluster = info().cluster_pod_cidrs;
        let destinations = |own: &[IpNet]| -> Vec<String> {
            unreachable_routes(own, &cluster).iter().map(|route| route.destination.to_string()).collect()
        };
        let both = ["10.244.0.0/16", "10.244.1.0/24", "fd00:10:244::/48", "fd00:10:244:1::/64"];
        assert_eq!(destinations(&info().pod_cidrs), both);
        assert_eq!(destinations(&cluster), ["10.244.0.0/16", "fd00:10:244::/48"], "a cluster of one node");
    }

    #[test]
    fn problems_are_named() {
        let twice = vec!["10.244.1.0/24".parse().unwrap(), "10.244.2.0/24".parse().unwrap()];
        assert!(NodeInfo { pod_cidrs: twice, ..info() }.problem().unwrap().contains("several"));
        let outside = vec!["10.1.1.0/24".parse().unwrap()];
        assert!(NodeInfo { pod_cidrs: outside, ..info() }.problem().unwrap().contains("10.1.1.0/24"));
        assert!(NodeInfo { mtu: 1200, ..info() }.problem().unwrap().contains("1280"));
    }

    #[test]
    fn ready_until_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        assert!(!is_ready(&paths));
        mark_ready(&paths).unwrap();
        assert!(is_ready(&paths));
        clear_ready(&paths).unwrap();
        clear_ready(&paths).unwrap();
        assert!(!is_ready(&paths));
    }
}
