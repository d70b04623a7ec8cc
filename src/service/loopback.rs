//! Node ports on loopback: for TCP, by a process that listens there and connects to the cluster IP. The kernel could translate the
//! destination of such packets only with a setting (`route_localnet`) that opens what listens on loopback to the network.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::object::{Service, ServiceName};
use crate::kernel::protocol::Protocol;

/// Those of all Services.
#[derive(Debug, Default)]
pub(super) struct Loopback {
    by_service: HashMap<Arc<ServiceName>, Vec<(u16, SocketAddr)>>,
    has_changed: bool,
}

impl Loopback {
    /// Notes a Service as it is now; none where node ports are not to be on loopback.
    pub(super) fn note(&mut self, name: &Arc<ServiceName>, service: Option<&Service>) {
        let now: Vec<_> = service.map_or_else(Vec::new, forwards);
        let before = match now.is_empty() {
            false => self.by_service.insert(Arc::clone(name), now.clone()),
            true => self.by_service.remove(name),
        };
        self.has_changed |= before.unwrap_or_default() != now;
    }

    /// All of them, node port to where it leads in each family, if they are others than at the last call.
    pub(super) fn take(&mut self) -> Option<BTreeMap<u16, Vec<SocketAddr>>> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let mut all: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
        for (port, to) in self.by_service.values().flatten() {
            all.entry(*port).or_default().push(*to);
        }
        all.values_mut().for_each(|targets| targets.sort_unstable());
        Some(all)
    }
}

fn forwards(service: &Service) -> Vec<(u16, SocketAddr)> {
    let ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let forwards =
        ports.filter_map(|port| Some((port.node_port?, port.port))).flat_map(|(node_port, port)| {
            service.cluster_ips.iter().map(move |address| (node_port, SocketAddr::new(*address, port)))
        });
    forwards.collect()
}
