//! The list of Services for people and programs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::service::balancer::Balancer;
use crate::service::object::TrafficPolicy;
use crate::service::show::{absent, conflicts, parse_name, services};

fn names(names: &[&str]) -> BTreeSet<ServiceName> {
    names.iter().map(|text| parse_name(text).unwrap()).collect()
}

/// `a` and `b` want the same external IP.
fn balancer() -> Balancer {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let mut first = Service { external_ips: vec![address("192.0.2.7")], ..service("10.96.0.1") };
    first.ports[0].node_port = Some(30_080);
    let second = Service {
        external_ips: vec![address("192.0.2.7")],
        ingress_ips: vec![address("198.51.100.7")],
        affinity: Some(Duration::from_secs(600)),
        source_ranges: Some(vec!["203.0.113.0/24".parse().unwrap()]),
        external_policy: TrafficPolicy::Local,
        ..service("10.96.0.2")
    };
    for (service, spec) in [("b", second), ("a", first)] {
        balancer.set_service(&name(service), Some(Arc::new(spec)));
    }
    let endpoints = vec![endpoint("10.244.2.2", "there"), endpoint("10.244.1.2", "here")];
    balancer.set_slice(&name("b"), "slice", Some(Arc::new(slice(endpoints))));
    // A slice alone is not a Service.
    balancer.set_slice(&name("c"), "slice", Some(Arc::new(slice(Vec::new()))));
    balancer.update();
    balancer
}

#[test]
fn services_are_listed_by_name_with_all_that_decides() {
    let value = serde_json::to_value(services(&balancer(), &BTreeSet::new())).unwrap();
    let expected = serde_json::json!([{"namespace": "default", "name": "a", "ports": [{
        "protocol": "tcp", "port": 80,
        "addresses": [
            {"kind": "clusterIP", "address": "10.96.0.1:80", "fromInside": "reject"},
            {"kind": "nodePort", "address": "192.0.2.1:30080", "fromInside": "reject", "fromOutside": "reject"},
            {"kind": "externalIP", "address": "192.0.2.7:80", "fromInside": "reject", "fromOutside": "reject"},
        ],
        "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
        "clusterEndpoints": [], "localEndpoints": [],
    }]}, {"namespace": "default", "name": "b", "ports": [{
        "protocol": "tcp", "port": 80,
        "addresses": [
            {"kind": "clusterIP", "address": "10.96.0.2:80", "fromInside": "cluster"},
            {"kind": "ingressIP", "address": "198.51.100.7:80", "fromInside": "cluster", "fromOutside": "local"},
            {"kind": "externalIP", "address": "192.0.2.7:80", "fromInside": "cluster", "fromOutside": "local",
                "takenBy": "default/a"},
        ],
        "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local", "affinitySeconds": 600,
        "sourceRanges": ["203.0.113.0/24"],
        "clusterEndpoints": [
            {"address": "10.244.1.2:8080", "local": true}, {"address": "10.244.2.2:8080", "local": false},
        ],
        "localEndpoints": [{"address": "10.244.1.2:8080", "local": true}],
    }]}]);
    assert_eq!(value, expected);
}

#[test]
fn a_service_is_found_by_its_name_with_its_conflicts() {
    let balancer = balancer();
    let found = services(&balancer, &names(&["default/b", "default/c"]));
    assert_eq!(found.iter().map(|service| service.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(absent(&balancer, &names(&["default/b", "default/c"])), ["default/c"]);
    for (asked, count) in [(&[][..], 1), (&["default/a"], 1), (&["default/b"], 1), (&["default/c"], 0)] {
        assert_eq!(conflicts(&balancer, &names(asked)).len(), count, "{asked:?}");
    }
    let conflict = &conflicts(&balancer, &BTreeSet::new())[0];
    assert_eq!((conflict.owner.as_str(), conflict.refused.as_str()), ("default/a", "default/b"));
}

#[test]
fn a_target_that_a_service_has_twice_is_shown_as_what_it_is_served_as() {
    let mut balancer = Balancer::default();
    balancer.set_node(node());
    let twice = Service {
        ingress_ips: vec![address("192.0.2.7")],
        external_ips: vec![address("192.0.2.7")],
        ..service("10.96.0.1")
    };
    balancer.set_service(&name("twice"), Some(Arc::new(twice)));
    balancer.update();
    let found = services(&balancer, &BTreeSet::new());
    let kinds: Vec<_> = found[0].ports[0].addresses.iter().map(|address| address.kind).collect();
    assert_eq!(kinds, [crate::service::target::Kind::ClusterIp, crate::service::target::Kind::Ingress]);
}

#[test]
fn a_name_has_two_parts() {
    assert!(parse_name("default/web").is_some());
    for text in ["web", "/web", "default/", "a/b/c", "a/b,c", ""] {
        assert!(parse_name(text).is_none(), "{text}");
    }
}
