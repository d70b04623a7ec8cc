//! What the command line and the environment say instead of the file.

use std::path::PathBuf;

use clap::Parser as _;

/// Flags of every verb that reads the configuration; each has an environment variable too, and both come before
/// the file. An empty value counts as none. Lists are comma-separated.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Configuration (before the file)")]
pub struct Overrides {
    /// Name of this node's Node object.
    #[arg(long, env = "SELVEDGE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Every pod address of the cluster, both families.
    #[arg(long, env = "SELVEDGE_CLUSTER_POD_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub cluster_pod_cidrs: Option<Vec<String>>,
    /// Every Service address of the cluster, both families.
    #[arg(long, env = "SELVEDGE_SERVICE_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub service_cidrs: Option<Vec<String>>,
    /// Destinations outside the cluster that see pods' own addresses.
    #[arg(long, env = "SELVEDGE_NON_MASQUERADE_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub non_masquerade_cidrs: Option<Vec<String>>,
    /// Who may speak to pods from outside the fabric, unencrypted.
    #[arg(long, env = "SELVEDGE_TRUSTED_SOURCES", value_name = "CIDRS", value_delimiter = ',')]
    pub trusted_sources: Option<Vec<String>>,
    /// Name of the TUN device.
    #[arg(long, env = "SELVEDGE_INTERFACE", value_name = "NAME")]
    pub interface: Option<String>,
    /// UDP port of the tunnel.
    #[arg(long, env = "SELVEDGE_LISTEN_PORT", value_name = "PORT")]
    pub listen_port: Option<String>,
    /// MTU of the underlay.
    #[arg(long, env = "SELVEDGE_MTU", value_name = "BYTES")]
    pub mtu: Option<String>,
    /// Where other nodes reach this one: `ip` or `ip:port`, in order of preference.
    #[arg(long, env = "SELVEDGE_ENDPOINTS", value_name = "ENDPOINTS", value_delimiter = ',')]
    pub endpoints: Option<Vec<String>>,
    /// Seconds between keepalives to every peer; 0 sends none.
    #[arg(long, env = "SELVEDGE_PERSISTENT_KEEPALIVE", value_name = "SECONDS")]
    pub persistent_keepalive: Option<String>,
    /// Site or cloud of this node.
    #[arg(long, env = "SELVEDGE_LOCATION", value_name = "NAME")]
    pub location: Option<String>,
    /// How pods are wired: `bridge` or `routed`.
    #[arg(long, env = "SELVEDGE_DATAPATH", value_name = "KIND")]
    pub datapath: Option<String>,
    /// Keep accept rules for pods in iptables' chain DOCKER-USER or FORWARD (iptables-nft): `true` or `false`.
    #[arg(long, env = "SELVEDGE_IPTABLES_FORWARD_RULES", value_name = "BOOLEAN")]
    pub iptables_forward_rules: Option<String>,
    /// Whether the agent serves Services: `on`, `off`, or `auto` (unless kube-proxy runs).
    #[arg(long, env = "SELVEDGE_SERVICES", value_name = "WHETHER")]
    pub services: Option<String>,
    /// Remove stale rules of a stopped kube-proxy, where the agent serves Services: `true` or `false`.
    #[arg(long, env = "SELVEDGE_REMOVE_KUBE_PROXY_RULES", value_name = "BOOLEAN")]
    pub remove_kube_proxy_rules: Option<String>,
    /// Which of this node's addresses have node ports: `primary`, `all`, `localhost`, or ranges.
    #[arg(long, env = "SELVEDGE_NODE_PORT_ADDRESSES", value_name = "ADDRESSES", value_delimiter = ',')]
    pub node_port_addresses: Option<Vec<String>>,
    /// Mark of encrypted datagrams, decimal or 0x.
    #[arg(long, env = "SELVEDGE_FIREWALL_MARK", value_name = "MARK")]
    pub firewall_mark: Option<String>,
    /// Connections that conntrack has room for at least; 0 leaves it as it is.
    #[arg(long, env = "SELVEDGE_CONNTRACK_MAX", value_name = "NUMBER")]
    pub conntrack_max: Option<String>,
    /// Seconds for which an established TCP connection may be silent; 0 leaves it as it is.
    #[arg(long, env = "SELVEDGE_CONNTRACK_TCP_ESTABLISHED_TIMEOUT", value_name = "SECONDS")]
    pub conntrack_tcp_established_timeout: Option<String>,
    /// Seconds for which a TCP connection may be closed by one side alone; 0 leaves it as it is.
    #[arg(long, env = "SELVEDGE_CONNTRACK_TCP_CLOSE_WAIT_TIMEOUT", value_name = "SECONDS")]
    pub conntrack_tcp_close_wait_timeout: Option<String>,
    /// How long a key may be used.
    #[arg(long, env = "SELVEDGE_KEYS_CRYPTOPERIOD", value_name = "TIME")]
    pub keys_cryptoperiod: Option<String>,
    /// Who rotates a key that is about to expire: `manual` (an operator) or `auto` (the agent).
    #[arg(long, env = "SELVEDGE_KEYS_ROTATE", value_name = "WHO")]
    pub keys_rotate: Option<String>,
    /// Who is responsible for the keys.
    #[arg(long, env = "SELVEDGE_KEYS_CUSTODIAN", value_name = "TEXT")]
    pub keys_custodian: Option<String>,
    /// Least age of a key that the agent rotates by itself.
    #[arg(long, env = "SELVEDGE_KEYS_MINIMUM_INTERVAL", value_name = "TIME")]
    pub keys_minimum_interval: Option<String>,
    /// How long before its expiry the agent warns of a key.
    #[arg(long, env = "SELVEDGE_KEYS_WARN_BEFORE", value_name = "TIME")]
    pub keys_warn_before: Option<String>,
    /// Where the container runtime looks for CNI plugins.
    #[arg(long, env = "SELVEDGE_CNI_BIN_DIR", value_name = "DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Where the container runtime looks for network configurations.
    #[arg(long, env = "SELVEDGE_CNI_CONF_DIR", value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the agent serves health and metrics, `ip:port`.
    #[arg(long, env = "SELVEDGE_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<String>,
    /// The kubeconfig to use.
    #[arg(long, env = "SELVEDGE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Key of the taint that holds pods back from a new node.
    #[arg(long, env = "SELVEDGE_STARTUP_TAINT", value_name = "KEY")]
    pub startup_taint: Option<String>,
    /// Seconds for which a Node that a list lacks is kept.
    #[arg(long, env = "SELVEDGE_MISSING_NODE_GRACE", value_name = "SECONDS")]
    pub missing_node_grace: Option<String>,
}

impl Overrides {
    /// Those of the environment alone, for programs that have no flags of their own.
    #[must_use]
    pub fn from_env() -> Self {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            overrides: Overrides,
        }
        Nothing::try_parse_from(["selvedge"]).map(|nothing| nothing.overrides).unwrap_or_default()
    }
}
