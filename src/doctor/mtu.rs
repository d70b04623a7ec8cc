//! Whether packets with WireGuard around them fit the network between the nodes.

use super::finding::Finding;
use super::network::Network;
use crate::agent::device::OVERHEAD;
use crate::config::Config;

/// The least that IPv6 asks of a link (RFC 8200, section 5).
const IPV6_MINIMUM: u32 = 1280;
const CHECK: &str = "mtu";

/// The smallest device by which this node reaches the world is taken for the underlay.
pub(super) fn judge(network: &Network, config: Option<&Config>) -> Finding {
    let Some(device) = network.underlay().into_iter().min_by_key(|device| device.mtu) else {
        return Finding::skipped(CHECK, "there is no default route to tell the network between the nodes by");
    };
    let (name, found) = (&device.name, device.mtu);
    let set = config.and_then(|config| config.mtu).map(u32::from);
    if let Some(set) = set.filter(|set| *set > found) {
        let remedy = format!("set mtu = {found} or less, or leave it out");
        return Finding::problem(CHECK, format!("mtu = {set} is set, but {name} has {found}"), remedy);
    }
    let underlay = set.unwrap_or(found);
    let pods = underlay.saturating_sub(OVERHEAD);
    let seen = format!("{name} has {found}: pods get {pods}");
    if pods >= IPV6_MINIMUM {
        return Finding::ok(CHECK, seen);
    }
    let needed = IPV6_MINIMUM + OVERHEAD;
    match config.map(has_ipv6) {
        Some(false) => Finding::ok(CHECK, format!("{seen}; IPv6 would need {needed}")),
        Some(true) => Finding::problem(
            CHECK,
            format!("{seen}, and IPv6 needs {IPV6_MINIMUM}"),
            format!(
                "raise the MTU between the nodes to {needed}, or take the IPv6 ranges out of the configuration"
            ),
        ),
        None => Finding::warning(
            CHECK,
            format!("{seen}, and IPv6 needs {IPV6_MINIMUM}"),
            format!("for IPv6 pods, raise the MTU between the nodes to {needed}"),
        ),
    }
}

pub(super) fn has_ipv6(config: &Config) -> bool {
    config.cluster_pod_cidrs.iter().any(|net| net.addr().is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::network::fake::{network, route};
    use super::super::tests::config;
    use super::*;

    fn with(mtu: u32) -> Network {
        let mut network = network(&["eth1", "selvedge0"]);
        network.links[1].mtu = mtu;
        network
    }

    #[test]
    fn an_ethernet_is_enough_and_less_is_judged_by_the_families() {
        let (v4, v6) = (config(""), config("clusterPodCIDRs = [\"fd00:1::/48\"]"));
        for (mtu, config, expected) in [
            (1500, Some(&v6), Severity::Ok),
            (1360, Some(&v6), Severity::Ok),
            (1359, Some(&v6), Severity::Problem),
            (1359, Some(&v4), Severity::Ok),
            (1359, None, Severity::Warning),
        ] {
            assert_eq!(judge(&with(mtu), config).severity, expected, "{mtu}");
        }
    }

    #[test]
    fn the_smallest_device_with_a_default_route_counts() {
        let mut network = with(9000);
        network.links[2].mtu = 1300;
        assert!(judge(&network, None).seen.contains("eth0 has 9000: pods get 8920"));
        network.routes.push(route("::/0", 3));
        assert!(judge(&network, None).seen.contains("eth1 has 1300"));
        network.routes.clear();
        assert_eq!(judge(&network, None).severity, Severity::Skipped);
    }

    #[test]
    fn what_is_set_must_fit() {
        let finding = judge(&with(1450), Some(&config("mtu = 1500")));
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.remedy.unwrap().contains("mtu = 1450"));
        assert!(judge(&with(1500), Some(&config("mtu = 1400"))).seen.contains("pods get 1320"));
    }
}
