//! Who serves Services on this node: Selvedge, or kube-proxy, and in which mode.

use super::finding::Finding;
use super::network::Network;
use super::ruleset::Ruleset;
use crate::kernel::kube_proxy::{IPVS_DEVICE, TABLE};
use crate::service::table::TABLE as OWN_TABLE;

const CHECK: &str = "kube-proxy";

pub(super) fn judge(network: &Network, ruleset: &Ruleset) -> Finding {
    let modes = modes(network, ruleset);
    if ruleset.has_table(OWN_TABLE) {
        return match modes.as_slice() {
            [] => Finding::ok(CHECK, "Selvedge serves Services"),
            modes => Finding::warning(
                CHECK,
                format!(
                    "Selvedge serves Services, but kube-proxy runs or has left rules ({})",
                    modes.join(", ")
                ),
                "stop kube-proxy, and set removeKubeProxyRules = true or run kube-proxy --cleanup",
            ),
        };
    }
    match modes.as_slice() {
        [] if ruleset.has_legacy("nat") => Finding::skipped(
            CHECK,
            "not seen, but the old iptables is in use here, whose chains nftables does not show",
        ),
        [] => Finding::warning(
            CHECK,
            "neither kube-proxy nor Selvedge serves Services on this node",
            "fine before the node joins; otherwise set services = \"on\", or install kube-proxy",
        ),
        [mode] => Finding::ok(CHECK, format!("mode {mode}")),
        several => Finding::warning(
            CHECK,
            format!("traces of several modes: {}", several.join(", ")),
            "clean up after the mode no longer used (kube-proxy --cleanup), or reboot the node",
        ),
    }
}

fn modes(network: &Network, ruleset: &Ruleset) -> Vec<&'static str> {
    let ipvs = network.has_link(IPVS_DEVICE);
    // In mode IPVS it has KUBE-SERVICES too, but no chain for each Service.
    let iptables = ["KUBE-SVC-", "KUBE-NODEPORTS"].iter().any(|start| ruleset.has_compat(start));
    let found = [
        ("nftables", ruleset.has_table(TABLE)),
        ("iptables", iptables || (!ipvs && ruleset.has_compat("KUBE-SERVICES"))),
        ("ipvs", ipvs),
    ];
    found.into_iter().filter_map(|(mode, there)| there.then_some(mode)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::network::fake::network;
    use super::*;
    use crate::kernel::nft::Family;

    fn ruleset(table: &str, chains: &[&str]) -> Ruleset {
        let key = (Family::Ipv4, table.to_owned());
        Ruleset {
            tables: [key.clone()].into(),
            compat: [(key, chains.iter().map(|chain| (*chain).to_owned()).collect())].into(),
            ..Ruleset::default()
        }
    }

    #[test]
    fn each_mode_is_known_by_its_traces() {
        let iptables = ruleset("nat", &["KUBE-SERVICES", "PREROUTING"]);
        assert_eq!(judge(&network(&[]), &ruleset("kube-proxy", &[])).seen, "mode nftables");
        assert_eq!(judge(&network(&[]), &iptables).seen, "mode iptables");
        assert_eq!(judge(&network(&["kube-ipvs0"]), &iptables).seen, "mode ipvs");
        let left = ruleset("nat", &["KUBE-SERVICES", "KUBE-SVC-ABC"]);
        assert!(judge(&network(&["kube-ipvs0"]), &left).seen.ends_with("iptables, ipvs"));
    }

    #[test]
    fn selvedge_in_place_of_kube_proxy_is_fine_and_beside_its_rules_is_not() {
        let ours = ruleset(OWN_TABLE, &[]);
        assert_eq!(judge(&network(&[]), &ours).severity, Severity::Ok);
        let mut both = ruleset("nat", &["KUBE-SVC-ABC"]);
        both.tables.extend(ours.tables);
        let finding = judge(&network(&[]), &both);
        assert!(finding.severity == Severity::Warning && finding.seen.ends_with("(iptables)"), "{finding:?}");
    }

    #[test]
    fn none_several_and_what_cannot_be_seen() {
        assert_eq!(judge(&network(&[]), &ruleset("nat", &[])).severity, Severity::Warning);
        let both = judge(&network(&["kube-ipvs0"]), &ruleset("kube-proxy", &[]));
        assert!(both.severity == Severity::Warning && both.seen.ends_with("nftables, ipvs"), "{both:?}");
        let legacy = Ruleset { legacy: [(Family::Ipv4, "nat".into())].into(), ..Ruleset::default() };
        assert_eq!(judge(&network(&[]), &legacy).severity, Severity::Skipped);
    }
}
