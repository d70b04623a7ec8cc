//! What the kernel has from an earlier agent: a backend that it knows keeps its index and its number, so that clients keep their
//! backends over a restart, and that what has not changed is not written again.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use super::affinity::Affinity;
use super::endpoints::{Backend, Backends};
use super::names::{name, set_name};
use super::plan::Had;
use super::target::Target;
use crate::kernel::nft::{Data, Element, Ip, Key, Table};
use crate::kernel::protocol::Protocol;

/// By target: the backends of the cluster and of the node by index, and the numbers of both.
#[derive(Debug, Default)]
pub(super) struct Kept {
    targets: HashMap<Target, Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    backends: [BTreeMap<u32, SocketAddr>; 2],
    numbers: BTreeMap<SocketAddr, u32>,
}

impl Kept {
    pub(super) fn of(table: &Table) -> Self {
        let mut kept = Self::default();
        for ip in Ip::BOTH {
            for (scope, map) in [name::CLUSTER, name::LOCAL].into_iter().enumerate() {
                for (target, index, data) in elements(table, map, ip) {
                    if let Some(to) = backend(data, ip) {
                        kept.lists(target).backends[scope].insert(index, to);
                    }
                }
            }
            for scope in 0..name::AFFINITY.len() {
                kept.take_numbers(table, scope, ip);
            }
        }
        kept
    }

    /// The order of a port with session affinity is that of its slots.
    fn take_numbers(&mut self, table: &Table, scope: usize, ip: Ip) {
        let mut by_number: HashMap<(Target, u32), SocketAddr> = HashMap::new();
        for (target, number, data) in elements(table, name::NUMBERS[scope], ip) {
            if let Some(to) = backend(data, ip) {
                by_number.insert((target, number), to);
                self.lists(target).numbers.insert(to, number);
            }
        }
        for (target, index, data) in elements(table, name::SLOTS[scope], ip) {
            let number = <[u8; 4]>::try_from(data).map(u32::from_ne_bytes);
            if let Some(to) = number.ok().and_then(|number| by_number.get(&(target, number))) {
                self.lists(target).backends[scope].insert(index, *to);
            }
        }
    }

    fn lists(&mut self, target: Target) -> &mut Lists {
        self.targets.entry(target).or_default()
    }

    /// What a port with these targets had. Not every target has every list.
    pub(super) fn had(&self, targets: impl Iterator<Item = Target>) -> Had {
        let mut had = Had::default();
        let mut numbers = BTreeMap::new();
        for lists in targets.filter_map(|target| self.targets.get(&target)) {
            let Backends { cluster, local } = &mut had.backends;
            for (list, kept) in [cluster, local].into_iter().zip(&lists.backends) {
                if list.is_empty() {
                    // Whether it is local is not asked.
                    *list = kept.values().map(|to| Backend { to: *to, is_local: false }).collect();
                }
            }
            numbers.extend(&lists.numbers);
        }
        had.affinity = (!numbers.is_empty()).then(|| Affinity::with_numbers(numbers));
        had
    }
}

/// The elements of a map whose keys are a target and a number of four bytes.
fn elements<'a>(table: &'a Table, map: &str, ip: Ip) -> impl Iterator<Item = (Target, u32, &'a [u8])> {
    let elements = table.sets.get(&set_name(map, ip)).map(|set| &set.elements);
    elements.into_iter().flatten().filter_map(move |(key, Element { data, .. }): (&Key, &Element)| {
        let (address, rest) = address(key.first(), ip)?;
        let &[protocol, 0, 0, 0, high, low, 0, 0, a, b, c, d] = rest else { return None };
        let protocol = Protocol::ALL.into_iter().find(|it| it.number() == protocol)?;
        let at = SocketAddr::new(address, u16::from_be_bytes([high, low]));
        let Data::Value(data) = data else { return None };
        Some((Target { at, protocol }, u32::from_ne_bytes([a, b, c, d]), data.as_slice()))
    })
}

fn backend(data: &[u8], ip: Ip) -> Option<SocketAddr> {
    let (address, rest) = address(data, ip)?;
    let &[high, low, ..] = rest else { return None };
    Some(SocketAddr::new(address, u16::from_be_bytes([high, low])))
}

fn address(bytes: &[u8], ip: Ip) -> Option<(IpAddr, &[u8])> {
    match ip {
        Ip::V4 => bytes.split_first_chunk::<4>().map(|(address, rest)| (IpAddr::from(*address), rest)),
        Ip::V6 => bytes.split_first_chunk::<16>().map(|(address, rest)| (IpAddr::from(*address), rest)),
    }
}
