//! The decisions about Services, and that a change comes to what a new start comes to.

mod change;
mod choice;
mod kernel;
mod many;
mod sctp;
mod shown;
mod upgrade;

use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::Place;
use super::object::ServiceName;
use super::object::{Endpoint, Service, ServicePort, Slice, SlicePort};
use super::plan::Node;
use super::reserved::Reserved;
use crate::kernel::protocol::Protocol;

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An endpoint that is ready, on `node`.
pub(super) fn endpoint(at: &str, node: &str) -> Endpoint {
    Endpoint {
        address: address(at),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        node: Some(node.into()),
        for_nodes: Box::default(),
        for_zones: Box::default(),
    }
}

/// One that terminates, and answers if `is_serving`.
fn terminating(at: &str, node: &str, is_serving: bool) -> Endpoint {
    Endpoint { is_ready: false, is_serving, is_terminating: true, ..endpoint(at, node) }
}

/// Endpoints of the port `http`, at 8080.
pub(super) fn slice(endpoints: Vec<Endpoint>) -> Slice {
    let ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
    Slice { service: "web".into(), ports, endpoints, ..Slice::default() }
}

/// A Service with the port `http`, 80.
pub(super) fn service(cluster_ip: &str) -> Service {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    Service { cluster_ips: vec![address(cluster_ip)], ports: vec![port], ..Service::default() }
}

pub(super) fn name(name: &str) -> ServiceName {
    ServiceName { namespace: "default".into(), name: name.into() }
}

pub(super) fn node() -> Node {
    Node {
        place: Place { node: "here".into(), zone: Some("a".into()) },
        node_port_addresses: vec![address("192.0.2.1")],
        has_loopback: false,
        reserved: Arc::new(Reserved {
            own: [address("192.0.2.1")].into(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            ..Reserved::default()
        }),
    }
}
