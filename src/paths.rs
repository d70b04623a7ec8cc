//! Where Selvedge keeps its files on a node.

use std::path::{Path, PathBuf};

/// The folders and files of one node. Every process of the node is given the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Configuration file, `/etc/selvedge/config.toml`.
    pub config: PathBuf,
    /// What outlives a reboot: keys and accepted records, `/var/lib/selvedge`.
    pub state: PathBuf,
    /// What a reboot clears: sockets, leases, the tunnel's accepted configuration, `/run/selvedge`.
    pub run: PathBuf,
    /// Where the standard WireGuard tools look for UAPI sockets, `/var/run/wireguard`.
    pub uapi: PathBuf,
    /// Where the kernel's settings are, `/proc/sys`; only `net` below it is used. See `kernel::sysctl`.
    pub sysctl: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            config: "/etc/selvedge/config.toml".into(),
            state: "/var/lib/selvedge".into(),
            run: "/run/selvedge".into(),
            uapi: "/var/run/wireguard".into(),
            sysctl: "/proc/sys".into(),
        }
    }
}

impl Paths {
    /// The defaults, each overridden by its environment variable: `SELVEDGE_CONFIG`, `SELVEDGE_STATE_DIR`,
    /// `SELVEDGE_RUN_DIR`, `SELVEDGE_UAPI_DIR`, `SELVEDGE_SYSCTL_DIR`.
    #[must_use]
    pub fn from_env() -> Self {
        let default = Self::default();
        let path = |name: &str, value: PathBuf| std::env::var_os(name).map_or(value, PathBuf::from);
        Self {
            config: path("SELVEDGE_CONFIG", default.config),
            state: path("SELVEDGE_STATE_DIR", default.state),
            run: path("SELVEDGE_RUN_DIR", default.run),
            uapi: path("SELVEDGE_UAPI_DIR", default.uapi),
            sysctl: path("SELVEDGE_SYSCTL_DIR", default.sysctl),
        }
    }

    /// The same of a node whose root is at `root`.
    #[must_use]
    pub fn below(&self, root: &Path) -> Self {
        let below = |path: &PathBuf| root.join(path.strip_prefix("/").unwrap_or(path));
        Self {
            config: below(&self.config),
            state: below(&self.state),
            run: below(&self.run),
            uapi: below(&self.uapi),
            sysctl: below(&self.sysctl),
        }
    }

    /// The key store, a folder of mode 0700.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    /// The accepted claims of other nodes (UID, keys, epoch, CIDRs).
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.state.join("records.json")
    }

    /// The rotation of this node's keys that runs, if one does.
    #[must_use]
    pub fn rotation(&self) -> PathBuf {
        self.state.join("rotation.json")
    }

    /// The rotation of this node's keys that ended last.
    #[must_use]
    pub fn last_rotation(&self) -> PathBuf {
        self.state.join("last-rotation.json")
    }

    /// The keys that operators have revoked.
    #[must_use]
    pub fn revoked(&self) -> PathBuf {
        self.state.join("revoked.json")
    }

    /// The audit log of this node's keys, a folder of mode 0700.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// The cluster's API servers, as they were known last.
    #[must_use]
    pub fn api_servers(&self) -> PathBuf {
        self.state.join("api-servers.json")
    }

    /// The ranges of Services that ServiceCIDR objects have added to the configured ones.
    #[must_use]
    pub fn service_cidrs(&self) -> PathBuf {
        self.state.join("service-cidrs.json")
    }

    /// What the CNI plugin needs to know of this node when the agent is down: see `pod::node`.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.state.join("node.json")
    }

    /// Control API of the tunnel for `device`.
    #[must_use]
    pub fn tunnel_socket(&self, device: &str) -> PathBuf {
        self.run.join(format!("tunnel-{device}.sock"))
    }

    /// Where the next tunnel process of `device` asks the one before to hand over.
    #[must_use]
    pub fn tunnel_door(&self, device: &str) -> PathBuf {
        self.run.join(format!("tunnel-{device}.door"))
    }

    /// The configuration that the tunnel for `device` last accepted over its control API; holds no key.
    #[must_use]
    pub fn tunnel_config(&self, device: &str) -> PathBuf {
        self.run.join(format!("tunnel-{device}.json"))
    }

    /// UAPI socket of the tunnel for `device`.
    #[must_use]
    pub fn uapi_socket(&self, device: &str) -> PathBuf {
        self.uapi.join(format!("{device}.sock"))
    }

    /// The agent's own socket, for the command line.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// Where the holder of Services' ports is told what to hold.
    #[must_use]
    pub fn ports_socket(&self) -> PathBuf {
        self.run.join("ports.sock")
    }

    /// The CNI plugin's leases: one file per address.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.run.join("leases")
    }
}
