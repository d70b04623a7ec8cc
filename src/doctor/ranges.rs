//! The configured ranges against each other and against what the node has itself.

use ipnet::IpNet;

use super::finding::Finding;
use super::network::Network;
use crate::config::range::overlap;
use crate::config::{Config, ConfigError};
use crate::kernel::kube_proxy::IPVS_DEVICE;
use crate::kernel::route::MAIN;

const CHECK: &str = "ranges";
/// Devices that have Service addresses on purpose: kube-proxy's in mode IPVS, NodeLocal DNSCache's.
const OF_SERVICES: [&str; 2] = [IPVS_DEVICE, "nodelocaldns"];

/// The configuration itself.
pub(super) fn configuration(source: &str, config: &Result<Config, ConfigError>, installed: bool) -> Finding {
    const CHECK: &str = "config";
    match config {
        Ok(config) => Finding::ok(CHECK, format!("{source} is valid for node {}", config.node_name)),
        Err(error) if error.is_absent() && !installed => {
            Finding::skipped(CHECK, format!("there is no {source} yet: what hangs on it is not looked at"))
        }
        Err(error) if error.is_absent() => {
            let remedy =
                "name the file with --config; without it and values for it, the agent is asked for its own";
            Finding::problem(CHECK, error.to_string(), remedy)
        }
        Err(error) => {
            Finding::problem(CHECK, error.to_string(), "correct it, and see `selvedge config check`")
        }
    }
}

/// Overlaps with each other are the configuration's own problems: this is about the node.
pub(super) fn judge(config: &Config, network: &Network) -> Vec<Finding> {
    let pods = config.cluster_pod_cidrs.iter().map(|net| ("clusterPodCIDRs", *net));
    let services = config.service_cidrs.iter().map(|net| ("serviceCIDRs", *net));
    let mut findings: Vec<_> =
        pods.chain(services).flat_map(|(key, net)| overlaps(key, net, network)).collect();
    if findings.is_empty() {
        findings
            .push(Finding::ok(CHECK, "no address and no route of this node lies in the cluster's ranges"));
    }
    findings
}

fn overlaps(key: &str, net: IpNet, network: &Network) -> Vec<Finding> {
    let of_services = |device: &str| key == "serviceCIDRs" && OF_SERVICES.contains(&device);
    let remedy = format!("choose another {key} for the cluster, or renumber that network");
    let found = |what: String| Finding::problem(CHECK, format!("{what} lies in {key} {net}"), remedy.clone());
    let addresses = network.own_addresses().filter(|(address, _)| net.contains(address));
    let addresses: Vec<_> = addresses.filter(|(_, device)| !of_services(device)).collect();
    let mut findings: Vec<_> = addresses
        .iter()
        .map(|(address, device)| found(format!("the node's address {address} ({device})")))
        .collect();
    for route in network.routes.iter().filter(|route| !route.ours && route.destination.prefix_len() > 0) {
        let devices =
            || route.devices.iter().filter_map(|index| network.link(*index)).map(|link| link.name.as_str());
        let ours = route.devices.iter().any(|index| network.is_ours(*index));
        // The route that comes with an address is told of with the address.
        let told = devices().any(|device| {
            addresses.iter().any(|(address, of)| *of == device && route.destination.contains(address))
        });
        if overlap(&route.destination, &net) && !ours && !told && !devices().any(of_services) {
            let what =
                format!("the route {} ({})", route.destination, devices().collect::<Vec<_>>().join(", "));
            findings.extend(match route.destination.prefix_len() < net.prefix_len() {
                false => Some(found(what)),
                // Ours are longer and go first, in their own table.
                true if route.table == MAIN => None,
                true => Some(Finding::warning(
                    CHECK,
                    format!("{what} of table {} covers {key} {net}", route.table),
                    "see that no rule sends packets of pods to that table before the main one: `ip rule`",
                )),
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::super::network::fake::{network, route};
    use super::super::tests::config;
    use super::*;
    use crate::kernel::address::Address;

    fn seen(network: &Network) -> Vec<String> {
        let findings = judge(&config(""), network);
        findings.into_iter().filter(|f| f.severity == Severity::Problem).map(|f| f.seen).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_ours_or_elsewhere_is_well() {
        let mut network = network(&["selvedge0", "selvedge-br", "kube-ipvs0"]);
        network.addresses.push(Address::new(3, net("10.244.1.1/32")));
        network.addresses.push(Address::new(5, net("10.96.0.1/32")));
        network.routes.push(route("10.244.1.0/24", 4));
        network.routes.push(crate::kernel::foreign::AnyRoute { ours: true, ..route("10.244.0.0/16", 2) });
        assert_eq!(seen(&network), Vec::<String>::new());
    }

    #[test]
    fn addresses_and_routes_in_the_ranges_are_named() {
        let mut network = network(&["eth1", "cni0"]);
        network.addresses.push(Address::new(3, net("10.100.3.4/16")));
        network.routes.extend([route("10.100.0.0/16", 3), route("10.244.7.0/24", 4), route("10.0.0.0/8", 2)]);
        assert_eq!(
            seen(&network),
            [
                "the route 10.244.7.0/24 (cni0) lies in clusterPodCIDRs 10.244.0.0/16",
                "the node's address 10.100.3.4 (eth1) lies in serviceCIDRs 10.96.0.0/12",
            ]
        );
    }

    #[test]
    fn a_covering_route_matters_in_another_table() {
        let mut network = network(&["wg0"]);
        let covering = route("10.0.0.0/8", 3);
        network.routes.push(covering.clone());
        assert_eq!(judge(&config(""), &network)[0].severity, Severity::Ok);
        network.routes.push(crate::kernel::foreign::AnyRoute { table: 52, ..covering });
        let finding = judge(&config(""), &network).remove(0);
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(
            finding.seen,
            "the route 10.0.0.0/8 (wg0) of table 52 covers clusterPodCIDRs 10.244.0.0/16"
        );
    }

    #[test]
    fn a_missing_file_matters_once_selvedge_is_here() {
        let path = std::path::Path::new("/nowhere/config.toml");
        let absent = Config::load(path, &crate::config::Overrides::default());
        assert_eq!(configuration("x", &absent, false).severity, Severity::Skipped);
        assert_eq!(configuration("x", &absent, true).severity, Severity::Problem);
        let invalid = Config::parse(path, "nonsense = 1", &crate::config::Overrides::default());
        assert_eq!(configuration("x", &invalid, false).severity, Severity::Problem);
    }
}
