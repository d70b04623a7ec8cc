//! The list of Services for people.

use super::{field, sentence};
use crate::service::object::TrafficPolicy;
use crate::service::show::{ServiceList, ShownAddress, ShownEndpoint, ShownPort, ShownService};
use crate::service::target::Kind;

/// Endpoints of a port that are shown of a Service that nobody named.
const ENDPOINTS: usize = 8;

/// `whole`: with every endpoint.
pub(super) fn render(list: &ServiceList, whole: bool) -> String {
    if !list.enabled {
        let (node, other) = (&list.node, list.other_proxy.as_deref());
        let other = other.unwrap_or("another proxy serves the Services of this node (services = \"off\")");
        return format!("{node}: {other}\n");
    }
    let mut text: String = list.services.iter().map(|it| service(it, whole)).collect();
    for conflict in &list.conflicts {
        text += &format!("conflict: {}/{}\n", conflict.address, conflict.protocol);
        text += &format!("  {} has it, {} does not get it\n", conflict.owner, conflict.refused);
    }
    for name in &list.absent {
        text += &format!("not served on this node: {name}\n");
    }
    if let Some(problem) = &list.problem {
        text += &format!("problem: {problem}\n");
    }
    text + &summary(list)
}

fn summary(list: &ServiceList) -> String {
    let count = list.services.len();
    let mut text = format!("{} Service{} on {}\n", count, if count == 1 { "" } else { "s" }, list.node);
    match &list.counters {
        Some(counters) => {
            let counters: Vec<String> =
                counters.iter().map(|(name, count)| format!("{count} {name}")).collect();
            text += &field("connections", &counters);
        }
        None => text += &sentence("connections", "not counted: the kernel has no table of Services"),
    }
    text
}

fn service(service: &ShownService, whole: bool) -> String {
    let name = format!("{}/{}", service.namespace, service.name);
    service.ports.iter().map(|it| port(&name, it, whole)).collect()
}

/// A paragraph.
fn port(name: &str, port: &ShownPort, whole: bool) -> String {
    let mut text = format!("{name}  {}/{}\n", port.port, port.protocol);
    for kind in [Kind::ClusterIp, Kind::NodePort, Kind::Ingress, Kind::ExternalIp] {
        let of_kind = port.addresses.iter().filter(|address| address.kind == kind);
        let addresses: Vec<String> = of_kind.map(address).collect();
        if !addresses.is_empty() {
            text += &field(label(kind), &addresses);
        }
    }
    for withheld in &port.withheld {
        text += &sentence("withheld", &format!("{}: {}", withheld.address, withheld.reason));
    }
    let (internal, external) = (port.internal_traffic_policy, port.external_traffic_policy);
    text += &field("policy", &[format!("internal {internal:?}"), format!("external {external:?}")]);
    if let Some(seconds) = port.affinity_seconds {
        text += &sentence("affinity", &format!("{seconds} s after a client's last connection"));
    }
    if let Some(ranges) = &port.source_ranges {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        text += &field("sources", &if ranges.is_empty() { vec!["none".into()] } else { ranges });
    }
    let nobody = port.cluster_endpoints.is_empty() && port.local_endpoints.is_empty();
    let without = if nobody { "none: connections are rejected" } else { "none" };
    text += &field("endpoints", &endpoints(&port.cluster_endpoints, whole, without));
    if [internal, external].contains(&TrafficPolicy::Local) && !nobody {
        let without = "none: the policy Local drops connections";
        text += &field("on this node", &endpoints(&port.local_endpoints, whole, without));
    }
    text
}

/// What people call a kind of address.
pub(super) fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterIp => "cluster IP",
        Kind::NodePort => "node port",
        Kind::Ingress => "ingress IP",
        Kind::ExternalIp => "external IP",
    }
}

/// Who has it instead is a conflict, which is shown below all Services.
fn address(address: &ShownAddress) -> String {
    format!("{}{}", address.address, if address.taken_by.is_some() { " (taken)" } else { "" })
}

fn endpoints(endpoints: &[ShownEndpoint], whole: bool, without: &str) -> Vec<String> {
    let shown = if whole { endpoints.len() } else { endpoints.len().min(ENDPOINTS) };
    let endpoint = |it: &ShownEndpoint| format!("{}{}", it.address, if it.local { " local" } else { "" });
    let mut items: Vec<String> = endpoints[..shown].iter().map(endpoint).collect();
    if shown < endpoints.len() {
        items.push(format!("and {} more", endpoints.len() - shown));
    }
    if items.is_empty() {
        items.push(without.to_owned());
    }
    items
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::kernel::protocol::Protocol;
    use crate::service::plan::Action;
    use crate::service::show::{ShownConflict, ShownWithheld};

    fn list(endpoints: usize) -> ServiceList {
        let at = |number: usize| {
            SocketAddr::new(
                IpAddr::from([
                    0x2001,
                    0xdb8,
                    0x1111,
                    0x2222,
                    0x3333,
                    0x4444,
                    0x5555,
                    u16::try_from(number).unwrap(),
                ]),
                30_080,
            )
        };
        let endpoint = |number| ShownEndpoint { address: at(number), local: number == 1 };
        let address = |kind, taken_by: Option<&str>| ShownAddress {
            kind,
            address: at(0x6666),
            from_inside: Action::Cluster,
            from_outside: Some(Action::Drop),
            taken_by: taken_by.map(str::to_owned),
        };
        let port = ShownPort {
            protocol: Protocol::Udp,
            port: 80,
            addresses: vec![address(Kind::ClusterIp, None), address(Kind::ExternalIp, Some("default/other"))],
            withheld: vec![ShownWithheld {
                address: at(0x7777),
                reason: crate::service::reserved::Refusal::OfNode.to_string(),
            }],
            internal_traffic_policy: TrafficPolicy::Cluster,
            external_traffic_policy: TrafficPolicy::Local,
            affinity_seconds: Some(10_800),
            source_ranges: Some(vec!["192.0.2.0/24".parse().unwrap()]),
            cluster_endpoints: (2..2 + endpoints).map(endpoint).collect(),
            local_endpoints: Vec::new(),
        };
        let conflict = ShownConflict {
            address: at(0x6666),
            protocol: Protocol::Udp,
            owner: "default/other".into(),
            refused: "default/web".into(),
        };
        let counters = ["affinity-full", "dropped", "hairpins", "masqueraded", "refused", "rejected"];
        ServiceList {
            node: "worker-1".into(),
            enabled: true,
            other_proxy: None,
            problem: Some("waiting".into()),
            services: vec![ShownService {
                namespace: "default".into(),
                name: "web".into(),
                ports: vec![port],
            }],
            absent: vec!["default/gone".into()],
            conflicts: vec![conflict],
            counters: Some(counters.map(|name| (name.to_owned(), 1_234_567)).into()),
        }
    }

    #[test]
    fn the_list_fits_a_terminal_and_names_what_matters() {
        let text = render(&list(20), false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        for part in [
            "default/web  80/UDP\n  cluster IP    [2001:db8:1111:2222:3333:4444:5555:6666]:30080\n",
            ":6666]:30080 (taken)\n",
            "  policy        internal Cluster, external Local\n",
            "  affinity      10800 s after a client's last connection\n",
            "  sources       192.0.2.0/24\n",
            "  on this node  none: the policy Local drops connections\n",
            "and 12 more\n",
            "/UDP\n  default/other has it, default/web does not get it\n",
            "not served on this node: default/gone\nproblem: waiting\n1 Service on worker-1\n",
            "1234567 dropped, 1234567 hairpins,\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!render(&list(20), true).contains("more"));
    }

    #[test]
    fn a_service_without_endpoints_says_so_once() {
        let text = render(&list(0), false);
        assert!(text.contains("  endpoints     none: connections are rejected\n"), "{text}");
        assert!(!text.contains("on this node  "), "{text}");
    }

    #[test]
    fn json_round_trips() {
        let text = serde_json::to_string(&list(2)).unwrap();
        assert_eq!(serde_json::from_str::<ServiceList>(&text).unwrap(), list(2));
    }

    #[test]
    fn another_proxy_is_named() {
        let list = ServiceList { node: "worker-1".into(), ..ServiceList::default() };
        assert!(render(&list, false).starts_with("worker-1: another proxy serves"));
        let list = ServiceList { other_proxy: Some("kube-proxy serves".into()), ..list };
        assert_eq!(render(&list, false), "worker-1: kube-proxy serves\n");
    }
}
