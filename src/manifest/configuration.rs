//! The text of config.toml, and what it says.

use std::fmt::Write as _;
use std::path::Path;

use ipnet::IpNet;

use super::Distribution;
use crate::config::{ClusterRanges, Config, ConfigError, Overrides};

/// The configuration for these ranges on this distribution.
#[must_use]
pub fn text(ranges: &ClusterRanges, distribution: Distribution) -> String {
    let mut text = format!(
        "# Written by `selvedge install`. Every option is explained in deploy/base/config.toml.\n\
         clusterPodCIDRs = {}\nserviceCIDRs = {}\n",
        list(&ranges.pods),
        list(&ranges.services)
    );
    if let Some(cni) = distribution.folders() {
        let (programs, configurations) = (cni.bin_dir.display(), cni.conf_dir.display());
        write!(text, "\n[cni]\nbinDir = \"{programs}\"\nconfDir = \"{configurations}\"\n")
            .expect("a String takes any text");
    }
    text
}

/// What the text of the file at `path` says to every node.
///
/// # Errors
/// Every problem found, as [`Config::load`] has them.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    // The DaemonSet gives each agent the name of its own Node.
    let overrides = Overrides { node_name: Some("node".into()), ..Overrides::default() };
    Config::parse(path, text, &overrides)
}

fn list(nets: &[IpNet]) -> String {
    let quoted: Vec<String> = nets.iter().map(|net| format!("\"{net}\"")).collect();
    format!("[{}]", quoted.join(", "))
}
