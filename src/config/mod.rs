//! The configuration of a node: `/etc/selvedge/config.toml`, with flags before environment before file.
//!
//! In the order in which a value passes: [`Overrides`] (flags and environment) and the file's raw form are
//! merged, checked all together so that a person sees every problem at once, and become a [`Config`].

mod cidr;
mod error;
mod key_policy;
mod merge;
mod node_ports;
mod overrides;
pub mod range;
mod raw;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use key_policy::{KeyPolicy, LONGEST_CRYPTOPERIOD, Rotate};
pub use node_ports::NodePortAddresses;
pub use overrides::Overrides;
pub use range::ClusterRanges;

/// Default of `agent.missingNodeGrace`, in seconds.
const DEFAULT_MISSING_NODE_GRACE: u32 = 600;
/// Most endpoints that a node may have.
pub const MAX_ENDPOINTS: usize = 8;

/// The checked configuration of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Name of this node's Node object; the lower-case host name by default.
    pub node_name: String,
    /// Every pod address of the cluster, both families.
    #[serde(rename = "clusterPodCIDRs")]
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// Every Service address of the cluster, both families.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// Destinations outside the cluster that see pods' own addresses.
    #[serde(rename = "nonMasqueradeCIDRs")]
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Who may speak to pods from outside the fabric, unencrypted: an API server that is no Node, say.
    pub trusted_sources: Vec<IpNet>,
    /// Name of the TUN device.
    pub interface: String,
    /// UDP port of the tunnel.
    pub listen_port: u16,
    /// MTU of the underlay, in bytes; found out when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Where other nodes reach this one, in order of preference; found out when empty.
    pub endpoints: Vec<SocketAddr>,
    /// Seconds between keepalives to every peer; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
    /// Site or cloud of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// How pods are wired.
    pub datapath: Datapath,
    /// Whether the agent keeps accept rules for pods in iptables' chain `DOCKER-USER` or `FORWARD` (iptables-nft).
    #[serde(default)]
    pub iptables_forward_rules: bool,
    /// Whether the agent serves Services.
    #[serde(default)]
    pub services: Services,
    /// Which of this node's addresses have node ports, where the agent serves Services.
    #[serde(default = "default_node_port_addresses")]
    pub node_port_addresses: Vec<NodePortAddresses>,
    /// Whether the agent removes stale rules of a stopped kube-proxy, where it serves Services.
    #[serde(default)]
    pub remove_kube_proxy_rules: bool,
    /// Mark (`SO_MARK`) of encrypted datagrams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall_mark: Option<u32>,
    /// Conntrack's settings, where the agent serves Services.
    #[serde(default)]
    pub conntrack: Conntrack,
    /// How long keys may be used, and who rotates them.
    #[serde(default)]
    pub keys: KeyPolicy,
    /// Where the container runtime looks for CNI plugins.
    pub cni: Cni,
    /// The agent's own settings.
    pub agent: Agent,
}

/// How pods are wired to the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// Each pod is an isolated port of a bridge.
    #[default]
    Bridge,
    /// The node routes to each pod's own link; no bridge is between.
    Routed,
}

/// Who serves Services on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Services {
    /// Somebody else, such as kube-proxy.
    #[default]
    Off,
    /// The agent, unless kube-proxy runs on the node.
    Auto,
    /// The agent.
    On,
}

/// What the agent makes of conntrack's settings where it serves Services. A value of 0 leaves a setting as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    /// How many connections there may be, unless more are allowed already; by default it depends on the number of cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// Seconds for which an established TCP connection may be silent.
    pub tcp_established_timeout: u32,
    /// Seconds for which a TCP connection may be closed by one side alone.
    pub tcp_close_wait_timeout: u32,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self { max: None, tcp_established_timeout: 86_400, tcp_close_wait_timeout: 3_600 }
    }
}

/// The folders of the container runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cni {
    /// Where plugins are.
    pub bin_dir: PathBuf,
    /// Where network configurations are.
    pub conf_dir: PathBuf,
}

/// Settings of `selvedge agent`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub metrics_address: SocketAddr,
    /// The kubeconfig to use; in-cluster, `KUBECONFIG` or `~/.kube/config` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Key of the taint that holds pods back from a new node, taken off once the node is ready for them.
    pub startup_taint: String,
    /// Seconds for which a Node that a list lacks, and that nothing has reported as deleted, is kept.
    #[serde(default = "default_missing_node_grace")]
    pub missing_node_grace: u32,
}

fn default_node_port_addresses() -> Vec<NodePortAddresses> {
    vec![NodePortAddresses::Primary]
}

fn default_missing_node_grace() -> u32 {
    DEFAULT_MISSING_NODE_GRACE
}

impl Config {
    /// Whether there may be IPv6 pods.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.cluster_pod_cidrs.iter().any(|net| net.addr().is_ipv6())
    }

    /// Reads and checks the file at `path`, with `overrides` put before what it says. There need not be a file
    /// if the overrides say all that is required.
    ///
    /// # Errors
    /// Every problem found, each with its line or flag and what to write instead.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text, overrides),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::parse(path, "", overrides).map_err(ConfigError::without_file)
            }
            Err(source) => Err(ConfigError::Read { path: path.into(), source }),
        }
    }

    /// Checks `text` as the content of the file at `path`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let raw = raw::parse(text).map_err(|problem| ConfigError::invalid(path, vec![problem]))?;
        merge::config(raw, overrides, text).map_err(|problems| ConfigError::invalid(path, problems))
    }

    /// The ranges of pods and Services.
    #[must_use]
    pub fn ranges(&self) -> ClusterRanges {
        ClusterRanges { pods: self.cluster_pod_cidrs.clone(), services: self.service_cidrs.clone() }
    }

    /// The endpoint that an `ip` or `ip:port` means: without a port, the tunnel's own.
    fn endpoint(text: &str, listen_port: u16) -> Option<SocketAddr> {
        let with_port = text.parse().ok();
        with_port.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, listen_port)))
    }
}

#[cfg(test)]
mod tests;
