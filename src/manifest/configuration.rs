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

/// The same text with `iptablesForwardRules = true`.
#[must_use]
pub fn with_forward_rules(text: &str) -> String {
    with(text, "iptablesForwardRules", "true")
}

/// The same text with `services = "auto"`, or `"on"`.
#[must_use]
pub fn with_services(text: &str, auto: bool) -> String {
    with(text, "services", if auto { "\"auto\"" } else { "\"on\"" })
}

/// The same text with another value of a key above all tables.
fn with(text: &str, wanted: &str, value: &str) -> String {
    let is_key = |line: &&str| line.split_once('=').is_some_and(|(key, _)| key.trim() == wanted);
    let mut lines: Vec<String> = text.lines().filter(|line| !is_key(line)).map(str::to_owned).collect();
    // Above all tables, below the comment that begins the file.
    let place = lines.iter().position(|line| !line.starts_with('#')).unwrap_or(lines.len());
    lines.insert(place, format!("{wanted} = {value}"));
    lines.join("\n") + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Services;

    #[test]
    fn what_is_switched_on_is_so_in_any_text() {
        let ranges = "clusterPodCIDRs = [\"10.1.0.0/16\"]\nserviceCIDRs = [\"10.2.0.0/16\"]\n";
        for text in [
            format!("# Written\n{ranges}[cni]\nbinDir = \"/x\"\n"),
            format!("{ranges}iptablesForwardRules = false # not yet\n"),
            format!("iptablesForwardRules=true\n{ranges}"),
        ] {
            let before = parse(Path::new("x"), &text).unwrap();
            let after = parse(Path::new("x"), &with_forward_rules(&text)).unwrap();
            assert_eq!(after, Config { iptables_forward_rules: true, ..before.clone() }, "{text}");
            for (auto, services) in [(false, Services::On), (true, Services::Auto)] {
                let after = parse(Path::new("x"), &with_services(&text, auto)).unwrap();
                assert_eq!(after, Config { services, ..before.clone() }, "{text}");
            }
        }
    }
}
