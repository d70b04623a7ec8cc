//! Health checks: how many endpoints of a Service are on this node, at the port that load balancers ask (`healthCheckNodePort`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::Place;
use super::object::{Service, ServiceName, Slice};
use crate::ports::wanted::Check;

/// Those of all Services.
#[derive(Debug, Default)]
pub(super) struct Checks {
    by_service: HashMap<Arc<ServiceName>, (u16, usize)>,
    has_changed: bool,
}

impl Checks {
    /// Notes a Service as it is now.
    pub(super) fn note(
        &mut self,
        name: &Arc<ServiceName>,
        service: Option<&Service>,
        slices: &[&Slice],
        place: &Place,
    ) {
        let now = service
            .and_then(|service| service.health_check_port)
            .map(|port| (port, local_endpoints(slices, place)));
        let before = match now {
            Some(now) => self.by_service.insert(Arc::clone(name), now),
            None => self.by_service.remove(name),
        };
        self.has_changed |= before != now;
    }

    /// All of them by port, if they are others than at the last call. Of two with the same port, which the API refuses, the first
    /// by name counts.
    pub(super) fn take(&mut self) -> Option<BTreeMap<u16, Check>> {
        if !std::mem::take(&mut self.has_changed) {
            return None;
        }
        let mut all: Vec<_> = self.by_service.iter().collect();
        all.sort_unstable_by(|one, other| other.0.cmp(one.0));
        let check = |(name, (port, local_endpoints)): (&Arc<ServiceName>, &(u16, usize))| {
            let (namespace, name) = (name.namespace.clone(), name.name.clone());
            (*port, Check { namespace, name, local_endpoints: *local_endpoints })
        };
        Some(all.into_iter().map(check).collect())
    }
}

/// Those that are ready, each address once; in the family that has more of them, as most endpoints have an address of each.
fn local_endpoints(slices: &[&Slice], place: &Place) -> usize {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let local = endpoints
        .filter(|endpoint| endpoint.is_ready && endpoint.node.as_deref() == Some(place.node.as_str()));
    let addresses: BTreeSet<IpAddr> = local.map(|endpoint| endpoint.address).collect();
    let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    v4.max(addresses.len() - v4)
}
