//! `selvedge doctor`: what stands in the way of Selvedge on this node, before it is installed and after.
//!
//! Each check is a file: thin gathering of facts, from files below a root or by netlink, and a pure judgement of them.
//! Nothing of the node is changed. No other program is run, but one that a kubeconfig names to get credentials by.

mod clock;
pub mod cluster;
mod cni;
pub mod finding;
mod firewall;
pub mod host;
mod ini;
pub mod keys;
mod mtu;
mod network;
mod networkd;
mod networkmanager;
mod node;
mod port;
mod probe;
mod proxy;
mod ranges;
mod ruleset;
mod sysctls;
mod system;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::config::{Config, ConfigError, Datapath};
use crate::kernel;
use crate::kernel::netlink::Netlink;
use crate::paths::Paths;
use cluster::Access;
use finding::{Finding, Report};
use host::Host;
use network::Network;
use ruleset::Ruleset;

/// Where a configuration is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file, with what the command line and the environment say.
    File,
    /// The agent that runs here: its file is elsewhere, in its container.
    Agent,
    /// There is no file, and the agent gave none, for this reason.
    Unanswered(String),
}

/// What to look at.
#[derive(Debug)]
pub struct Doctor {
    /// Files of the node that are not Selvedge's.
    pub host: Host,
    /// Selvedge's own.
    pub paths: Paths,
    /// The configuration as the agent would read it.
    pub config: Result<Config, ConfigError>,
    /// Where it is from.
    pub source: Source,
    /// How to ask the cluster; none: leave it out.
    pub cluster: Option<Access>,
}

impl Doctor {
    /// Looks at everything.
    pub async fn examine(&self) -> Report {
        let config = self.config.as_ref().ok();
        let node = node::Facts::gather(&self.host, &self.paths, config).await;
        let mut findings = self.system(node.tunnel.is_ok()).await;
        findings.push(self.port(node.tunnel.as_ref().ok().map(|status| status.listen_port)));
        findings.push(clock::judge(kernel::clock::is_synchronised().ok()));
        findings.extend(self.files(node.installed));
        let cluster = match &self.cluster {
            Some(access) => cluster::look(access, config).await,
            None => cluster::Seen::default(),
        };
        let ways = mtu::Ways { node: cluster.own_addresses, peers: node.peers() };
        findings.extend(self.network(&ways, node.installed).await);
        findings.extend(node::judge(&node));
        findings.extend(cluster.findings);
        let (version, suggested_config) = (env!("CARGO_PKG_VERSION"), cluster.suggestion);
        Report { version, installed: node.installed, findings, suggested_config }
    }

    async fn system(&self, tunnel: bool) -> Vec<Finding> {
        let routed = self.config.as_ref().is_ok_and(|config| config.datapath == Datapath::Routed);
        system::judge(&system::Facts::gather(&self.host), &probe::run().await, routed, tunnel)
    }

    fn port(&self, tunnel: Option<u16>) -> Finding {
        /// The default.
        const PORT: u16 = 51830;
        let port = self.config.as_ref().map_or(PORT, |config| config.listen_port);
        port::judge(&port::Facts::gather(&self.host, port, tunnel), port)
    }

    fn configuration(&self, installed: bool) -> Finding {
        let mut finding = ranges::configuration(&self.source(), &self.config, installed);
        if let (Source::Unanswered(why), true) = (&self.source, installed) {
            finding.seen += &format!("; the agent was asked for its own: {why}");
        }
        finding
    }

    /// Where the configuration is.
    fn source(&self) -> String {
        let path = self.paths.config.display();
        match self.source {
            Source::Agent => format!("what the agent runs with (there is no {path} here)"),
            Source::File | Source::Unanswered(_) => path.to_string(),
        }
    }

    /// What is in files alone.
    fn files(&self, installed: bool) -> Vec<Finding> {
        let config = self.config.as_ref().ok();
        let interface = config.map_or("selvedge0", |config| &config.interface);
        let root = nix::unistd::geteuid().is_root();
        let mut findings =
            vec![self.configuration(installed), keys::judge(&keys::Facts::gather(&self.paths.keys()), root)];
        findings.extend(sysctls::judge(&sysctls::Facts::gather(&self.host, config, installed), config));
        findings.extend(networkd::judge(&networkd::Facts::gather(&self.host)));
        findings.extend(networkmanager::judge(&networkmanager::Facts::gather(&self.host), interface));
        findings
    }

    /// What takes netlink.
    async fn network(&self, ways: &mtu::Ways, installed: bool) -> Vec<Finding> {
        let config = self.config.as_ref().ok();
        let network = async { Network::gather(&Netlink::new()?).await };
        let network = match network.await {
            Ok(network) => network,
            Err(error) => return vec![Finding::skipped("network", error.to_string())],
        };
        let folder = config.map_or(PathBuf::from("/etc/cni/net.d"), |config| config.cni.conf_dir.clone());
        let mut findings = mtu::judge(&network, config, ways, installed);
        findings.extend(config.into_iter().flat_map(|config| ranges::judge(config, &network)));
        findings.extend(cni::judge(&cni::Facts::gather(&self.host, &folder), &network, installed));
        match Ruleset::gather(&self.host) {
            Ok(ruleset) => {
                findings.push(proxy::judge(&network, &ruleset));
                findings.extend(firewall::judge(&ruleset, config, network.has_link("docker0")));
            }
            Err(error) => findings.push(Finding::skipped("firewall", error.to_string())),
        }
        findings
    }
}
