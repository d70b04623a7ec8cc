//! The elements of the kernel's sets and maps: what they are, and how they change.

use std::net::IpAddr;

use super::class::MAX_BACKENDS;
use super::endpoints::Backend;
use super::names::{TABLE, name, plan_number, set_name};
use super::plan::{Action, Served, Target};
use crate::kernel::nft::{Concat, Data, Family, Ip, Key, Update};

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

/// The plans of a target, and the backends that they draw from, in the order of [`MAPS`].
struct Lot<'a> {
    plans: [Option<u32>; 2],
    backends: [&'a [Backend]; 2],
}

const PLANS: [&str; 2] = [name::INSIDE, name::OUTSIDE];
const BACKENDS: [&str; 2] = [name::CLUSTER, name::LOCAL];

impl<'a> Lot<'a> {
    fn of(served: Option<&'a Served>) -> Self {
        let Some(Served { kind, port }) = served else {
            return Self { plans: [None; 2], backends: [&[]; 2] };
        };
        let actions = [Some(port.from_inside(*kind)), port.from_outside(*kind)];
        let plans =
            actions.map(|action| action.map(|action| plan_number(action, port.backends(action).len())));
        let used = |wanted: &[Action]| {
            let action = actions.into_iter().flatten().find(|action| wanted.contains(action));
            let backends = action.map_or(&[][..], |action| port.backends(action));
            &backends[..backends.len().min(MAX_BACKENDS)]
        };
        Self { plans, backends: [used(&[Action::Cluster, Action::Masquerade]), used(&[Action::Local])] }
    }
}

/// Addresses of the backends of this node that a packet to the target may go to.
pub(super) fn local_backends(served: &Served) -> Vec<IpAddr> {
    let lot = Lot::of(Some(served));
    let backends = lot.backends.into_iter().flatten().filter(|backend| backend.is_local);
    let mut addresses: Vec<IpAddr> = backends.map(|backend| backend.to.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Has the target served as it is now.
pub(super) fn change(target: Target, before: Option<&Served>, now: Option<&Served>, update: &mut Update) {
    let ip = Ip::of(target.at.ip());
    let (before, now) = (Lot::of(before), Lot::of(now));
    for (index, map) in PLANS.into_iter().enumerate() {
        exchange(&set_name(map, ip), key(target), before.plans[index], now.plans[index], number, update);
    }
    for (index, map) in BACKENDS.into_iter().enumerate() {
        let (before, now) = (before.backends[index], now.backends[index]);
        let map = set_name(map, ip);
        for at in 0..before.len().max(now.len()) {
            let (before, now) =
                (before.get(at).map(|backend| backend.to), now.get(at).map(|backend| backend.to));
            let data = |to: std::net::SocketAddr| Concat::new().address(to.ip()).port(to.port()).into();
            exchange(&map, key(target).number(position(at)), before, now, data, update);
        }
    }
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
