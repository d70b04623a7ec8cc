//! All Services of this node: who serves which address, and what a change comes to in the kernel's maps.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::checks::Checks;
use super::elements;
use super::kept::Kept;
use super::loopback::Loopback;
use super::object::{Service, ServiceName, ServicePort, Slice};
use super::plan::{Had, Node, Plan, PortPlan, Served, plan};
use super::report::{Reason, Report, listed};
use super::reserved::{Refusal, Reserved};
use super::stale::Stale;
use super::target::{Kind, Target};
use crate::kernel::nft::{Table, Update};
use crate::kernel::protocol::Protocol;
use crate::ports::wanted::Check;

/// Reports at once.
const REPORTS: usize = 1000;

/// Somebody who wants to serve a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: Kind,
    service: Arc<ServiceName>,
}

/// What is known of one Service.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<Slice>>,
    plan: Plan,
}

/// All Services that this node serves. Pure: objects come in, updates of the kernel's table go out.
#[derive(Debug, Default)]
pub struct Balancer {
    node: Node,
    services: HashMap<Arc<ServiceName>, Known>,
    /// Who claims each target, the one that has it first.
    claims: HashMap<Target, Vec<Claim>>,
    served: HashMap<Target, Served>,
    /// How many targets are served at each cluster IP, and by each backend of this node.
    cluster_ips: HashMap<IpAddr, usize>,
    hairpins: HashMap<IpAddr, usize>,
    dirty: BTreeSet<Arc<ServiceName>>,
    /// What the kernel had at the start, until the first update.
    kept: Kept,
    stale: Stale,
    checks: Checks,
    loopback: Loopback,
    refused: Vec<Refused>,
    /// Targets that more than one claims, and Services that ask for what none gets.
    contested: BTreeSet<Target>,
    withheld: BTreeSet<Arc<ServiceName>>,
    has_reports: bool,
    /// Services of which the internal, or the external, policy `Local` finds no endpoint here.
    no_local: [BTreeSet<Arc<ServiceName>>; 2],
}

/// A target that a Service asks for and does not get, whoever else does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The Service.
    pub service: ServiceName,
    /// The target.
    pub target: Target,
    /// Why.
    pub why: Refusal,
}

/// A target that a Service claims and another one has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The target.
    pub target: Target,
    /// The Service that is not served there.
    pub refused: ServiceName,
    /// The Service that is.
    pub owner: ServiceName,
}

impl Balancer {
    /// Takes the Service of this name as it is now; none when it is gone, or not for this node to serve.
    pub fn set_service(&mut self, name: &ServiceName, service: Option<Arc<Service>>) {
        let (name, known) = self.known(name);
        known.service = service;
        self.dirty.insert(name);
    }

    /// Takes a slice of endpoints as it is now; none when it is gone. `service` is that of the slice, now or before.
    pub fn set_slice(&mut self, service: &ServiceName, slice: &str, now: Option<Arc<Slice>>) {
        let (name, known) = self.known(service);
        match now {
            Some(now) => {
                known.slices.insert(slice.to_owned(), now);
            }
            None => {
                known.slices.remove(slice);
            }
        }
        self.dirty.insert(name);
    }

    /// Takes what this node is reached at and where it is. A change concerns all Services.
    pub fn set_node(&mut self, node: Node) {
        if self.node == node {
            return;
        }
        // Nodes come and go, and most Services have nothing to do with what is reserved for them.
        let only_reserved = self.node == Node { reserved: Arc::clone(&self.node.reserved), ..node.clone() };
        let ports = |port: &u16| {
            let has =
                |reserved: &Reserved| Protocol::ALL.iter().any(|it| reserved.ports.contains(&(*it, *port)));
            has(&self.node.reserved) || has(&node.reserved)
        };
        let is_concerned = |known: &Known| {
            known.service.as_ref().is_some_and(|service| {
                !service.external_ips.is_empty()
                    || !service.ingress_ips.is_empty()
                    || service.ports.iter().filter_map(|port| port.node_port).any(|port| ports(&port))
            })
        };
        let ranges = |node: &Node| (node.reserved.pod_cidrs.clone(), node.reserved.service_cidrs.clone());
        let all = !only_reserved || ranges(&self.node) != ranges(&node);
        let concerned = self.services.iter().filter(|(_, known)| all || is_concerned(known));
        self.dirty.extend(concerned.map(|(name, _)| Arc::clone(name)));
        self.node = node;
    }

    /// Backends get the indices and numbers that they have in this table of the kernel, as an earlier agent has left it. To be
    /// called before the first [`update`](Self::update).
    pub fn keep(&mut self, table: &Table) {
        self.kept = Kept::of(table);
    }

    fn known(&mut self, name: &ServiceName) -> (Arc<ServiceName>, &mut Known) {
        let name = match self.services.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::new(name.clone()),
        };
        let known = self.services.entry(Arc::clone(&name)).or_default();
        (name, known)
    }

    /// What all changes since the last call come to in the kernel's table, which has what was wanted before.
    pub fn update(&mut self) -> Update {
        let mut update = elements::update();
        self.renew_all(Some(&mut update));
        update
    }

    /// As [`update`](Self::update), for a caller who writes the whole table ([`fill`](Self::fill)) and needs no update.
    pub fn recompute(&mut self) {
        self.renew_all(None);
    }

    fn renew_all(&mut self, mut update: Option<&mut Update>) {
        for name in std::mem::take(&mut self.dirty) {
            self.renew(&name, update.as_deref_mut());
        }
        self.kept = Kept::default();
    }

    /// After a takeover: [`take_stale`](Self::take_stale) then covers the connections of another proxy, and
    /// [`take_reports`](Self::take_reports) returns every report again.
    pub fn take_over(&mut self) {
        self.has_reports = true;
        for (target, served) in &self.served {
            self.stale.note(*target, None, Some(served));
        }
    }

    /// Connections that lead to endpoints which the updates since the last call have taken away.
    pub fn take_stale(&mut self) -> Stale {
        std::mem::take(&mut self.stale)
    }

    /// The health checks of all Services by port, if they are others than at the last call.
    pub fn take_checks(&mut self) -> Option<BTreeMap<u16, Check>> {
        self.checks.take()
    }

    /// The node ports that are to be on loopback, with where they lead to, if they are others than at the last call.
    pub fn take_loopback(&mut self) -> Option<BTreeMap<u16, Vec<SocketAddr>>> {
        self.loopback.take()
    }

    /// Targets that Services were refused since the last call.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// What there is to report about Services, of bounded length, if it may be other than at the last call.
    pub fn take_reports(&mut self) -> Option<Vec<Report>> {
        std::mem::take(&mut self.has_reports).then(|| {
            let withheld = self.withheld.iter().filter_map(|name| self.withheld(name));
            withheld.chain(self.taken()).take(REPORTS).collect()
        })
    }

    fn withheld(&self, name: &ServiceName) -> Option<Report> {
        let known = self.services.get(name)?;
        let ports = &known.service.as_ref()?.ports;
        let is_node_port = |target: &Target| {
            let has = |port: &ServicePort| {
                (port.node_port, port.protocol) == (Some(target.at.port()), target.protocol)
            };
            self.node.node_port_addresses.contains(&target.at.ip()) && ports.iter().any(has)
        };
        let text = |(target, why): &(Target, Refusal)| match is_node_port(target) {
            // Each node has other addresses, and all are to say the same.
            true => format!("node port {}/{} ({why})", target.at.port(), target.protocol),
            false => format!("{target} ({why})"),
        };
        let texts: BTreeSet<String> = known.plan.iter().flat_map(|port| &port.refused).map(text).collect();
        self.report(name, Reason::AddressWithheld, format!("no Service gets {}", listed(texts.into_iter())))
    }

    fn taken(&self) -> impl Iterator<Item = Report> + '_ {
        let mut by_service: BTreeMap<&ServiceName, Vec<Target>> = BTreeMap::new();
        for target in &self.contested {
            for claim in self.claims.get(target).into_iter().flatten().skip(1) {
                by_service.entry(&*claim.service).or_default().push(*target);
            }
        }
        by_service.into_iter().filter_map(|(name, targets)| {
            let targets = listed(targets.iter().map(ToString::to_string));
            self.report(name, Reason::AddressTaken, format!("another Service has {targets}"))
        })
    }

    fn report(&self, name: &ServiceName, reason: Reason, note: String) -> Option<Report> {
        let uid = self.uid(name)?.to_owned();
        Some(Report { service: name.clone(), uid, reason, note })
    }

    /// The UID of a Service.
    #[must_use]
    pub fn uid(&self, name: &ServiceName) -> Option<&str> {
        Some(&self.services.get(name)?.service.as_ref()?.uid)
    }

    /// Adds what is wanted now to an empty table of Services. What changed since the last [`update`](Self::update) is not in it.
    pub fn fill(&self, table: &mut Table) {
        let mut update = elements::update();
        for known in self.services.values() {
            elements::change_ports(&Plan::new(), &known.plan, &mut update);
        }
        // In the order of the elements, which is faster than that of a hash map.
        let mut served: Vec<_> = self.served.iter().collect();
        served.sort_unstable_by_key(|(target, _)| **target);
        for (target, served) in served {
            elements::change(*target, None, Some(served), &mut update);
        }
        self.cluster_ips.keys().for_each(|address| elements::change_cluster_ip(*address, true, &mut update));
        self.hairpins.keys().for_each(|address| elements::change_hairpin(*address, true, &mut update));
        update.apply_to(table);
    }

    /// Targets that several Services claim.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> + '_ {
        self.claims.iter().flat_map(|(target, claims)| {
            let owner = claims.first();
            let refused = claims.iter().skip(1);
            refused.zip(std::iter::repeat(owner)).filter_map(|(refused, owner)| {
                let (refused, owner) = ((*refused.service).clone(), (*owner?.service).clone());
                Some(Conflict { target: *target, refused, owner })
            })
        })
    }

    /// The plans of all Services that are served, in no order.
    pub(super) fn plans(&self) -> impl Iterator<Item = (&ServiceName, &Plan)> {
        self.services.iter().map(|(name, known)| (&**name, &known.plan)).filter(|(_, plan)| !plan.is_empty())
    }

    /// The plan of this Service; none when it is not served.
    pub(super) fn plan(&self, name: &ServiceName) -> Option<&Plan> {
        self.services.get(name).map(|known| &known.plan).filter(|plan| !plan.is_empty())
    }

    /// The Service that serves the target, and how.
    pub(super) fn served(&self, target: Target) -> Option<(&ServiceName, &Served)> {
        let owner = self.claims.get(&target)?.first()?;
        Some((&owner.service, self.served.get(&target)?))
    }

    /// How many Services have endpoints elsewhere alone, for an internal and for an external policy `Local`.
    #[must_use]
    pub fn no_local_endpoints(&self) -> [usize; 2] {
        self.no_local.each_ref().map(BTreeSet::len)
    }

    /// How many Services are served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.services.values().filter(|known| known.service.is_some()).count()
    }

    /// Whether none is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the plan of a Service again, and carries out what is different.
    fn renew(&mut self, name: &Arc<ServiceName>, mut update: Option<&mut Update>) {
        let Some(known) = self.services.get_mut(name) else { return };
        let slices: Vec<&Slice> = known.slices.values().map(Arc::as_ref).collect();
        let had = |targets: &[(Target, Kind)]| had(&known.plan, targets, &self.kept);
        let now = known
            .service
            .as_ref()
            .map_or_else(Plan::new, |service| plan(name, service, &slices, &self.node, had));
        if let Some(update) = update.as_deref_mut() {
            elements::change_ports(&known.plan, &now, update);
        }
        self.loopback.note(name, known.service.as_deref().filter(|_| self.node.has_loopback));
        self.checks.note(name, known.service.as_deref(), &slices, &self.node.place);
        let before = std::mem::replace(&mut known.plan, now.clone());
        let known_before =
            |refused: &&(Target, Refusal)| before.iter().any(|port| port.refused.contains(refused));
        let new = now.iter().flat_map(|port| &port.refused).filter(|refused| !known_before(refused));
        let refused = |plan: &Plan| plan.iter().flat_map(|port| port.refused.clone()).collect::<Vec<_>>();
        let (refused_before, refused_now) = (refused(&before), refused(&now));
        self.has_reports |= refused_before != refused_now;
        if refused_now.is_empty() {
            self.withheld.remove(name);
        } else {
            self.withheld.insert(Arc::clone(name));
        }
        let drops: [fn(&PortPlan) -> bool; 2] = [PortPlan::drops_inside, PortPlan::drops_outside];
        for (names, drops) in self.no_local.iter_mut().zip(drops) {
            if now.iter().any(|port| drops(port)) {
                names.insert(Arc::clone(name));
            } else {
                names.remove(name);
            }
        }
        let service = ServiceName::clone(name);
        self.refused.extend(new.map(|(target, why)| Refused {
            service: service.clone(),
            target: *target,
            why: *why,
        }));
        if known.service.is_none() && known.slices.is_empty() {
            self.services.remove(name);
        }
        let targets = |plan: &Plan| -> BTreeMap<Target, Kind> {
            // One that is there twice, as two kinds, is served as the first.
            plan.iter().flat_map(|port| &port.targets).rev().copied().collect()
        };
        let (gone, come) = (targets(&before), targets(&now));
        for target in gone.keys().chain(come.keys().filter(|target| !gone.contains_key(target))) {
            self.claim(*target, name, come.get(target).copied());
            self.serve(*target, update.as_deref_mut());
        }
    }

    /// Notes that the Service claims the target, as a kind of address, or no longer does.
    fn claim(&mut self, target: Target, name: &Arc<ServiceName>, kind: Option<Kind>) {
        let claims = self.claims.entry(target).or_default();
        let was_contested = claims.len() > 1;
        claims.retain(|claim| claim.service != *name);
        if let Some(kind) = kind {
            claims.push(Claim { kind, service: Arc::clone(name) });
            claims.sort_unstable();
        }
        let is_contested = claims.len() > 1;
        if claims.is_empty() {
            self.claims.remove(&target);
        }
        self.has_reports |= was_contested || is_contested;
        if is_contested {
            self.contested.insert(target);
        } else {
            self.contested.remove(&target);
        }
    }

    /// Has the target served by the first that claims it.
    fn serve(&mut self, target: Target, mut update: Option<&mut Update>) {
        let owner = self.claims.get(&target).and_then(|claims| claims.first());
        let now = owner.and_then(|claim| {
            let plan = &self.services.get(&claim.service)?.plan;
            let serves = |port: &&Arc<PortPlan>| port.targets.contains(&(target, claim.kind));
            Some(Served { kind: claim.kind, port: Arc::clone(plan.iter().find(serves)?) })
        });
        let before = match &now {
            Some(now) => self.served.insert(target, now.clone()),
            None => self.served.remove(&target),
        };
        if let Some(update) = update.as_deref_mut() {
            elements::change(target, before.as_ref(), now.as_ref(), update);
        }
        self.stale.note(target, before.as_ref(), now.as_ref());
        // What comes is counted before what goes, so that what stays is never at zero.
        for (served, comes) in [(now.as_ref(), true), (before.as_ref(), false)] {
            let Some(served) = served else { continue };
            if served.kind == Kind::ClusterIp {
                let address = target.at.ip();
                count(&mut self.cluster_ips, address, comes, |comes| {
                    if let Some(update) = update.as_deref_mut() {
                        elements::change_cluster_ip(address, comes, update);
                    }
                });
            }
            for address in elements::local_backends(target, served) {
                count(&mut self.hairpins, address, comes, |comes| {
                    if let Some(update) = update.as_deref_mut() {
                        elements::change_hairpin(address, comes, update);
                    }
                });
            }
        }
    }
}

/// What a port with these targets had: in the plan before, or else in the kernel at the start.
fn had(plan: &Plan, targets: &[(Target, Kind)], kept: &Kept) -> Had {
    let first = targets.first().map(|(target, _)| target);
    let same = |port: &&Arc<PortPlan>| port.targets.first().map(|(target, _)| target) == first;
    match plan.iter().find(same) {
        Some(port) => Had { backends: port.backends.clone(), affinity: port.affinity.clone() },
        None => kept.had(targets.iter().map(|(target, _)| *target)),
    }
}

/// Counts one more or one less; `changed` is called when that is the first or was the last.
fn count(counts: &mut HashMap<IpAddr, usize>, address: IpAddr, comes: bool, changed: impl FnOnce(bool)) {
    let count = counts.entry(address).or_default();
    let before = *count;
    *count = if comes { before + 1 } else { before.saturating_sub(1) };
    let after = *count;
    if after == 0 {
        counts.remove(&address);
    }
    if (before == 0) != (after == 0) {
        changed(comes);
    }
}
