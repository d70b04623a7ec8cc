//! What a node has of its pods: leases, devices, rules, host ports. All of it follows from the pods that there are, and
//! nothing else may be there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use selvedge::kernel::LINK_GROUP;
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{self, Family};
use selvedge::paths::Paths;
use selvedge::pod::lease::{Lease, Leases};
use selvedge::pod::{hostport, spoof};

use super::Failed;
use crate::kubernetes::Kubernetes;

/// A pod with its addresses, in a form that can be compared.
type Known = (String, String, BTreeSet<IpAddr>);

/// What a node has.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Pods with a lease.
    leased: BTreeSet<Known>,
    /// Leases that cannot be read.
    unreadable: usize,
    /// Names of the devices that the leases stand for.
    expected_ports: BTreeSet<String>,
    /// Names of the devices that there are.
    ports: BTreeSet<String>,
    /// Names of the devices that there are rules against spoofing for.
    protected: BTreeSet<String>,
    /// Host ports of all leases.
    expected_host_ports: usize,
    /// Whether there is a table of host ports.
    has_host_ports: bool,
}

impl Traces {
    /// Reads what `node` has.
    pub(super) fn read(cluster: &Kubernetes, node: &str) -> Result<Self, Failed> {
        let space = cluster.node_space(node).ok_or_else(|| Failed(format!("no node {node}")))?;
        space.run(read)?.map_err(|why| Failed(format!("read what {node} has of its pods: {why}")))
    }

    /// What is there and should not be, or should be and is not, when these are the pods of the node.
    pub(super) fn wrong(&self, pods: &BTreeSet<Known>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (namespace, name, addresses) in self.leased.difference(pods) {
            wrong.push(format!("{addresses:?} leased to {namespace}/{name}, which is not there"));
        }
        for (namespace, name, addresses) in pods.difference(&self.leased) {
            wrong.push(format!("pod {namespace}/{name} has no lease of {addresses:?}"));
        }
        if self.unreadable > 0 {
            wrong.push(format!("{} leases that cannot be read", self.unreadable));
        }
        for (what, found) in [("device", &self.ports), ("rules against spoofing", &self.protected)] {
            for name in found.difference(&self.expected_ports) {
                wrong.push(format!("{what} of {name}, which no lease is about"));
            }
            for name in self.expected_ports.difference(found) {
                wrong.push(format!("no {what} of {name}, which a lease is about"));
            }
        }
        if self.has_host_ports != (self.expected_host_ports > 0) {
            let (found, leased) = (self.has_host_ports, self.expected_host_ports);
            wrong.push(format!("the table of host ports: there {found}, host ports of leases {leased}"));
        }
        wrong
    }

    /// Whether a pod has addresses.
    pub(super) fn has(&self, namespace: &str, name: &str) -> bool {
        self.leased
            .iter()
            .any(|(in_namespace, named, _)| (in_namespace.as_str(), named.as_str()) == (namespace, name))
    }

    /// How many leases there are.
    pub(super) fn len(&self) -> usize {
        self.leased.len()
    }

    fn add(&mut self, lease: &Lease) {
        let (namespace, name) = (lease.pod.namespace.clone(), lease.pod.name.clone());
        self.leased.insert((namespace, name, lease.addresses.iter().collect()));
        self.expected_ports.insert(lease.attachment.port().name);
        self.expected_host_ports += lease.host_ports.len();
    }
}

/// On the node.
fn read() -> Result<Traces, String> {
    let mut traces = Traces::default();
    let (leases, unreadable) =
        Leases::new(Paths::default().leases()).list().map_err(|error| error.to_string())?;
    leases.iter().for_each(|lease| traces.add(lease));
    traces.unreadable = unreadable.len();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let links = runtime.map_err(|error| error.to_string())?.block_on(async { Netlink::new()?.links().await });
    // Pods' ports are the veths of our group; bridge and tunnel are of other kinds.
    let ours = links.map_err(|error| error.to_string())?;
    let ours =
        ours.into_iter().filter(|link| link.group == LINK_GROUP && link.kind.as_deref() == Some("veth"));
    traces.ports = ours.map(|link| link.name).collect();
    traces.protected = spoof::protected().map_err(|error| error.to_string())?.into_iter().collect();
    let tables = nft::tables(Family::Inet).map_err(|error| error.to_string())?;
    traces.has_host_ports = tables.contains(hostport::TABLE);
    Ok(traces)
}

/// The pods of a node that have a network of their own.
pub(super) fn pods_on(node: &str, pods: &[Pod]) -> BTreeSet<Known> {
    let own_network = |pod: &&Pod| {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let here = spec.is_some_and(|spec| spec.node_name.as_deref() == Some(node));
        here && spec.is_some_and(|spec| spec.host_network != Some(true))
            && status.is_some_and(|status| status.pod_ips.as_ref().is_some_and(|ips| !ips.is_empty()))
    };
    pods.iter().filter(own_network).map(known).collect()
}

fn known(pod: &Pod) -> Known {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    let addresses = ips.filter_map(|ip| ip.ip.parse().ok()).collect();
    (text(&pod.metadata.namespace), text(&pod.metadata.name), addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Known {
        ("default".into(), "a".into(), BTreeSet::from(["10.244.0.2".parse().unwrap()]))
    }

    fn right() -> Traces {
        let ports = BTreeSet::from(["sel1".to_owned()]);
        Traces {
            leased: BTreeSet::from([one()]),
            expected_ports: ports.clone(),
            ports: ports.clone(),
            protected: ports,
            ..Traces::default()
        }
    }

    #[test]
    fn what_is_left_and_what_is_missing_is_told() {
        let pods = BTreeSet::from([one()]);
        assert!(right().wrong(&pods).is_empty());
        assert_eq!(right().wrong(&BTreeSet::new()).len(), 1, "a leaked lease");
        let missing = Traces { leased: BTreeSet::new(), ..right() };
        assert_eq!(missing.wrong(&pods).len(), 1);
        let mut left = right();
        left.ports.insert("sel2".into());
        left.protected.clear();
        left.has_host_ports = true;
        left.unreadable = 1;
        assert_eq!(left.wrong(&pods).len(), 4, "{:?}", left.wrong(&pods));
    }

    #[test]
    fn pods_with_a_network_of_their_own_are_counted() {
        let pod = |spec: serde_json::Value, ips: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "a", "namespace": "default"}, "spec": spec, "status": {"podIPs": ips},
            }))
            .unwrap()
        };
        let ips = || serde_json::json!([{"ip": "10.244.0.2"}]);
        let here = serde_json::json!({"nodeName": "n", "containers": []});
        let host = serde_json::json!({"nodeName": "n", "hostNetwork": true, "containers": []});
        assert_eq!(pods_on("n", &[pod(here.clone(), ips())]), BTreeSet::from([one()]));
        assert!(pods_on("m", &[pod(here.clone(), ips())]).is_empty());
        assert!(pods_on("n", &[pod(host, ips()), pod(here, serde_json::json!([]))]).is_empty());
    }
}
