//! The elements of the kernel's sets and maps: what they are, and how they change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::affinity::Affinity;
use super::class::MAX_BACKENDS;
use super::endpoints::Backend;
use super::names::{TABLE, name, set_name};
use super::number::{affinity_plan, plan_number};
use super::object::TrafficPolicy;
use super::plan::{Action, Plan, PortPlan, Served, Sources};
use super::target::{Kind, Target};
use crate::kernel::nft::{Concat, Data, Element, Family, Ip, Key, Rule, Set, Update, Verdict};

/// An update of the table of Services that changes nothing yet.
pub(super) fn update() -> Update {
    Update::new(Family::Inet, TABLE)
}

fn key(target: Target) -> Concat {
    Concat::new().address(target.at.ip()).protocol(target.protocol.number()).port(target.at.port())
}

fn number(number: u32) -> Data {
    Data::Value(number.to_ne_bytes().to_vec())
}

/// What the kernel's maps have for a target: plans in the order of [`PLANS`], and the backends to draw from, the cluster's and
/// this node's.
struct Lot<'a> {
    plans: [Option<u32>; 2],
    backends: [&'a [Backend]; 2],
    affinity: Option<&'a Affinity>,
    allowed: Option<BTreeMap<Key, Element>>,
}

const PLANS: [&str; 2] = [name::INSIDE, name::OUTSIDE];
const BACKENDS: [&str; 2] = [name::CLUSTER, name::LOCAL];

impl<'a> Lot<'a> {
    fn of(target: Target, served: Option<&'a Served>) -> Self {
        let Some(Served { kind, port }) = served else {
            return Self { plans: [None; 2], backends: [&[]; 2], affinity: None, allowed: None };
        };
        let actions = [Some(port.from_inside(*kind)), port.from_outside(*kind)];
        let plan = |action| match &port.affinity {
            Some(_) => affinity_plan(action),
            None => plan_number(action, port.backends(action).len()),
        };
        let used = |wanted: &[Action]| {
            let action = actions.into_iter().flatten().find(|action| wanted.contains(action));
            let backends = action.map_or(&[][..], |action| port.backends(action));
            &backends[..backends.len().min(MAX_BACKENDS)]
        };
        Self {
            plans: actions.map(|action| action.map(plan)),
            backends: [used(&[Action::Cluster, Action::Masquerade]), used(&[Action::Local])],
            affinity: port.affinity.as_ref(),
            allowed: port.sources.as_ref().filter(|_| *kind == Kind::Ingress).map(|to| allowed(target, to)),
        }
    }

    /// The backends that packets draw from by their indices: not those of a port with session affinity.
    fn drawn(&self, scope: usize) -> &'a [Backend] {
        if self.affinity.is_none() { self.backends[scope] } else { &[] }
    }

    /// The backends of a port with session affinity, with their numbers, and the chain that serves it.
    fn numbered(&self, scope: usize, ip: Ip) -> (Vec<(SocketAddr, u32)>, Option<String>) {
        let Some(affinity) = self.affinity.filter(|_| !self.backends[scope].is_empty()) else {
            return (Vec::new(), None);
        };
        let backends = self.backends[scope].iter();
        let numbered = backends.filter_map(|backend| Some((backend.to, *affinity.numbers.get(&backend.to)?)));
        (numbered.collect(), Some(affinity.chain_name(scope, ip)))
    }
}

/// Elements of the set that has who may use the target.
fn allowed(target: Target, sources: &Sources) -> BTreeMap<Key, Element> {
    let own = sources.has_node.then(|| IpNet::from(target.at.ip()));
    let ranges = Set::prefixes(Ip::of(target.at.ip()), sources.ranges.iter().chain(&own));
    let with_target = |range: &Key| {
        let last = range.last().unwrap_or_else(|| range.first());
        (key(target).range(range.first(), last).into(), Data::None.into())
    };
    ranges.elements.keys().map(with_target).collect()
}

/// Addresses of the backends of this node that a packet to the target may go to.
pub(super) fn local_backends(target: Target, served: &Served) -> Vec<IpAddr> {
    let lot = Lot::of(target, Some(served));
    let backends = lot.backends.into_iter().flatten().filter(|backend| backend.is_local);
    let mut addresses: Vec<IpAddr> = backends.map(|backend| backend.to.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Has the target served as it is now.
pub(super) fn change(target: Target, before: Option<&Served>, now: Option<&Served>, update: &mut Update) {
    let ip = Ip::of(target.at.ip());
    let (before, now) = (Lot::of(target, before), Lot::of(target, now));
    for (index, map) in PLANS.into_iter().enumerate() {
        exchange(&set_name(map, ip), key(target), before.plans[index], now.plans[index], number, update);
    }
    for (scope, map) in BACKENDS.into_iter().enumerate() {
        let (before, now) = (before.drawn(scope), now.drawn(scope));
        let to = |backends: &[Backend], at: usize| backends.get(at).map(|backend| backend.to);
        for at in 0..before.len().max(now.len()) {
            let key = key(target).number(position(at));
            exchange(&set_name(map, ip), key, to(before, at), to(now, at), backend, update);
        }
    }
    for scope in 0..name::AFFINITY.len() {
        change_affinity(target, scope, (&before, &now), update);
    }
    let (before, now) = (before.allowed.as_ref(), now.allowed.as_ref());
    exchange(
        &set_name(name::RESTRICTED, ip),
        key(target),
        before.map(drop),
        now.map(drop),
        |()| Data::None,
        update,
    );
    change_all(&set_name(name::ALLOWED, ip), before, now, update);
}

/// What a port with session affinity has beside that.
fn change_affinity(target: Target, scope: usize, (before, now): (&Lot<'_>, &Lot<'_>), update: &mut Update) {
    let ip = Ip::of(target.at.ip());
    let (before, chain_before) = before.numbered(scope, ip);
    let (now, chain) = now.numbered(scope, ip);
    let verdict = |chain| Data::Verdict(Verdict::Goto(chain));
    exchange(&set_name(name::AFFINITY[scope], ip), key(target), chain_before, chain, verdict, update);
    let slots = set_name(name::SLOTS[scope], ip);
    let slot = |slots: &[(SocketAddr, u32)], at: usize| slots.get(at).map(|(_, number)| *number);
    for at in 0..before.len().max(now.len()) {
        let key = key(target).number(position(at));
        exchange(&slots, key, slot(&before, at), slot(&now, at), number, update);
    }
    let elements = |numbered: Vec<(SocketAddr, u32)>| -> BTreeMap<Key, Element> {
        let element = |(to, number)| (key(target).number(number).into(), backend(to).into());
        numbered.into_iter().map(element).collect()
    };
    let (before, now) = (elements(before), elements(now));
    change_all(&set_name(name::NUMBERS[scope], ip), Some(&before), Some(&now), update);
}

fn change_all(
    set: &str,
    before: Option<&BTreeMap<Key, Element>>,
    now: Option<&BTreeMap<Key, Element>>,
    update: &mut Update,
) {
    for (key, element) in before.into_iter().flatten() {
        if now.and_then(|now| now.get(key)) != Some(element) {
            update.delete(set, key.clone());
        }
    }
    for (key, element) in now.into_iter().flatten() {
        if before.and_then(|before| before.get(key)) != Some(element) {
            update.add(set, key.clone(), element.clone());
        }
    }
}

fn backend(to: SocketAddr) -> Data {
    Concat::new().address(to.ip()).port(to.port()).into()
}

/// Adds and deletes the chains and maps of the ports with session affinity of a Service.
pub(super) fn change_ports(before: &Plan, now: &Plan, update: &mut Update) {
    let (before, now) = (affine_ports(before), affine_ports(now));
    let names: BTreeSet<_> = before.keys().chain(now.keys()).cloned().collect();
    for name in names {
        let (before, now) = (before.get(&name), now.get(&name));
        match (before, now) {
            (None, Some(_)) => drop(update.add_set(&name.1, Affinity::clients(name.0))),
            (Some(_), None) => drop(update.delete_set(&name.1)),
            _ => {}
        }
        for scope in 0..name::AFFINITY.len() {
            match (
                before.and_then(|port| rules(port, scope, name.0)),
                now.and_then(|port| rules(port, scope, name.0)),
            ) {
                (before, now) if before == now => {}
                (None, Some((chain, rules))) => drop(update.add_chain(&chain, rules)),
                (Some(_), Some((chain, rules))) => drop(update.replace_rules(&chain, rules)),
                (Some((chain, _)), None) => drop(update.delete_chain(&chain)),
                (None, None) => {}
            }
        }
    }
}

/// By family and name of the map of clients.
fn affine_ports(plan: &Plan) -> BTreeMap<(Ip, String), &PortPlan> {
    let ports = plan.iter().filter_map(|port| {
        let ip = Ip::of(port.targets.first()?.0.at.ip());
        Some(((ip, port.affinity.as_ref()?.clients_name(ip)), &**port))
    });
    ports.collect()
}

/// The chain of a port with session affinity, and its rules; none where no packet comes to it.
fn rules(port: &PortPlan, scope: usize, ip: Ip) -> Option<(String, Vec<Rule>)> {
    let is_local = [port.internal_policy, port.external_policy].contains(&TrafficPolicy::Local);
    let (backends, is_used) = [(&port.backends.cluster, true), (&port.backends.local, is_local)][scope];
    let affinity = port.affinity.as_ref().filter(|_| is_used && !backends.is_empty())?;
    let count = backends.len().min(MAX_BACKENDS);
    Some((affinity.chain_name(scope, ip), affinity.rules(scope, ip, count)))
}

fn exchange<T: PartialEq>(
    map: &str,
    key: Concat,
    before: Option<T>,
    now: Option<T>,
    data: impl Fn(T) -> Data,
    update: &mut Update,
) {
    match (before, now) {
        (before, now) if before == now => {}
        (None, Some(now)) => drop(update.add(map, key, data(now))),
        (Some(_), Some(now)) => drop(update.replace(map, key, data(now))),
        (_, None) => drop(update.delete(map, key)),
    }
}

fn position(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Has packets to other ports of a cluster IP rejected, or no longer.
pub(super) fn change_cluster_ip(address: IpAddr, is_there: bool, update: &mut Update) {
    change_member(&set_name(name::CLUSTER_IPS, Ip::of(address)), address.into(), is_there, update);
}

/// Has the connections of a backend of this node to itself translated, or no longer.
pub(super) fn change_hairpin(address: IpAddr, is_there: bool, update: &mut Update) {
    let both = Concat::new().address(address).address(address);
    change_member(&set_name(name::HAIRPINS, Ip::of(address)), both.into(), is_there, update);
}

fn change_member(set: &str, key: Key, is_there: bool, update: &mut Update) {
    if is_there {
        update.insert(set, key)
    } else {
        update.delete(set, key)
    };
}
