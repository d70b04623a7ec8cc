//! Other pod networks on this node.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::host::Host;
use super::network::Network;
use crate::pod::install::CONFLIST;

const CHECK: &str = "cni";
/// Devices that pod networks make, and whose they are; a `*` at the end stands for anything.
const DEVICES: [(&str, &str); 11] = [
    ("cilium_host", "Cilium"),
    ("cilium_vxlan", "Cilium"),
    ("cali*", "Calico"),
    ("vxlan.calico", "Calico"),
    ("flannel.1", "Flannel"),
    ("flannel-wg", "Flannel"),
    ("cni0", "the bridge plugin"),
    ("kube-bridge", "kube-router or Kilo"),
    ("kilo0", "Kilo"),
    ("antrea-gw0", "Antrea"),
    ("weave", "Weave Net"),
];

/// What is in the folder of the container runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    folder: PathBuf,
    /// Other networks' configurations, by name: file and type of the first plugin.
    others: Vec<(String, String)>,
    /// Ours is there.
    ours: bool,
}

impl Facts {
    pub(super) fn gather(host: &Host, folder: &Path) -> Self {
        let names = host.list(folder);
        let ours = names.iter().any(|name| name == CONFLIST);
        let configures =
            |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        let others = names.into_iter().filter(|name| configures(name) && name != CONFLIST);
        let others = others.map(|name| {
            let kind = kind(&host.read(folder.join(&name)).unwrap_or_default());
            (name, kind)
        });
        // The loopback plugin makes no pod network.
        let others = others.filter(|(_, kind)| kind != "loopback").collect();
        Self { folder: folder.to_owned(), others, ours }
    }
}

/// The type of a configuration's first plugin.
fn kind(text: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let kind = value["type"].as_str().or_else(|| value["plugins"][0]["type"].as_str());
    kind.unwrap_or("unknown").to_owned()
}

/// `installed`: ours should be there.
pub(super) fn judge(facts: &Facts, network: &Network, installed: bool) -> Vec<Finding> {
    let mut findings = vec![files(facts)];
    findings.extend((installed && !facts.ours).then(|| gone(facts)));
    findings.extend(devices(network));
    findings
}

fn gone(facts: &Facts) -> Finding {
    let seen = format!("Selvedge is installed, and there is no {CONFLIST} in {}", facts.folder.display());
    Finding::problem(CHECK, seen, "start the agent, which writes it; see what removes files there")
}

/// Runtimes take the first file by name.
fn files(facts: &Facts) -> Finding {
    let folder = facts.folder.display();
    let Some((first, _)) = facts.others.first() else {
        let seen = if facts.ours { format!("{CONFLIST} alone") } else { format!("no network in {folder}") };
        return Finding::ok(CHECK, seen);
    };
    let list: Vec<_> = facts.others.iter().map(|(name, kind)| format!("{name} ({kind})")).collect();
    let seen = format!("other networks in {folder}: {}", list.join(", "));
    if first.as_str() < CONFLIST {
        let remedy =
            "remove that network from the cluster, then its file here: runtimes take the first by name";
        return Finding::problem(CHECK, seen, remedy);
    }
    let remedy = "remove that network from the cluster, then its file here; it takes over when ours is gone";
    Finding::warning(CHECK, seen, remedy)
}

fn devices(network: &Network) -> Option<Finding> {
    let whose = |name: &str| {
        DEVICES.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *pattern,
        })
    };
    let mut found: Vec<(&str, &str)> = Vec::new();
    for link in &network.links {
        if let Some((pattern, owner)) = whose(&link.name)
            && !found.iter().any(|(_, known)| known == owner)
        {
            found.push((if pattern.ends_with('*') { pattern } else { &link.name }, owner));
        }
    }
    if found.is_empty() {
        return None;
    }
    let list: Vec<_> = found.iter().map(|(name, owner)| format!("{name} of {owner}")).collect();
    let remedy = "remove that network by its own means, delete what it left, or reboot the node";
    Some(Finding::warning(CHECK, format!("devices of another network: {}", list.join(", ")), remedy))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::host::Fake;
    use super::super::network::fake::network;
    use super::*;

    fn severities(files: &[(&str, &str)], links: &[&str]) -> Vec<Severity> {
        let facts = Facts::gather(&Fake::with(files).host, Path::new("/etc/cni/net.d"));
        judge(&facts, &network(links), false).into_iter().map(|finding| finding.severity).collect()
    }

    const OURS: (&str, &str) = ("/etc/cni/net.d/10-selvedge.conflist", "{}");
    const CALICO: (&str, &str) =
        ("/etc/cni/net.d/10-calico.conflist", r#"{"plugins": [{"type": "calico"}, {"type": "portmap"}]}"#);
    const FLANNEL: (&str, &str) = ("/etc/cni/net.d/99-flannel.conf", r#"{"type": "flannel"}"#);
    const LOOPBACK: (&str, &str) = ("/etc/cni/net.d/00-loopback.conf", r#"{"type": "loopback"}"#);

    #[test]
    fn one_network_is_well_and_loopback_is_none() {
        assert_eq!(severities(&[], &[]), [Severity::Ok]);
        assert_eq!(severities(&[OURS, LOOPBACK], &["selvedge0"]), [Severity::Ok]);
    }

    #[test]
    fn ours_is_missed_once_it_was_there() {
        let severity = |files: &[(&str, &str)]| {
            let facts = Facts::gather(&Fake::with(files).host, Path::new("/etc/cni/net.d"));
            judge(&facts, &network(&[]), true).last().unwrap().severity
        };
        assert_eq!((severity(&[OURS]), severity(&[])), (Severity::Ok, Severity::Problem));
    }

    #[test]
    fn a_file_before_ours_wins_and_one_behind_waits() {
        assert_eq!(severities(&[OURS, CALICO], &[]), [Severity::Problem]);
        assert_eq!(severities(&[OURS, FLANNEL], &[]), [Severity::Warning]);
        let facts = Facts::gather(&Fake::with(&[CALICO]).host, Path::new("/etc/cni/net.d"));
        assert!(files(&facts).seen.ends_with("10-calico.conflist (calico)"));
        let stale = ("/etc/cni/net.d/10-x.conflist.bak", "");
        assert_eq!(severities(&[stale], &[]), [Severity::Ok]);
    }

    #[test]
    fn each_network_is_known_by_its_devices_once() {
        let links = ["cali123", "cali456", "vxlan.calico", "cni0", "flannel.1"];
        let finding = devices(&network(&links)).unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.seen,
            "devices of another network: cali* of Calico, cni0 of the bridge plugin, flannel.1 of Flannel"
        );
        for name in ["cilium_host", "kube-bridge", "antrea-gw0", "weave"] {
            assert!(devices(&network(&[name])).is_some(), "{name}");
        }
        assert!(devices(&network(&["docker0", "weaver"])).is_none());
    }
}
