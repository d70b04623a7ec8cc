//! What is taken from the objects of the API.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self, LoadBalancerIngress};
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::kernel::protocol::Protocol;

use super::object::{Endpoint, HEADLESS, OTHER_PROXY, Service, ServicePort, Slice, SlicePort, TrafficPolicy};

/// Label of an EndpointSlice with the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of an EndpointSlice: what it was last written for happened then.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

impl Service {
    /// What is to be served of a Service; none where that is nothing: without a cluster IP, of type ExternalName, or another
    /// proxy's.
    #[must_use]
    pub fn of(service: &v1::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let cluster_ips = cluster_ips(spec);
        if has_label(&service.metadata, OTHER_PROXY)
            || spec.type_.as_deref() == Some("ExternalName")
            || cluster_ips.is_empty()
        {
            return None;
        }
        let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
        let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = ingress.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
        Some(Self {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            cluster_ips,
            external_ips: addresses(spec.external_ips.as_deref()),
            ingress_ips: if is_balanced {
                ingress.iter().filter_map(ingress_ip).collect()
            } else {
                Vec::new()
            },
            ports: spec.ports.as_deref().unwrap_or_default().iter().filter_map(port).collect(),
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            affinity: affinity(spec),
            source_ranges: source_ranges(spec).filter(|_| is_balanced),
            health_check_port: spec.health_check_node_port.and_then(number),
        })
    }
}

impl Slice {
    /// What is to be served of an EndpointSlice; none where that is nothing: of no Service, headless, another proxy's, or with
    /// names instead of addresses.
    #[must_use]
    pub fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
        if has_label(&slice.metadata, HEADLESS) || has_label(&slice.metadata, OTHER_PROXY) {
            return None;
        }
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let endpoints = slice.endpoints.iter().flatten();
        Some(Self {
            service: service.clone(),
            changed: annotation(&slice.metadata, LAST_CHANGE),
            ports: slice.ports.as_deref().unwrap_or_default().iter().filter_map(slice_port).collect(),
            endpoints: endpoints.filter_map(|endpoint| self::endpoint(endpoint, is_v4)).collect(),
        })
    }
}

fn annotation<T: FromStr>(metadata: &ObjectMeta, name: &str) -> Option<T> {
    metadata.annotations.as_ref()?.get(name)?.parse().ok()
}

fn has_label(metadata: &ObjectMeta, label: &str) -> bool {
    metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// At most one a family. `None` is how a headless Service says that it has none.
fn cluster_ips(spec: &v1::ServiceSpec) -> Vec<IpAddr> {
    let all = addresses(spec.cluster_ips.as_deref());
    let all =
        if all.is_empty() { addresses(spec.cluster_ip.as_ref().map(std::slice::from_ref)) } else { all };
    let mut found: Vec<IpAddr> = Vec::new();
    for address in all {
        if found.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            found.push(address);
        }
    }
    found
}

fn addresses(texts: Option<&[String]>) -> Vec<IpAddr> {
    texts.unwrap_or_default().iter().filter_map(|text| text.parse().ok()).collect()
}

/// Packets to an address of mode `Proxy` arrive with another destination.
fn ingress_ip(ingress: &LoadBalancerIngress) -> Option<IpAddr> {
    let is_destination = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    ingress.ip.as_ref().filter(|_| is_destination)?.parse().ok()
}

fn port(port: &v1::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number),
    })
}

/// A port number; 0 means that there is none.
fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    if name == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &v1::ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
}

/// An empty list allows everybody. A range that cannot be read allows nobody.
fn source_ranges(spec: &v1::ServiceSpec) -> Option<Vec<IpNet>> {
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty())?;
    let ranges = ranges.iter().filter_map(|range| range.trim().parse::<IpNet>().ok());
    Some(ranges.map(|range| range.trunc()).collect())
}

/// A port without a number stands for all ports, which no Service can have.
fn slice_port(port: &discovery::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::parse(port.protocol.as_deref().unwrap_or_default())?,
        port: port.port.and_then(number)?,
    })
}

fn endpoint(endpoint: &discovery::Endpoint, is_v4: bool) -> Option<Endpoint> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let names = |names: Vec<String>| names.into_iter().map(String::into_boxed_str).collect();
    (address.is_ipv4() == is_v4).then(|| Endpoint {
        address,
        is_ready: conditions.ready.unwrap_or(true),
        is_serving: conditions.serving.unwrap_or(true),
        is_terminating: conditions.terminating.unwrap_or(false),
        node: endpoint.node_name.clone().map(String::into_boxed_str),
        for_nodes: names(hints.for_nodes.into_iter().flatten().map(|node| node.name).collect()),
        for_zones: names(hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value, labels: &Value) -> Option<Service> {
        let object = json!({"metadata": {"name": "web", "labels": labels}, "spec": spec, "status": {
            "loadBalancer": {"ingress": [
                {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "VIP"}, {"hostname": "lb.example.com"},
                {"ip": "198.51.100.3", "ipMode": "Proxy"},
            ]},
        }});
        Service::of(&serde_json::from_value(object).unwrap())
    }

    fn slice(object: &Value) -> Option<Slice> {
        let mut whole = json!({
            "metadata": {"name": "web-1", "labels": {SERVICE_NAME: "web"}}, "addressType": "IPv4", "endpoints": [],
        });
        object.as_object().unwrap().iter().for_each(|(key, value)| whole[key] = value.clone());
        Slice::of(&serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn what_is_not_for_this_proxy() {
        let none = json!({});
        assert!(service(&json!({"clusterIP": "10.96.0.1"}), &none).is_some());
        for (spec, labels) in [
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), &none),
            (json!({"clusterIP": ""}), &none),
            (json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "10.96.0.1"}), &none),
            (json!({"clusterIP": "10.96.0.1"}), &json!({OTHER_PROXY: "other"})),
        ] {
            assert_eq!(service(&spec, labels), None, "{spec}");
        }
        assert!(slice(&json!({})).is_some());
        for labels in [
            json!({}),
            json!({SERVICE_NAME: ""}),
            json!({SERVICE_NAME: "web", HEADLESS: ""}),
            json!({SERVICE_NAME: "web", OTHER_PROXY: "other"}),
        ] {
            assert_eq!(slice(&json!({"metadata": {"labels": labels}})), None, "{labels}");
        }
        assert_eq!(slice(&json!({"addressType": "FQDN"})), None);
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        let spec = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}], "sessionAffinity": "ClientIP"});
        let expected = Service {
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            affinity: Some(Duration::from_secs(10_800)),
            ..Service::default()
        };
        assert_eq!(service(&spec, &json!({})), Some(expected));
        let found = slice(
            &json!({"endpoints": [{"addresses": ["10.244.0.1", "10.244.0.2"]}], "ports": [{"port": 1}]}),
        );
        let found = found.unwrap();
        let endpoint = &found.endpoints[0];
        assert_eq!(endpoint.address, "10.244.0.1".parse::<IpAddr>().unwrap());
        assert!(endpoint.is_ready && endpoint.is_serving && !endpoint.is_terminating);
        assert_eq!(found.ports[0], SlicePort { name: String::new(), protocol: Protocol::Tcp, port: 1 });
    }

    #[test]
    fn a_load_balancers_addresses_and_ranges() {
        let spec = json!({
            "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd96::1"], "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": [" 192.0.2.1/24 ", "2001:db8::/32", "nonsense"], "healthCheckNodePort": 30_001,
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30_053}, {"port": 0}, {"port": 1, "protocol": "X"}],
        });
        let found = service(&spec, &json!({})).unwrap();
        assert_eq!(
            found.ingress_ips,
            ["198.51.100.1", "198.51.100.2"].map(|at| at.parse::<IpAddr>().unwrap())
        );
        let ranges = ["192.0.2.0/24", "2001:db8::/32"].map(|range| range.parse().unwrap());
        assert_eq!(found.source_ranges.as_deref(), Some(&ranges[..]));
        assert_eq!((found.external_policy, found.health_check_port), (TrafficPolicy::Local, Some(30_001)));
        let port =
            ServicePort { name: "dns".into(), protocol: Protocol::Udp, port: 53, node_port: Some(30_053) };
        assert_eq!(found.ports, [port]);
        let mut other = spec.clone();
        other["type"] = json!("NodePort");
        let found = service(&other, &json!({})).unwrap();
        assert!(found.ingress_ips.is_empty() && found.source_ranges.is_none());
    }

    #[test]
    fn a_slice_has_endpoints_of_its_family_and_ports_with_numbers() {
        let found = slice(&json!({
            "endpoints": [
                {"addresses": ["fd00::1"]}, {"addresses": []}, {"addresses": ["x"]},
                {"addresses": ["10.244.0.1"], "nodeName": "n", "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forNodes": [{"name": "n"}], "forZones": [{"name": "a"}, {"name": "b"}]}},
            ],
            "ports": [{"name": "a", "port": 0}, {"name": "b"}, {"name": "c", "port": 132, "protocol": "SCTP"}],
        }));
        let found = found.unwrap();
        assert_eq!(found.ports, [SlicePort { name: "c".into(), protocol: Protocol::Sctp, port: 132 }]);
        let [endpoint] = &found.endpoints[..] else { panic!("{found:?}") };
        assert!(endpoint.is_last_resort() && endpoint.node.as_deref() == Some("n"));
        assert_eq!((endpoint.for_nodes.len(), endpoint.for_zones.len()), (1, 2));
    }
}
