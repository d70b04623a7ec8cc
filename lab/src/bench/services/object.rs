//! The objects: Services of type ClusterIP with two endpoints each, as the API has them and as the balancer takes them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use selvedge::service::object::{Service, ServiceName, Slice};
use serde_json::{Value, json};

use crate::error::{Doing as _, Error};
use crate::plan::NodePlan;

/// Limit of the address plan.
pub const MOST: u32 = 60_000;
/// Namespace of all objects.
pub(super) const NAMESPACE: &str = "default";
/// The port of each Service, and that of its endpoints.
pub(super) const PORTS: [u16; 2] = [80, 8080];
/// All endpoints are in here. One host answers for all of them.
pub(super) const ENDPOINTS: &str = "198.18.0.1/15";
/// Name of the Service whose packets are observed.
pub(super) const PROBE: &str = "probe";
/// The UDP port of that Service, and that of its endpoints.
pub(super) const PROBE_PORTS: [u16; 2] = [53, 5353];

/// The cluster IP of a Service.
pub(super) fn cluster_ip(number: u32) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 96, 1, 0)) + number).into()
}

/// The cluster IP of the Service whose packets are observed.
pub(super) const PROBE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);
/// Its endpoints: one at a time.
pub(super) const PROBE_ENDPOINTS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(198, 19, 255, 1), Ipv4Addr::new(198, 19, 255, 2)];

/// The endpoints of a Service. `version` 0 is where it begins; each other one has another second endpoint.
fn endpoints(number: u32, version: u32) -> [Ipv4Addr; 2] {
    const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
    const SPARE: Ipv4Addr = Ipv4Addr::new(198, 19, 240, 0);
    let own = u32::from(FIRST) + 2 * number;
    let second = if version == 0 { own + 1 } else { u32::from(SPARE) + version % 2048 };
    [own.into(), second.into()]
}

/// The name of a Service.
pub(super) fn name(number: u32) -> String {
    format!("service-{number:05}")
}

/// The name of the EndpointSlice of a Service.
pub(super) fn slice_name(service: &str) -> String {
    format!("{service}-x7k2p")
}

/// A Service of the API.
pub(super) fn service(number: u32) -> Value {
    service_of(&name(number), cluster_ip(number), "TCP", PORTS)
}

/// The EndpointSlice of a Service.
pub(super) fn slice(number: u32, version: u32) -> Value {
    slice_of(&name(number), &endpoints(number, version), "TCP", PORTS[1])
}

/// The Service whose packets are observed.
pub(super) fn probe() -> Value {
    service_of(PROBE, PROBE_IP, "UDP", PROBE_PORTS)
}

/// Its EndpointSlice, with one of its endpoints.
pub(super) fn probe_slice(which: usize) -> Value {
    slice_of(PROBE, &[PROBE_ENDPOINTS[which]], "UDP", PROBE_PORTS[1])
}

fn service_of(name: &str, cluster_ip: Ipv4Addr, protocol: &str, [port, target]: [u16; 2]) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "selector": {"app": name},
            "ports": [{"name": "main", "port": port, "protocol": protocol, "targetPort": target}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice_of(service: &str, endpoints: &[Ipv4Addr], protocol: &str, port: u16) -> Value {
    let endpoint = |(index, address): (usize, &Ipv4Addr)| {
        json!({
            "addresses": [address], "nodeName": format!("worker-{index}"),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("{service}-{index}")},
        })
    };
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": slice_name(service), "namespace": NAMESPACE,
            "labels": {
                "app": service, "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "main", "port": port, "protocol": protocol}],
        "endpoints": endpoints.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
    })
}

/// The Node object of a node.
pub(super) fn node(plan: &NodePlan) -> Value {
    let internal = plan.cable.addresses().into_iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    let addresses: Value = internal.chain([json!({"type": "Hostname", "address": plan.name})]).collect();
    json!({
        "metadata": {"name": plan.name, "labels": {"kubernetes.io/hostname": plan.name}},
        "spec": {"podCIDR": plan.pod_cidrs.first(), "podCIDRs": plan.pod_cidrs},
        "status": {"addresses": addresses},
    })
}

/// A Service as the balancer takes it: its name, the Service and its slice.
pub(super) struct Parsed {
    pub(super) name: ServiceName,
    pub(super) service: Arc<Service>,
    pub(super) slice: Arc<Slice>,
}

/// What the agent makes of the objects of a Service.
pub(super) fn parsed(number: u32) -> Result<Parsed, Error> {
    let what = "read a Service as the agent does";
    let object = serde_json::from_value(service(number)).doing(what)?;
    let service = Service::of(&object).ok_or_else(|| Error::new(what, "it is not served".into()))?;
    let name = ServiceName { namespace: NAMESPACE.into(), name: name(number) };
    Ok(Parsed { name, service: Arc::new(service), slice: parsed_slice(number, 0)? })
}

/// What the agent makes of the slice of a Service.
pub(super) fn parsed_slice(number: u32, version: u32) -> Result<Arc<Slice>, Error> {
    let what = "read an EndpointSlice as the agent does";
    let object = serde_json::from_value(slice(number, version)).doing(what)?;
    let slice = Slice::of(&object).ok_or_else(|| Error::new(what, "it is not served".into()))?;
    Ok(Arc::new(slice))
}

/// The number of the Service that is changed at this step: each is chosen equally often, in no order that memory likes.
pub(super) fn chosen(step: u32, services: u32) -> u32 {
    // A prime that no number of Services is a multiple of.
    const STRIDE: u64 = 1_000_003;
    let number = u64::from(step) * STRIDE % u64::from(services.max(1));
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::Ipv4Net;

    use super::*;

    #[test]
    fn addresses_are_of_one_service_and_in_their_ranges() {
        let (services, all): (Ipv4Net, Ipv4Net) =
            ("10.96.0.0/16".parse().unwrap(), ENDPOINTS.parse::<Ipv4Net>().unwrap().trunc());
        let mut found = BTreeSet::new();
        for number in [0, 1, 2, MOST - 1] {
            assert!(services.contains(&cluster_ip(number)) && cluster_ip(number) != PROBE_IP);
            for endpoint in endpoints(number, 0) {
                assert!(all.contains(&endpoint) && found.insert(endpoint));
            }
            assert!(all.contains(&endpoints(number, 2047)[1]));
        }
        assert!(found.iter().all(|endpoint| !PROBE_ENDPOINTS.contains(endpoint)));
    }

    #[test]
    fn the_agent_serves_the_objects() {
        let parsed = parsed(7).unwrap();
        assert_eq!(parsed.service.cluster_ips, [cluster_ip(7)]);
        assert_eq!(parsed.slice.service, parsed.name.name);
        assert_eq!(parsed.slice.endpoints.len(), 2);
        let other = parsed_slice(7, 1).unwrap();
        assert_eq!(other.endpoints[0], parsed.slice.endpoints[0]);
        assert_ne!(other.endpoints[1].address, parsed.slice.endpoints[1].address);
    }

    #[test]
    fn every_service_is_chosen() {
        for services in [1, 10, 1000, 10_000, 45_000] {
            let all: BTreeSet<u32> = (0..services).map(|step| chosen(step, services)).collect();
            assert_eq!(all.len(), usize::try_from(services).unwrap());
        }
    }
}
