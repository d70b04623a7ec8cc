//! Which endpoints serve.

use std::sync::Arc;

use super::*;
use crate::kernel::nft::Ip;
use crate::service::endpoints::{Backends, choose};
use crate::service::object::TrafficPolicy;
use crate::service::plan::{Action, Had, PortPlan, plan};
use crate::service::target::{Kind, Target};

/// Who serves for each policy: addresses and ports.
fn chosen(slices: &[Slice]) -> [Vec<String>; 2] {
    let Backends { cluster, local } =
        choose(&slices.iter().collect::<Vec<_>>(), ("http", Protocol::Tcp), Ip::V4, &node().place);
    [cluster, local].map(|all| all.iter().map(|backend| backend.to.to_string()).collect())
}

#[track_caller]
fn assert_chosen(endpoints: Vec<Endpoint>, cluster: &[&str], local: &[&str]) {
    let at =
        |addresses: &[&str]| addresses.iter().map(|address| format!("{address}:8080")).collect::<Vec<_>>();
    assert_eq!(chosen(&[slice(endpoints)]), [at(cluster), at(local)]);
}

#[test]
fn ready_endpoints_serve_and_those_on_this_node_for_the_policy_local() {
    let endpoints =
        vec![endpoint("10.0.0.2", "there"), endpoint("10.0.0.1", "here"), endpoint("fd00::1", "here")];
    assert_chosen(endpoints, &["10.0.0.1", "10.0.0.2"], &["10.0.0.1"]);
    assert_chosen(vec![], &[], &[]);
}

#[test]
fn what_terminates_and_serves_is_the_last_resort_of_each_policy_for_itself() {
    let last = || terminating("10.0.0.1", "here", true);
    assert_chosen(vec![last(), endpoint("10.0.0.2", "there")], &["10.0.0.2"], &["10.0.0.1"]);
    assert_chosen(vec![last(), terminating("10.0.0.2", "there", false)], &["10.0.0.1"], &["10.0.0.1"]);
    assert_chosen(vec![terminating("10.0.0.1", "here", false)], &[], &[]);
    // Not ready, and not on its way out either: never.
    let starting = Endpoint { is_ready: false, ..endpoint("10.0.0.1", "here") };
    assert_chosen(vec![starting], &[], &[]);
}

#[test]
fn an_endpoint_that_two_slices_have_is_the_one_that_does_not_terminate() {
    for pair in [[true, false], [false, true]] {
        let slices = pair.map(|ends| {
            slice(vec![if ends {
                terminating("10.0.0.1", "here", true)
            } else {
                endpoint("10.0.0.1", "here")
            }])
        });
        assert_eq!(chosen(&slices), [["10.0.0.1:8080"], ["10.0.0.1:8080"]]);
        let ready_elsewhere =
            [slices[0].clone(), slices[1].clone(), slice(vec![endpoint("10.0.0.2", "there")])];
        assert_eq!(chosen(&ready_elsewhere)[0], ["10.0.0.1:8080", "10.0.0.2:8080"]);
    }
}

#[test]
fn slices_have_target_ports_of_their_own() {
    let mut other = slice(vec![endpoint("10.0.0.2", "there")]);
    other.ports[0].port = 9090;
    let mut unrelated = slice(vec![endpoint("10.0.0.3", "there")]);
    unrelated.ports[0].name = "https".into();
    let mut datagrams = slice(vec![endpoint("10.0.0.4", "there")]);
    datagrams.ports[0].protocol = Protocol::Udp;
    let first = slice(vec![endpoint("10.0.0.1", "there")]);
    assert_eq!(chosen(&[first, other, unrelated, datagrams])[0], ["10.0.0.1:8080", "10.0.0.2:9090"]);
}

#[test]
fn hints_count_where_every_ready_endpoint_has_one_and_one_is_for_here() {
    let hinted = |at, nodes: &[&str], zones: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        Endpoint { for_nodes: of(nodes), for_zones: of(zones), ..endpoint(at, "there") }
    };
    let same_node = || hinted("10.0.0.1", &["here"], &["b"]);
    let same_zone = || hinted("10.0.0.2", &["there"], &["a"]);
    let neither = || hinted("10.0.0.3", &["there"], &["b", "c"]);
    assert_chosen(vec![same_node(), same_zone(), neither()], &["10.0.0.1"], &[]);
    assert_chosen(vec![same_zone(), neither()], &["10.0.0.2"], &[]);
    assert_chosen(vec![neither()], &["10.0.0.3"], &[]);
    // Somebody without a hint: nobody's counts.
    assert_chosen(vec![same_node(), endpoint("10.0.0.4", "there")], &["10.0.0.1", "10.0.0.4"], &[]);
    let no_node = hinted("10.0.0.5", &[], &["a"]);
    assert_chosen(vec![same_node(), same_zone(), no_node], &["10.0.0.2", "10.0.0.5"], &[]);
    // Only ready ones are asked.
    let silent = Endpoint { is_ready: false, ..endpoint("10.0.0.6", "there") };
    assert_chosen(vec![same_node(), same_zone(), silent], &["10.0.0.1"], &[]);
}

/// What becomes of a packet to each kind of address, from inside and from outside.
fn actions(
    endpoints: Vec<Endpoint>,
    internal: TrafficPolicy,
    external: TrafficPolicy,
) -> [Option<Action>; 3] {
    let service = Service { internal_policy: internal, external_policy: external, ..service("10.96.0.1") };
    let port = &plan(&name("web"), &service, &[&slice(endpoints)], &node(), |_| Had::default())[0];
    assert_eq!(port.from_outside(Kind::ClusterIp), None);
    for kind in [Kind::Ingress, Kind::ExternalIp] {
        assert_eq!(port.from_inside(kind), port.from_inside(Kind::NodePort));
        assert_eq!(port.from_outside(kind), port.from_outside(Kind::NodePort));
    }
    [
        Some(port.from_inside(Kind::ClusterIp)),
        Some(port.from_inside(Kind::NodePort)),
        port.from_outside(Kind::NodePort),
    ]
}

#[test]
fn policies_decide_for_packets_from_inside_and_outside() {
    use Action::{Cluster, Drop, Local, Masquerade, Reject};
    use TrafficPolicy as Policy;
    let (here, there) = (|| vec![endpoint("10.0.0.1", "here")], || vec![endpoint("10.0.0.2", "there")]);
    for (endpoints, internal, external, expected) in [
        (here(), Policy::Cluster, Policy::Cluster, [Cluster, Cluster, Masquerade]),
        (there(), Policy::Cluster, Policy::Cluster, [Cluster, Cluster, Masquerade]),
        (here(), Policy::Local, Policy::Local, [Local, Cluster, Local]),
        (there(), Policy::Local, Policy::Local, [Drop, Cluster, Drop]),
        (there(), Policy::Cluster, Policy::Local, [Cluster, Cluster, Drop]),
        (vec![], Policy::Local, Policy::Local, [Reject, Reject, Reject]),
        (vec![], Policy::Cluster, Policy::Cluster, [Reject, Reject, Reject]),
    ] {
        assert_eq!(actions(endpoints.clone(), internal, external), expected.map(Some), "{endpoints:?}");
    }
}

#[test]
fn a_service_is_served_in_the_families_of_its_cluster_ips() {
    let mut service = service("10.96.0.1");
    service.external_ips = vec![address("192.0.2.7"), address("2001:db8::7")];
    service.ingress_ips = vec![address("198.51.100.7")];
    service.ports[0].node_port = Some(30_080);
    let targets = |service: &Service| {
        let plan = plan(&name("web"), service, &[], &node(), |_| Had::default());
        let all = plan.iter().flat_map(|port| port.targets.clone());
        all.map(|(target, kind)| format!("{target} {kind:?}")).collect::<Vec<_>>()
    };
    let v4 = [
        "10.96.0.1:80/TCP ClusterIp",
        "192.0.2.1:30080/TCP NodePort",
        "198.51.100.7:80/TCP Ingress",
        "192.0.2.7:80/TCP ExternalIp",
    ];
    assert_eq!(targets(&service), v4);
    service.cluster_ips.push(address("fd96::1"));
    let both = [&v4[..], &["[fd96::1]:80/TCP ClusterIp", "[2001:db8::7]:80/TCP ExternalIp"]].concat();
    assert_eq!(targets(&service), both);
}

/// Who may use an ingress IP of each family, of those whose packets come from elsewhere.
#[test]
fn source_ranges_are_of_one_family_each() {
    let with = |ranges: &[&str]| {
        let mut service = service("10.96.0.1");
        service.cluster_ips.push(address("fd96::1"));
        service.source_ranges = Some(ranges.iter().map(|range| range.parse().unwrap()).collect());
        let plan = plan(&name("web"), &service, &[], &node(), |_| Had::default());
        let text = |port: &Arc<PortPlan>| {
            port.sources.as_ref().map(|sources| format!("{:?} {}", sources.ranges, sources.has_node))
        };
        [text(&plan[0]), text(&plan[1])]
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(with(&["198.51.100.0/24"]), [some("[198.51.100.0/24] false"), some("[] false")]);
    assert_eq!(
        with(&["192.0.2.0/24", "2001:db8::/64"]),
        [some("[192.0.2.0/24] true"), some("[2001:db8::/64] false")]
    );
    assert_eq!(with(&["198.51.100.0/24", "0.0.0.0/0"]), [None, some("[] false")]);
    assert_eq!(with(&["::/0"]), [some("[] false"), None]);
}

#[test]
fn what_is_no_endpoint_and_no_second_port() {
    let mut service = service("10.96.0.1");
    service.ports.push(service.ports[0].clone());
    let slice = slice(vec![endpoint("10.96.0.7", "there"), endpoint("10.0.0.1", "there")]);
    let plan = plan(&name("web"), &service, &[&slice], &node(), |_| Had::default());
    let backends: Vec<String> =
        plan[0].backends.cluster.iter().map(|backend| backend.to.to_string()).collect();
    assert_eq!((plan.len(), backends), (1, vec!["10.0.0.1:8080".to_owned()]));
}

#[test]
fn backends_keep_their_numbers_and_new_ones_get_others() {
    let mut service = service("10.96.0.1");
    service.affinity = Some(std::time::Duration::from_secs(60));
    let plan = |addresses: &[&str], before: Option<&PortPlan>| {
        let slice = slice(addresses.iter().map(|at| endpoint(at, "there")).collect());
        let had = |_: &[(Target, Kind)]| {
            before.map_or_else(Had::default, |port| Had {
                backends: port.backends.clone(),
                affinity: port.affinity.clone(),
            })
        };
        Arc::clone(&plan(&name("web"), &service, &[&slice], &node(), had)[0])
    };
    let numbers = |port: &PortPlan| {
        let affinity = port.affinity.clone().unwrap();
        affinity.numbers.into_iter().map(|(to, number)| (to.ip().to_string(), number)).collect::<Vec<_>>()
    };
    let both = plan(&["10.0.0.1", "10.0.0.2"], None);
    assert_eq!(both.affinity.as_ref().unwrap().port, "default/web/tcp/80");
    let one = plan(&["10.0.0.2"], Some(&both));
    assert_eq!(numbers(&one), numbers(&both)[1..]);
    let again = plan(&["10.0.0.1", "10.0.0.2"], Some(&one));
    assert_eq!(numbers(&again)[1], numbers(&both)[1]);
    assert!(!numbers(&both).contains(&numbers(&again)[0]), "one that comes back has no clients from before");
}
