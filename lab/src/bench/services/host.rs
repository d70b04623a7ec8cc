//! What the agent's controller of Services does to the kernel, on a host of its own and without the rest of the agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::kernel::nft::{self, Changes, Connection, Family, Table};
use selvedge::service::balancer::Balancer;
use selvedge::service::endpoints::Place;
use selvedge::service::plan::Node;
use selvedge::service::reserved::Reserved;
use selvedge::service::table::{Structure, TABLE};

use super::object::{self, Parsed};
use super::raw::Raw;
use crate::error::{Doing as _, Error};
use crate::plan::{Families, Plan};

/// A host that serves Services.
pub(super) struct Host {
    pub(super) ns: NetNs,
    pub(super) services: u32,
    pub(super) balancer: Balancer,
    pub(super) connection: Connection,
    structure: Structure,
}

/// Another host, whose table is made of the bytes that the first one has sent.
pub(super) struct Twin {
    _ns: NetNs,
    pub(super) raw: Raw,
}

/// Hosts with their twins.
pub(super) type Pairs = Vec<(Host, Twin)>;

impl Host {
    /// A host without any Service yet.
    pub(super) fn new(ns: NetNs) -> Result<Self, Error> {
        let what = "make a host that serves Services";
        let plan = Plan::new(Families::Ipv4, 1).node_plans().remove(0);
        let fabric_addresses =
            plan.pod_cidrs.iter().filter_map(|cidr| cidr.hosts().next()).collect::<Vec<_>>();
        let mut balancer = Balancer::default();
        balancer.set_node(Node {
            place: Place { node: plan.name.clone(), zone: None },
            node_port_addresses: plan.cable.addresses(),
            has_loopback: false,
            reserved: Arc::new(Reserved {
                service_cidrs: Plan::new(Families::Ipv4, 1).service_cidrs(),
                ..Reserved::default()
            }),
        });
        let structure = Structure { pod_cidrs: plan.pod_cidrs, fabric_addresses };
        let connection = ns.run(Connection::open).doing(what)?.doing(what)?;
        Ok(Self { ns, services: 0, balancer, connection, structure })
    }

    /// As the controller's first run: the balancer takes all Services, and the kernel gets the table. Returns how long that took.
    pub(super) fn start(&mut self, services: &[Parsed]) -> Result<Duration, Error> {
        let what = "write the table of Services";
        self.services = u32::try_from(services.len()).unwrap_or(u32::MAX);
        let begun = Instant::now();
        for parsed in services {
            self.balancer.set_service(&parsed.name, Some(parsed.service.clone()));
        }
        for parsed in services {
            let slice = object::slice_name(&parsed.name.name);
            self.balancer.set_slice(&parsed.name, &slice, Some(parsed.slice.clone()));
        }
        let kept = self.connection.read(Family::Inet, TABLE).doing(what)?;
        kept.iter().for_each(|kept| self.balancer.keep(&kept.table));
        self.balancer.recompute();
        self.resync()?;
        Ok(begun.elapsed())
    }

    /// As the controller's slow comparison of the whole table.
    pub(super) fn resync(&mut self) -> Result<Changes, Error> {
        let table = self.table();
        self.connection.apply(&[table]).doing("compare the table of Services")
    }

    /// The table as it is wanted.
    pub(super) fn table(&self) -> Table {
        let mut table = self.structure.table();
        self.balancer.fill(&mut table);
        table
    }

    /// A twin with the same table, and how long writing it took.
    pub(super) fn twin(&self) -> Result<(Twin, Duration), Error> {
        let ns = NetNs::create().doing("make a host")?;
        let batch = nft::batch(&self.table()).doing("encode the table of Services")?;
        let mut raw = Raw::open(&ns)?;
        let took = raw.send(&batch)?;
        Ok((Twin { _ns: ns, raw }, took))
    }
}

/// As the agent makes of that many Services.
pub(super) fn parsed(services: u32) -> Result<Vec<Parsed>, Error> {
    (0..services).map(object::parsed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_written_once_and_its_twin_has_the_same() {
        crate::isolated!(|| {
            let mut host = Host::new(NetNs::create().unwrap()).unwrap();
            host.start(&parsed(3).unwrap()).unwrap();
            let before = host.connection.sent();
            assert!(host.resync().unwrap().is_empty());
            assert_eq!(host.connection.sent().batches, before.batches);
            let (twin, _) = host.twin().unwrap();
            let there = twin._ns.run(|| nft::read(Family::Inet, TABLE)).unwrap().unwrap().unwrap();
            assert_eq!(there.table, host.table());
        });
    }
}
