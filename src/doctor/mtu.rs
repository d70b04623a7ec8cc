//! Whether packets with WireGuard around them fit the network between the nodes.

use std::net::IpAddr;

use super::finding::Finding;
use super::network::Network;
use crate::config::Config;
use crate::fabric::device;
use crate::kernel::link::Link;
use crate::mtu;

const CHECK: &str = "mtu";

/// What tells the device to the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Addresses of this node's Node: the agent goes by them.
    pub(super) node: Vec<IpAddr>,
    /// Where the tunnel reaches its peers.
    pub(super) peers: Vec<IpAddr>,
}

/// How a device was chosen, surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    Node,
    Peers,
    DefaultRoute,
}

/// Of several devices the one of least MTU.
fn underlay<'a>(network: &'a Network, ways: &Ways) -> Option<(&'a Link, Basis)> {
    let least = |links: Vec<&'a Link>| links.into_iter().min_by_key(|link| link.mtu);
    let by_node = device::underlay(&network.links, &network.addresses, &ways.node);
    let to_peers = || least(ways.peers.iter().flat_map(|peer| network.devices_to(*peer)).collect());
    by_node
        .map(|link| (link, Basis::Node))
        .or_else(|| Some((to_peers()?, Basis::Peers)))
        .or_else(|| Some((least(network.default_devices())?, Basis::DefaultRoute)))
}

/// `installed`: the agent has been here, so the tunnel's device should be as it has to.
pub(super) fn judge(
    network: &Network,
    config: Option<&Config>,
    ways: &Ways,
    installed: bool,
) -> Vec<Finding> {
    let Some((link, basis)) = underlay(network, ways) else {
        let seen = "there is no default route to tell the network between the nodes by";
        return vec![Finding::skipped(CHECK, seen)];
    };
    let set = config.and_then(|config| config.mtu).map(u32::from);
    let mut findings = vec![underlying(link, basis, config, set)];
    let sure = set.is_some() || basis != Basis::DefaultRoute;
    if let Some(config) = config.filter(|_| installed && sure) {
        let wanted = mtu::of_pods(set.unwrap_or(link.mtu), config.has_ipv6());
        let wanted = wanted.unwrap_or_else(|error| error.least());
        findings.extend(tunnel(network, &config.interface, wanted));
    }
    findings
}

fn tunnel(network: &Network, interface: &str, wanted: u32) -> Option<Finding> {
    let found = network.links.iter().find(|link| link.name == interface)?.mtu;
    let seen = format!("{interface} has {found} instead of {wanted}");
    let remedy = "start the agent, which sets it; pods get it when they are made anew";
    match found.cmp(&wanted) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(Finding::warning(CHECK, seen, remedy)),
        std::cmp::Ordering::Greater => {
            Some(Finding::problem(CHECK, format!("{seen}: large packets do not get through"), remedy))
        }
    }
}

fn underlying(link: &Link, basis: Basis, config: Option<&Config>, set: Option<u32>) -> Finding {
    let (name, found) = (&link.name, link.mtu);
    let basis = match basis {
        Basis::Node => "",
        Basis::Peers => " (it leads to the peers)",
        Basis::DefaultRoute => " (it has the default route; which way other nodes are is not known)",
    };
    if let Some(set) = set.filter(|set| *set > found) {
        let remedy = format!("set mtu = {found} or less, or leave it out");
        return Finding::problem(CHECK, format!("mtu = {set} is set, but {name} has {found}"), remedy);
    }
    let underlay = set.unwrap_or(found);
    let of_family = |ipv6| mtu::of_pods(underlay, ipv6);
    let too_small = |error: mtu::TooSmall| format!("{name} has {found}: {error}{basis}");
    let needed = mtu::least_underlay(true);
    match (of_family(config.is_some_and(Config::has_ipv6)), of_family(true)) {
        (Err(error), _) => Finding::problem(CHECK, too_small(error), error.remedy()),
        (Ok(pods), Ok(_)) => Finding::ok(CHECK, format!("{name} has {found}: pods get {pods}{basis}")),
        (Ok(pods), Err(_)) if config.is_some() => {
            let seen = format!("{name} has {found}: pods get {pods}; IPv6 would need {needed}{basis}");
            Finding::ok(CHECK, seen)
        }
        (Ok(_), Err(error)) => {
            let remedy = format!("for IPv6 pods, raise the MTU between the nodes to {needed}");
            Finding::warning(CHECK, too_small(error), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::network::fake::{network, route};
    use super::super::tests::config;
    use super::*;
    use crate::kernel::address::Address;
    use crate::kernel::foreign::AnyRoute;

    /// Of a node of which nothing else is known.
    fn judge(network: &Network, config: Option<&Config>) -> Finding {
        let mut findings = super::judge(network, config, &Ways::default(), false);
        assert_eq!(findings.len(), 1);
        findings.remove(0)
    }

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
            (656, Some(&v4), Severity::Ok),
            (655, Some(&v4), Severity::Problem),
            (655, None, Severity::Problem),
            (1359, None, Severity::Warning),
        ] {
            assert_eq!(judge(&with(mtu), config).severity, expected, "{mtu}");
        }
    }

    #[test]
    fn the_smallest_device_with_a_default_route_in_the_main_table_counts() {
        let mut network = with(9000);
        network.links[2].mtu = 1300;
        assert!(
            judge(&network, None).seen.contains("eth0 has 9000: pods get 8920 (it has the default route")
        );
        network.routes.push(AnyRoute { table: 52, ..route("::/0", 3) });
        assert!(judge(&network, None).seen.contains("eth0 has 9000"));
        network.routes.push(route("::/0", 3));
        assert!(judge(&network, None).seen.contains("eth1 has 1300"));
        network.routes.clear();
        assert_eq!(judge(&network, None).severity, Severity::Skipped);
    }

    #[test]
    fn the_nodes_address_goes_before_peers_and_those_before_the_default_route() {
        let mut network = with(1500);
        network.links[2].mtu = 1400;
        network.links[0].mtu = 1300;
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        network.addresses.push(Address::new(3, net("198.51.100.1/24")));
        network.addresses.push(Address::new(1, net("198.51.100.9/32")));
        network.routes.extend([route("198.51.100.0/24", 3), route("198.51.0.0/16", 2)]);
        let seen = |node: &str, peer: &str| {
            let ways = Ways { node: vec![node.parse().unwrap()], peers: vec![peer.parse().unwrap()] };
            super::judge(&network, None, &ways, false).remove(0).seen
        };
        assert_eq!(seen("198.51.100.1", "192.0.2.77"), "eth1 has 1400: pods get 1320");
        assert_eq!(
            seen("198.51.100.9", "198.51.100.7"),
            "eth1 has 1400: pods get 1320 (it leads to the peers)"
        );
        assert!(seen("203.0.113.1", "192.0.2.77").starts_with("eth0 has 1500: pods get 1420 (it leads"));
    }

    #[test]
    fn the_tunnels_device_is_compared_once_it_is_known_what_it_has_to_have() {
        let mut network = with(1500);
        let ways = Ways { node: vec!["192.0.2.10".parse().unwrap()], ..Ways::default() };
        for (mtu, expected) in [
            (1420, vec![Severity::Ok]),
            (1500, vec![Severity::Ok, Severity::Problem]),
            (1300, vec![Severity::Ok, Severity::Warning]),
        ] {
            network.links[3].mtu = mtu;
            let findings = super::judge(&network, Some(&config("")), &ways, true);
            assert_eq!(findings.iter().map(|f| f.severity).collect::<Vec<_>>(), expected, "{findings:?}");
        }
        assert_eq!(super::judge(&network, Some(&config("")), &Ways::default(), true).len(), 1);
        assert_eq!(super::judge(&network, Some(&config("mtu = 1400")), &Ways::default(), true).len(), 2);
    }

    #[test]
    fn what_is_set_must_fit() {
        let finding = judge(&with(1450), Some(&config("mtu = 1500")));
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.remedy.unwrap().contains("mtu = 1450"));
        assert!(judge(&with(1500), Some(&config("mtu = 1400"))).seen.contains("pods get 1320"));
    }
}
