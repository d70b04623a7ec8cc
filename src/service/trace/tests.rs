use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::service::balancer::Balancer;
use crate::service::object::{Service, TrafficPolicy};
use crate::service::tests::{address, endpoint, name, node, service, slice};

/// `web` with two endpoints, one here; `sticky` with session affinity, source ranges and the policy `Local`; `far` with an
/// endpoint elsewhere, and the policy `Local`; `empty` without any.
fn balancer() -> Balancer {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let with_node_port = |cluster_ip, port| {
        let mut service = service(cluster_ip);
        service.ports[0].node_port = Some(port);
        service
    };
    let local = |service: Service| Service {
        internal_policy: TrafficPolicy::Local,
        external_policy: TrafficPolicy::Local,
        ..service
    };
    let sticky = Service {
        affinity: Some(Duration::from_secs(600)),
        ingress_ips: vec![address("203.0.113.7")],
        source_ranges: Some(vec!["198.51.100.0/24".parse().unwrap()]),
        ..local(with_node_port("10.96.0.2", 30_082))
    };
    for (service, spec, endpoints) in [
        ("web", with_node_port("10.96.0.1", 30_081), &[("10.244.1.2", "here"), ("10.244.2.2", "there")][..]),
        ("sticky", sticky, &[("10.244.1.2", "here"), ("10.244.2.2", "there")]),
        ("far", local(with_node_port("10.96.0.3", 30_083)), &[("10.244.2.2", "there")]),
        ("empty", service("10.96.0.4"), &[]),
        ("hosts", with_node_port("10.96.0.5", 30_085), &[("192.0.2.1", "here"), ("192.0.2.2", "there")]),
    ] {
        balancer.set_service(&name(service), Some(Arc::new(spec)));
        let endpoints = endpoints.iter().map(|(at, node)| endpoint(at, node)).collect();
        balancer.set_slice(&name(service), "slice", Some(Arc::new(slice(endpoints))));
    }
    balancer.update();
    balancer
}

fn surroundings() -> Surroundings {
    Surroundings {
        node: "here".into(),
        own_addresses: vec![address("192.0.2.1")],
        fabric_addresses: vec![address("10.244.1.1")],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        cluster_pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: node().reserved.service_cidrs.clone(),
        non_masquerade_cidrs: Vec::new(),
        member_addresses: [address("192.0.2.2")].into(),
    }
}

fn traced(source: &str, target: &str) -> Trace {
    trace(&balancer(), &surroundings(), &Packet::parse(source, target).unwrap())
}

/// Endpoints with `address percent source`.
fn served(source: &str, target: &str) -> Vec<String> {
    let trace = traced(source, target);
    assert_eq!(trace.verdict, TraceVerdict::Served, "{trace:?}");
    let line = |to: &TracedEndpoint| {
        let source = to.source.map_or_else(|| "uplink".to_owned(), |source| source.to_string());
        format!("{} {} {source}{}", to.address, to.percent, if to.hairpin { " hairpin" } else { "" })
    };
    trace.endpoints.iter().map(line).collect()
}

const POD: &str = "10.244.1.9";
const NODE: &str = "192.0.2.1";
const CLIENT: &str = "198.51.100.3";
const PEERS_POD: &str = "10.244.2.9";

#[track_caller]
fn assert_ends(source: &str, target: &str, verdict: TraceVerdict, service: Option<&str>, reason: &str) {
    let trace = traced(source, target);
    assert_eq!((trace.verdict, trace.service.as_deref()), (verdict, service), "{trace:?}");
    assert!(trace.reason.contains(reason), "{trace:?}");
    assert!(trace.endpoints.is_empty());
}

#[test]
fn the_origin_follows_from_this_nodes_addresses() {
    let origins = [POD, NODE, "10.244.1.1", "127.0.0.1", CLIENT, PEERS_POD]
        .map(|source| surroundings().origin(address(source)));
    assert_eq!(
        origins,
        [Origin::Pod, Origin::Node, Origin::Node, Origin::Node, Origin::Outside, Origin::Outside]
    );
}

#[test]
fn inside_keeps_its_source_and_outside_gets_the_fabric_address() {
    for source in [POD, NODE] {
        for target in ["10.96.0.1:80", "192.0.2.1:30081"] {
            let expected =
                ["10.244.1.2:8080", "10.244.2.2:8080"].map(|endpoint| format!("{endpoint} 50 {source}"));
            assert_eq!(served(source, target), expected);
        }
    }
    for source in [CLIENT, PEERS_POD] {
        let expected = ["10.244.1.2:8080 50 10.244.1.1", "10.244.2.2:8080 50 10.244.1.1"];
        assert_eq!(served(source, "192.0.2.1:30081"), expected);
    }
    let trace = traced(CLIENT, "192.0.2.1:30081");
    assert_eq!((trace.kind, trace.port), (Some(Kind::NodePort), Some(80)));
    assert_eq!((trace.service.as_deref(), trace.action), (Some("default/web"), Some(Action::Masquerade)));
}

#[test]
fn a_pod_that_is_its_own_endpoint_is_a_hairpin() {
    let expected = ["10.244.1.2:8080 50 10.244.1.1 hairpin", "10.244.2.2:8080 50 10.244.1.2"];
    assert_eq!(served("10.244.1.2", "10.96.0.1:80"), expected);
}

#[test]
fn endpoints_on_hosts_see_what_the_way_there_makes_of_the_source() {
    // This node delivers to itself without translating; to a member, only what came by the tunnel goes by the tunnel.
    let target = "192.0.2.1:30085";
    assert_eq!(served(CLIENT, target), ["192.0.2.1:8080 50 198.51.100.3", "192.0.2.2:8080 50 uplink"]);
    assert_eq!(served(PEERS_POD, target), ["192.0.2.1:8080 50 10.244.2.9", "192.0.2.2:8080 50 10.244.1.1"]);
    assert_eq!(served(POD, target), ["192.0.2.1:8080 50 10.244.1.9", "192.0.2.2:8080 50 10.244.1.9"]);
    // Where the endpoint's node is no member, egress masquerades.
    let strangers = Surroundings { member_addresses: [].into(), ..surroundings() };
    let trace = trace(&balancer(), &strangers, &Packet::parse(POD, target).unwrap());
    assert_eq!(trace.endpoints[1].translation, Translation::Uplink);
}

#[test]
fn the_policy_local_leaves_this_nodes_endpoints() {
    assert_eq!(served(POD, "10.96.0.2:80"), ["10.244.1.2:8080 100 10.244.1.9"]);
    assert_eq!(served(CLIENT, "192.0.2.1:30082"), ["10.244.1.2:8080 100 198.51.100.3"]);
    // External addresses from inside.
    assert_eq!(served(POD, "192.0.2.1:30083"), ["10.244.2.2:8080 100 10.244.1.9"]);
    assert_ends(
        POD,
        "10.96.0.3:80",
        TraceVerdict::Dropped,
        Some("default/far"),
        "internalTrafficPolicy is Local",
    );
    assert_ends(
        CLIENT,
        "192.0.2.1:30083",
        TraceVerdict::Dropped,
        Some("default/far"),
        "externalTrafficPolicy",
    );
}

#[test]
fn source_ranges_refuse_at_the_ingress_ip_alone() {
    assert_eq!(served(CLIENT, "203.0.113.7:80").len(), 1);
    for source in ["192.0.2.9", POD] {
        assert_ends(
            source,
            "203.0.113.7:80",
            TraceVerdict::Refused,
            Some("default/sticky"),
            "loadBalancerSourceRanges",
        );
    }
    assert_eq!(served("192.0.2.9", "192.0.2.1:30082").len(), 1);
    assert_eq!(traced(CLIENT, "203.0.113.7:80").affinity_seconds, Some(600));
}

#[test]
fn what_is_not_served_is_rejected_dropped_or_left_alone() {
    assert_ends(POD, "10.96.0.4:80", TraceVerdict::Rejected, Some("default/empty"), "no endpoint");
    assert_ends(POD, "10.96.0.1:81", TraceVerdict::Rejected, Some("default/web"), "no port 81/TCP");
    assert_ends(POD, "10.96.0.1:80/udp", TraceVerdict::Rejected, Some("default/web"), "no port 80/UDP");
    assert_ends(POD, "10.96.9.9:80", TraceVerdict::Dropped, None, "no Service has this address");
    assert_ends(CLIENT, "10.96.0.1:80", TraceVerdict::Dropped, None, "not reached from outside");
    assert_ends(PEERS_POD, "10.96.0.1:80", TraceVerdict::Dropped, Some("default/web"), "their own node");
    assert_ends(PEERS_POD, "10.96.0.1:81", TraceVerdict::Dropped, None, "their own node");
    assert_ends(POD, "192.0.2.1:22", TraceVerdict::NoService, None, "goes where it is addressed to");
}

#[test]
fn packets_are_named_by_source_and_target() {
    let target = |text: &str| Packet::parse("fd00::1", text).map(|packet| packet.target.to_string());
    assert_eq!(target("[fd96::1]:53/udp").as_deref(), Ok("[fd96::1]:53/UDP"));
    assert_eq!(target("[fd96::1]:53").as_deref(), Ok("[fd96::1]:53/TCP"));
    for (text, why) in [
        ("fd96::1:53/tcp/udp", "is not ADDRESS:PORT"),
        ("[fd96::1]:53/icmp", "is not tcp, udp or sctp"),
        ("web:80", "is not ADDRESS:PORT"),
        ("10.0.0.1:80", "not of the same address family"),
    ] {
        let error = target(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!(Packet::parse("pod", "10.0.0.1:80").unwrap_err().contains("is not an IP address"));
}

#[test]
fn the_json_has_words_for_programs() {
    let trace = traced("10.244.1.2", "10.96.0.1:80");
    let value = serde_json::to_value(&trace).unwrap();
    assert_eq!(
        (&value["origin"], &value["verdict"], &value["kind"]),
        (&"pod".into(), &"served".into(), &"clusterIP".into())
    );
    assert_eq!(value["endpoints"][0]["translation"], "fabric");
    assert_eq!(value["endpoints"][0]["hairpin"], true);
    assert_eq!(serde_json::from_value::<Trace>(value).unwrap(), trace);
}
