//! Services: which packets go to which endpoints.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use jiff::Timestamp;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::routing;
use crate::agent::view::store::{Key, Subscription};
use crate::config::{NodePortAddresses, Services as Configured};
use crate::kernel::nft::{self, Changes, Connection, Error, Family, Update};
use crate::kernel::protocol::Protocol;
use crate::mesh::node_object::OwnNode;
use crate::observe::proxy::Policy;
use crate::ports::answer::{HEALTHZ_PORT, MODE_PORT};
use crate::service::balancer::{Balancer, Refused};
use crate::service::endpoints::Place;
use crate::service::object::ServiceName;
use crate::service::object::{Service, Slice, SlicePort};
use crate::service::plan::Node;
use crate::service::report::Report;
use crate::service::reserved::{Reserved, is_no_host};
use crate::service::sweeper::Sweeper;
use crate::service::table::{Structure, TABLE};
use crate::service::target::Target;

/// Changes whose time to the kernel is measured at once.
const TIMED: usize = 10_000;
/// Refused targets that one run logs.
const LOGGED: usize = 20;
/// Port of the kubelet's API, where the Node does not name it.
const KUBELET_PORT: u16 = 10_250;

pub(in crate::agent) struct Services {
    context: Arc<Context>,
    services: Subscription<Option<Service>>,
    slices: Subscription<Option<Slice>>,
    /// The Service that each slice was of when it was last seen.
    slice_of: HashMap<Key, ServiceName>,
    /// The API servers that the slices of `default/kubernetes` name.
    servers: HashMap<Key, Vec<Target>>,
    connection: Connection,
    sweeper: Sweeper,
    /// The structure of the table in the kernel; none when that has to be read first.
    applied: Option<Structure>,
    /// When that happened which the changes are about that the kernel does not have yet.
    changed: Vec<Timestamp>,
    /// What an earlier agent has left in the kernel has been looked at.
    has_looked: bool,
    /// Another proxy serves, and the kernel has no table of ours.
    stands_by: bool,
}

impl Services {
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let wake = || {
            let bus = context.bus.clone();
            move || bus.post(Trigger::Services)
        };
        Ok(Self {
            services: context.view.services.subscribe(PartialEq::ne, wake()),
            slices: context.view.slices.subscribe(PartialEq::ne, wake()),
            slice_of: HashMap::new(),
            servers: HashMap::new(),
            connection: Connection::open()?,
            sweeper: Sweeper::start()?,
            applied: None,
            changed: Vec::new(),
            has_looked: false,
            stands_by: false,
            context,
        })
    }

    /// Never held across an await.
    fn balancer(&self) -> MutexGuard<'_, Balancer> {
        self.context.balancer.lock()
    }

    /// Takes the changes of the view, and what this node is.
    fn take(&mut self) -> Result<Structure, Unmet> {
        let view = &self.context.view;
        if !view.services.is_synced() || !view.slices.is_synced() {
            return Err(Unmet::waiting("waiting for the lists of Services and EndpointSlices"));
        }
        let own = self.context.own()?;
        let routing = routing::config(&self.context);
        for (key, service) in self.services.take() {
            self.context.metrics.proxy.service_changes.inc();
            let service = service.and_then(|object| (*object.value).clone());
            self.balancer().set_service(&name(&key.namespace, &key.name), service.map(Arc::new));
        }
        for (key, slice) in self.slices.take() {
            self.take_slice(&key, slice.and_then(|object| (*object.value).clone()));
        }
        let reserved = Arc::new(self.reserved(&own));
        self.balancer().set_node(Node {
            place: Place { node: own.name.clone(), zone: own.zone.clone() },
            node_port_addresses: self.node_port_addresses(&own),
            has_loopback: self.context.config.node_port_addresses.contains(&NodePortAddresses::Localhost),
            reserved,
        });
        Ok(Structure { fabric_addresses: routing.fabric_addresses(), pod_cidrs: routing.pod_cidrs })
    }

    /// A node that has none of its own yet serves at those that its Node names.
    fn node_port_addresses(&self, own: &OwnNode) -> Vec<IpAddr> {
        let (config, facts) = (&self.context.config, self.context.facts.get());
        let is_pods = |address: &IpAddr| config.cluster_pod_cidrs.iter().any(|cidr| cidr.contains(address));
        let has = |address: &IpAddr| {
            config.node_port_addresses.iter().any(|some| some.has(*address, &own.internal))
        };
        let here = facts.addresses.iter().map(|address| address.net.addr());
        let all: BTreeSet<IpAddr> = here.chain(own.internal.iter().copied()).collect();
        all.into_iter().filter(|address| !is_no_host(*address) && !is_pods(address) && has(address)).collect()
    }

    fn measure(&mut self, start: Instant) {
        let (metrics, now) = (&self.context.metrics.proxy, Timestamp::now());
        metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        metrics.last_sync.set(now.as_second());
        for changed in self.changed.drain(..) {
            metrics.network_programming_seconds.observe(now.duration_since(changed).as_secs_f64().max(0.0));
        }
    }

    fn reserved(&self, own: &OwnNode) -> Reserved {
        let (config, facts) = (&self.context.config, self.context.facts.get());
        let server = self.context.api.server().map(|at| Target { at, protocol: Protocol::Tcp });
        let servers: BTreeSet<Target> = self.servers.values().flatten().copied().chain(server).collect();
        let kubelet = own.kubelet_port.unwrap_or(KUBELET_PORT);
        let own_ports = [kubelet, config.agent.metrics_address.port(), HEALTHZ_PORT, MODE_PORT];
        let tcp = own_ports.into_iter().chain(servers.iter().map(|server| server.at.port()));
        let ports = tcp.map(|port| (Protocol::Tcp, port)).chain([(Protocol::Udp, config.listen_port)]);
        Reserved {
            ports: ports.collect(),
            own: facts.addresses.iter().map(|address| address.net.addr()).collect(),
            others: self.context.members().map(|members| Arc::clone(&members.addresses)).unwrap_or_default(),
            servers,
            pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: self.context.service_ranges.get().to_vec(),
        }
    }

    /// A slice can become another Service's.
    fn take_slice(&mut self, key: &Key, slice: Option<Slice>) {
        self.context.metrics.proxy.endpoint_changes.inc();
        // At the start all is old.
        let changed = slice.as_ref().and_then(|slice| slice.changed).filter(|_| self.applied.is_some());
        self.changed.extend(changed.filter(|_| self.changed.len() < TIMED));
        let now = slice.as_ref().map(|slice| name(&key.namespace, &slice.service));
        let before = match &now {
            Some(now) => self.slice_of.insert(key.clone(), now.clone()),
            None => self.slice_of.remove(key),
        };
        if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
            self.balancer().set_slice(&before, &key.name, None);
        }
        let servers = slice.as_ref().filter(|_| now.as_ref().is_some_and(is_api_server)).map(targets);
        match servers {
            Some(servers) => drop(self.servers.insert(key.clone(), servers)),
            None => drop(self.servers.remove(key)),
        }
        if let Some(now) = now {
            self.balancer().set_slice(&now, &key.name, slice.map(Arc::new));
        }
    }

    /// Makes the kernel's table what is wanted: by an update alone, if there is one.
    fn apply(&mut self, structure: Structure, update: Option<&Update>) -> Result<Changes, Error> {
        self.applied = None;
        let changes = match update.map(|update| self.connection.update(update)) {
            None | Some(Err(Error::Stale { .. })) => {
                let mut table = structure.table();
                self.balancer().fill(&mut table);
                self.connection.apply(&[table])
            }
            Some(updated) => updated,
        }?;
        self.applied = Some(structure);
        Ok(changes)
    }
}

fn is_api_server(service: &ServiceName) -> bool {
    (service.namespace.as_str(), service.name.as_str()) == ("default", "kubernetes")
}

fn targets(slice: &Slice) -> Vec<Target> {
    let of_port = |port: &SlicePort| {
        let (number, protocol) = (port.port, port.protocol);
        let endpoints = slice.endpoints.iter();
        endpoints
            .map(move |endpoint| Target { at: SocketAddr::new(endpoint.address, number), protocol })
            .collect::<Vec<_>>()
    };
    slice.ports.iter().flat_map(of_port).collect()
}

fn name(namespace: &str, name: &str) -> ServiceName {
    ServiceName { namespace: namespace.to_owned(), name: name.to_owned() }
}

impl Services {
    /// Another proxy serves: keeps the state up to date for a takeover, and the table out of the kernel.
    fn stand_by(&mut self, pending: Triggers) -> Outcome {
        if self.context.config.services != Configured::Off && self.take().is_ok() {
            let mut it = self.balancer();
            it.recompute();
            drop((it.take_stale(), it.take_refused()));
        }
        self.set_no_local_endpoints([0; 2]);
        self.set_reports(Vec::new());
        self.remember_servers();
        self.applied = None;
        self.changed.clear();
        if self.stands_by && !pending.has(Trigger::ServiceTable) && !pending.has(Trigger::Resync) {
            return Ok(Vec::new());
        }
        let removed = nft::delete(Family::Inet, TABLE).map_err(Unmet::failed)?;
        self.stands_by = true;
        Ok(if removed { vec![format!("delete table inet {TABLE}")] } else { Vec::new() })
    }

    fn set_no_local_endpoints(&self, counts: [usize; 2]) {
        for (policy, count) in ["internal", "external"].into_iter().zip(counts) {
            let gauge = &self.context.metrics.proxy.no_local_endpoints;
            let policy = Policy { traffic_policy: policy.to_owned() };
            gauge.get_or_create(&policy).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    fn set_reports(&self, reports: Vec<Report>) {
        if self.context.service_reports.set(reports.into()) {
            self.context.bus.post(Trigger::ServiceReports);
        }
    }

    fn remember_servers(&self) {
        if let Err(error) = self.context.api.servers().set(self.servers.values().flatten().map(|it| it.at)) {
            tracing::warn!(error = format!("{error:#}"), "the API servers will not be known after a restart");
        }
    }
}

impl Controller for Services {
    async fn reconcile(&mut self, pending: Triggers) -> Outcome {
        if !self.context.serves()? {
            return self.stand_by(pending);
        }
        let structure = self.take()?;
        if !self.has_looked {
            let kept = self.connection.read(Family::Inet, TABLE).map_err(Unmet::failed)?;
            kept.iter().for_each(|kept| self.balancer().keep(&kept.table));
            self.has_looked = true;
        }
        let is_known = ![Trigger::ServiceTable, Trigger::Resync].iter().any(|it| pending.has(*it))
            && self.applied.as_ref() == Some(&structure);
        let update = is_known.then(|| self.balancer().update());
        if update.is_none() {
            self.balancer().recompute();
        }
        if self.stands_by {
            // Connections of the other proxy may lead to endpoints that are gone.
            self.balancer().take_over();
        }
        let start = Instant::now();
        let changes = self.apply(structure, update.as_ref()).map_err(Unmet::failed)?;
        self.measure(start);
        self.stands_by = false;
        self.remember_servers();
        let (stale, refused, checks, loopback) = {
            let mut it = self.balancer();
            (it.take_stale(), it.take_refused(), it.take_checks(), it.take_loopback())
        };
        self.sweeper.sweep(stale);
        for Refused { service, target, why } in refused.into_iter().take(LOGGED) {
            tracing::warn!(%service, %target, %why, "a Service does not get what it asks for");
        }
        let (no_local, reports) = {
            let mut it = self.balancer();
            (it.no_local_endpoints(), it.take_reports())
        };
        self.set_no_local_endpoints(no_local);
        reports.into_iter().for_each(|reports| self.set_reports(reports));
        let has_changed = checks.is_some() || loopback.is_some();
        {
            let mut ports = self.context.service_ports.lock();
            checks.into_iter().for_each(|checks| ports.checks = checks);
            loopback.into_iter().for_each(|loopback| ports.forwards = loopback);
        }
        if has_changed {
            self.context.bus.post(Trigger::ServicePorts);
        }
        Ok(changes.0)
    }
}
