//! Who has which addresses: one file per pod interface, safe against being killed at any point.
//!
//! The folder holds files named `ADDRESSES@PORT`, each a lease, and `ADDRESSES~NUMBER`, addresses that came back,
//! numbered in the order of coming back. Addresses of both families are one name, so a lease is one `link(2)` and
//! giving it back one `rename(2)`: there is no state in between. A file `PORT!SECONDS` beside a lease says since when, in
//! seconds since boot, its pod has been seen to be gone. Changes happen under a lock on the folder itself,
//! which the kernel drops with the process.

mod folder;
mod gone;
mod listing;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::attachment::{Attachment, PodName};
use super::mapping::HostPort;
use super::node::Datapath;
use super::pool::Addresses;
pub use folder::{Leases, Locked};
pub use gone::GRACE;

/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(10);

/// A lease as it is in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Name of the network.
    pub network: String,
    /// Container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The pod's network namespace when it was added.
    pub netns: PathBuf,
    /// Its device and inode, which tell it from another one that the path names later.
    #[serde(default, rename = "netnsID", skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<(u64, u64)>,
    /// The pod, if the runtime said.
    #[serde(default)]
    pub pod: PodName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Largest packet of its interface, in bytes: the node's when it was added.
    pub mtu: u32,
    /// How it was connected.
    #[serde(default)]
    pub datapath: Datapath,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// What to lease for.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Name of the network.
    pub network: String,
    /// Container and interface.
    pub attachment: Attachment,
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// Its device and inode.
    pub netns_id: Option<(u64, u64)>,
    /// The pod, if the runtime said.
    pub pod: PodName,
    /// Largest packet of its interface, in bytes.
    pub mtu: u32,
    /// How it is to be connected.
    pub datapath: Datapath,
    /// Ports of the node that are to lead to it.
    pub host_ports: Vec<HostPort>,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every address is somebody's.
    #[error(
        "all {capacity} pod addresses of this node are in use; delete pods here, or give nodes larger pod CIDRs"
    )]
    NoAddresses {
        /// How many pods fit.
        capacity: u32,
    },
    /// ADD was called twice.
    #[error("{0} has addresses already; DEL has to come first")]
    Exists(Attachment),
    /// Another pod has it.
    #[error("{port} leads to {holder} already")]
    HostPortTaken {
        /// The port of the node.
        port: HostPort,
        /// Who has it.
        holder: String,
    },
    /// Another process holds the lock.
    #[error("{} has been locked by another process for {PATIENCE:?}", .0.display())]
    Busy(PathBuf),
    /// The folder or a file in it can't be used.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A lease is not what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// A file that should be a lease, and is not.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Unreadable {
    /// The addresses that it is about, as its name says.
    pub addresses: Addresses,
    /// What is wrong with it.
    source: Error,
}

impl Lease {
    /// Whose it is, as people know it.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.pod {
            pod if pod.name.is_empty() => self.attachment.to_string(),
            pod => format!("pod {}/{} ({})", pod.namespace, pod.name, self.attachment),
        }
    }
}
