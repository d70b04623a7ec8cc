//! The routes, rules and sysctls that carry the fabric on this node. Pure.
//!
//! One route an address family covers all pods of the cluster, so that an address of no known peer ends in the
//! tunnel and is dropped there. Behind each route by the tunnel stands an `unreachable` one of worse metric: it
//! needs no device, so it holds when the device is down or gone.

pub mod device;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::guard::{MARK, MARK_ARRIVING};
use crate::kernel::route::{MAIN, Route};
use crate::kernel::rule::{Action, Rule};
use crate::pod::gateway::BRIDGE;
use crate::pod::node::{UNREACHABLE_METRIC, fabric_address, unreachable_routes};

/// Table of the routes that only pods use: to other nodes' own addresses.
pub const POD_TABLE: u32 = 51830;
/// Priority of the rules that send pods there.
pub const POD_RULE_PRIORITY: u32 = 5183;
/// Priority of the rules that let pods' packets to pods look into the main table, whether the guard is there or not.
pub const CLUSTER_RULE_PRIORITY: u32 = 5184;
/// Priority of the rules that refuse what comes from pods and was not marked by the guard.
pub const UNGUARDED_RULE_PRIORITY: u32 = 5185;

/// Table of the routes that the node's own packets to Services take where the main table has none.
pub const SERVICE_TABLE: u32 = 51831;
/// Priority of the rules that send them there: behind those of the kernel for the tables main and default.
pub const SERVICE_RULE_PRIORITY: u32 = 32_800;

/// Has the check of the way back look routes up with the packet's mark.
pub const SRC_VALID_MARK: &str = "ipv4/conf/all/src_valid_mark";
/// The switch for redirects of all devices, beside each device's own.
pub const SEND_REDIRECTS: &str = "ipv4/conf/all/send_redirects";
/// The switch for forwarding IPv6.
pub const IPV6_FORWARDING: &str = "ipv6/conf/all/forwarding";

const BY_TUNNEL: u32 = 100;

/// What the desired state follows from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutingConfig {
    /// All pod CIDRs of the cluster.
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Other nodes' own addresses, whether they are peers or refused: pods reach them by the tunnel or not at all.
    pub node_addresses: Vec<IpAddr>,
    /// Where cluster IPs are from that this node serves; none where somebody else does.
    pub service_cidrs: Vec<IpNet>,
    /// Name of the TUN device, whether it exists or not.
    pub interface: String,
    /// Index of the TUN device; none while it does not exist.
    pub tunnel: Option<u32>,
    /// Whether there are, or will be, pods without a bridge.
    pub routed: bool,
}

impl RoutingConfig {
    /// All routes that the agent owns. See [`owns`].
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        // An address of this node that no pod has must not go round by the tunnel either.
        let mut routes = unreachable_routes(&self.pod_cidrs, &self.cluster_pod_cidrs);
        if let Some(device) = self.tunnel {
            routes.extend(self.cluster_pod_cidrs.iter().map(|cidr| self.cluster_route(*cidr, device)));
        }
        for address in &self.node_addresses {
            let host = IpNet::from(*address);
            routes.push(Route::unreachable(host).with_metric(UNREACHABLE_METRIC).with_table(POD_TABLE));
            let by_tunnel =
                |device| Route::on_link(host, device).with_metric(BY_TUNNEL).with_table(POD_TABLE);
            routes.extend(self.tunnel.map(by_tunnel));
        }
        for cidr in &self.service_cidrs {
            let in_table = |route: Route| route.with_table(SERVICE_TABLE);
            routes.push(in_table(Route::unreachable(*cidr).with_metric(UNREACHABLE_METRIC)));
            routes.extend(self.tunnel.map(|device| in_table(self.cluster_route(*cidr, device))));
        }
        routes
    }

    fn cluster_route(&self, cidr: IpNet, device: u32) -> Route {
        let route = Route::on_link(cidr, device).with_metric(BY_TUNNEL);
        match self.fabric_address(cidr.addr().is_ipv4()) {
            Some(source) => route.with_source(source),
            None => route,
        }
    }

    fn fabric_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.pod_cidrs.iter().find(|cidr| cidr.addr().is_ipv4() == ipv4).map(fabric_address)
    }

    /// This node's fabric address of each family.
    #[must_use]
    pub fn fabric_addresses(&self) -> Vec<IpAddr> {
        [true, false].into_iter().filter_map(|ipv4| self.fabric_address(ipv4)).collect()
    }

    /// Rules that make this node's pods look into [`POD_TABLE`] first, and that leave them no way out of the cluster
    /// but with the guard's mark: who flushes nftables takes the mark away together with the guard.
    ///
    /// All of them ask for the device that pods' packets come by. The kernel's check of the way back (`rp_filter` 1) looks
    /// up a route from the pod as well, when a member's packet to a host port has been translated: it came by the
    /// underlay, and the answer here would be the tunnel. That lookup is made as if from the pod's own port.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        let to_nodes = |source: IpNet| Rule::from_source(source, POD_RULE_PRIORITY, POD_TABLE);
        let from_pods = |cidr: &IpNet| Rule { input: Some(BRIDGE.to_owned()), ..to_nodes(*cidr) };
        let mut rules: Vec<Rule> = self.pod_cidrs.iter().map(from_pods).collect();
        // The node itself speaks from its fabric addresses too.
        rules.extend(self.fabric_addresses().into_iter().map(|address| to_nodes(address.into())));
        rules.extend(self.cluster_pod_cidrs.iter().map(|cidr| self.rule_of_peers(cidr.addr().is_ipv6())));
        for cidr in &self.cluster_pod_cidrs {
            let from_pods =
                |priority, action| Rule::from_device(BRIDGE, cidr.addr().is_ipv6(), priority, action);
            let to_pods = from_pods(CLUSTER_RULE_PRIORITY, Action::Table(MAIN)).to_destination(*cidr);
            let unguarded = from_pods(UNGUARDED_RULE_PRIORITY, Action::Unreachable);
            rules.extend([to_pods, Rule { unmarked: Some(MARK), ..unguarded }]);
        }
        if self.routed {
            rules.extend(self.pod_cidrs.iter().flat_map(|cidr| self.routed_rules(*cidr)));
        }
        rules.extend(self.service_cidrs.iter().map(|cidr| rule_of_services(*cidr)));
        rules
    }

    /// What came by the tunnel and goes to another node's own address goes back into the tunnel: its destination was
    /// translated here (a NodePort whose endpoint is a process of that node's host), or it answers such a node.
    ///
    /// The check of the way back of an IPv4 packet that enters the tunnel looks a route up as if for one that came by it:
    /// a member node's own packet came by the underlay, and must be found there. Only real packets have the guard's mark.
    fn rule_of_peers(&self, ipv6: bool) -> Rule {
        let rule = Rule::from_device(&self.interface, ipv6, POD_RULE_PRIORITY, Action::Table(POD_TABLE));
        Rule { marked: (!ipv6).then_some(MARK), ..rule }
    }

    /// The same by source, for pods whose packets come by a device each. The kernel's check of the way back asks as if
    /// for a packet of such a pod, and can be told from one only by the mark: [`SRC_VALID_MARK`] hands it on.
    fn routed_rules(&self, cidr: IpNet) -> Vec<Rule> {
        let from_pods = |priority, action| Rule { action, ..Rule::from_source(cidr, priority, MAIN) };
        let same_family = |other: &&IpNet| other.addr().is_ipv4() == cidr.addr().is_ipv4();
        let to_pods = self.cluster_pod_cidrs.iter().filter(same_family);
        let mut rules: Vec<Rule> = to_pods
            .map(|to| from_pods(CLUSTER_RULE_PRIORITY, Action::Table(MAIN)).to_destination(*to))
            .collect();
        // The node's own packets have no mark.
        let own = Rule::from_source(fabric_address(&cidr), CLUSTER_RULE_PRIORITY, MAIN);
        rules.push(Rule { input: Some("lo".to_owned()), ..own });
        let to_nodes = from_pods(POD_RULE_PRIORITY, Action::Table(POD_TABLE));
        rules.push(Rule { marked: Some(MARK), ..to_nodes });
        let unguarded = from_pods(UNGUARDED_RULE_PRIORITY, Action::Unreachable);
        rules.push(Rule { unmarked: Some(MARK | MARK_ARRIVING), ..unguarded });
        rules
    }
}

/// The node's own packets to Services are routed before their destination is translated, and in a family without a default
/// route there is none for them. This rule is asked last.
fn rule_of_services(cidr: IpNet) -> Rule {
    let table = Action::Table(SERVICE_TABLE);
    Rule::from_device("lo", cidr.addr().is_ipv6(), SERVICE_RULE_PRIORITY, table).to_destination(cidr)
}

/// Whether a route of our protocol is the agent's; host routes in the main table are the CNI plugin's.
#[must_use]
pub fn owns(route: &Route) -> bool {
    route.table != MAIN || route.destination.prefix_len() < route.destination.max_prefix_len()
}

/// Sysctls of the node (not of single pods) that forwarding needs, as key and value.
///
/// Reverse-path filtering is loose on the tunnel (`rp_filter` 2, ip-sysctl in the kernel's documentation): a remote
/// node's own address arrives there although the way back to it is the underlay's.
#[must_use]
pub fn sysctls(tunnel: Option<&str>, ipv6: bool, routed: bool) -> Vec<(String, &'static str)> {
    // A device sends redirects where either its own switch or that of `all` is on; other devices keep theirs.
    let mut all = vec![("ipv4/ip_forward".to_owned(), "1"), (SEND_REDIRECTS.to_owned(), "0")];
    if routed {
        all.push((SRC_VALID_MARK.to_owned(), "1"));
    }
    if ipv6 {
        all.push((IPV6_FORWARDING.to_owned(), "1"));
    }
    let Some(tunnel) = tunnel else { return all };
    let mut device =
        |family: &str, name: &str, value| all.push((format!("{family}/conf/{tunnel}/{name}"), value));
    device("ipv4", "rp_filter", "2");
    device("ipv4", "send_redirects", "0");
    device("ipv4", "accept_redirects", "0");
    if ipv6 {
        device("ipv6", "disable_ipv6", "0");
        device("ipv6", "accept_ra", "0");
        device("ipv6", "accept_redirects", "0");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::route::Kind;

    fn fabric(tunnel: Option<u32>) -> RoutingConfig {
        RoutingConfig {
            cluster_pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()],
            pod_cidrs: vec!["10.244.3.0/24".parse().unwrap(), "fd00:0:0:3::/64".parse().unwrap()],
            node_addresses: vec!["172.31.1.2".parse().unwrap()],
            service_cidrs: vec!["fd96::/112".parse().unwrap()],
            interface: "selvedge0".into(),
            tunnel,
            routed: false,
        }
    }

    #[test]
    fn every_route_by_the_tunnel_has_an_unreachable_one_behind_it() {
        let routes = fabric(Some(7)).routes();
        let by_tunnel: Vec<_> = routes.iter().filter(|route| route.device() == Some(7)).collect();
        assert_eq!(by_tunnel.len(), 4);
        for route in by_tunnel {
            let behind = |other: &&Route| {
                other.destination == route.destination
                    && other.table == route.table
                    && other.metric > route.metric
                    && other.kind == Kind::Unreachable
            };
            assert!(routes.iter().find(behind).is_some(), "{route} has nothing behind it");
        }
    }

    #[test]
    fn without_the_device_all_is_unreachable() {
        let routes = fabric(None).routes();
        assert_eq!(routes.len(), 6);
        assert!(routes.iter().all(|route| route.kind == Kind::Unreachable), "{routes:?}");
    }

    #[test]
    fn what_the_guard_has_not_marked_reaches_pods_alone() {
        let mut rules = fabric(None).rules();
        rules.sort_by_key(|rule| rule.priority);
        let rules: Vec<String> = rules.iter().filter(|rule| !rule.ipv6).map(ToString::to_string).collect();
        let wanted = [
            "5183: from 10.244.3.0/24 iif selvedge-br table 51830",
            "5183: from 10.244.3.1/32 table 51830",
            "5183: iif selvedge0 fwmark 0x1000000/0x1000000 table 51830",
            "5184: to 10.244.0.0/16 iif selvedge-br table 254",
            "5185: iif selvedge-br fwmark 0/0x1000000 Unreachable",
        ];
        assert_eq!(rules, wanted);
    }

    #[test]
    fn without_a_bridge_source_and_mark_tell_pods() {
        let all = RoutingConfig { routed: true, ..fabric(None) }.rules();
        let mut rules: Vec<String> = all
            .iter()
            .filter(|rule| !rule.ipv6 && !fabric(None).rules().contains(rule))
            .map(ToString::to_string)
            .collect();
        rules.sort();
        let wanted = [
            "5183: from 10.244.3.0/24 fwmark 0x1000000/0x1000000 table 51830",
            "5184: from 10.244.3.0/24 to 10.244.0.0/16 table 254",
            "5184: from 10.244.3.1/32 iif lo table 254",
            "5185: from 10.244.3.0/24 fwmark 0/0x3000000 Unreachable",
        ];
        assert_eq!(rules, wanted);
    }

    #[test]
    fn pods_look_into_their_table_and_host_routes_are_left_alone() {
        let rules = fabric(None).rules();
        assert_eq!(rules.iter().filter(|rule| rule.priority == POD_RULE_PRIORITY).count(), 6);
        let host: IpNet = "10.244.3.7/32".parse().unwrap();
        assert!(!owns(&Route::on_link(host, 3)));
        assert!(owns(&Route::on_link(host, 3).with_table(POD_TABLE)));
    }
}
