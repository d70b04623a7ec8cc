//! Session affinity (`sessionAffinity: ClientIP`): a client comes back to the backend that it had, for as long as that serves
//! and the client comes back in time.
//!
//! The kernel remembers the number of each client's backend. Numbers stay with their backends, unlike indices; the number of
//! one that is gone is of nobody, and the client draws again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::draw::{numbered, random, translate};
use super::endpoints::Backends;
use super::names::{name, port_name, set_name};
use crate::kernel::nft::{DataType, End, Expiry, Field, Ip, Rule, Selector, Set, SetOperation};

/// Clients of one port of a Service, in one family, that are remembered. Others are served as without session affinity.
pub(super) const MAX_CLIENTS: u32 = 20_000;
/// Numbers begin behind those of plans, which are in the same place of a packet before.
const FIRST: u32 = 0x1_0000;
/// Counts connections of clients that were not remembered.
pub(super) const FULL: &str = "affinity-full";

/// The session affinity of one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Affinity {
    /// Names the port: `namespace/service/tcp/80`.
    pub port: String,
    /// How long a client is remembered after its last connection.
    pub timeout: Duration,
    /// The number of each backend.
    pub numbers: BTreeMap<SocketAddr, u32>,
    /// The next number to give.
    next: u32,
}

impl Affinity {
    /// Backends have the numbers that they `had`, others get new ones.
    #[must_use]
    pub fn of(port: String, timeout: Duration, had: Option<&Self>, backends: &Backends) -> Self {
        let mut affinity = Self { port, timeout, numbers: BTreeMap::new(), next: FIRST };
        if let Some(had) = had {
            affinity.next = had.next;
        }
        let all = || backends.cluster.iter().chain(&backends.local);
        for backend in all() {
            if let Some(number) = had.and_then(|had| had.numbers.get(&backend.to)) {
                affinity.numbers.insert(backend.to, *number);
            }
        }
        for backend in all() {
            if !affinity.numbers.contains_key(&backend.to) {
                let number = affinity.free();
                affinity.numbers.insert(backend.to, number);
            }
        }
        affinity
    }

    /// What was read from the kernel.
    #[must_use]
    pub(super) fn with_numbers(numbers: BTreeMap<SocketAddr, u32>) -> Self {
        let next = numbers.values().max().map_or(FIRST, |last| last.checked_add(1).unwrap_or(FIRST));
        Self { port: String::new(), timeout: Duration::ZERO, numbers, next }
    }

    fn free(&mut self) -> u32 {
        loop {
            let number = self.next;
            self.next = number.checked_add(1).unwrap_or(FIRST);
            if !self.numbers.values().any(|taken| *taken == number) {
                return number;
            }
        }
    }

    /// The map of clients.
    pub(super) fn clients_name(&self, ip: Ip) -> String {
        port_name(name::CLIENTS, ip, &self.port)
    }

    /// The empty map of clients.
    pub(super) fn clients(ip: Ip) -> Set {
        let map = Set::map(ip.field(), DataType::Value(Field::Priority.into()));
        map.expiring(Expiry::PerElement).dynamic(MAX_CLIENTS)
    }

    /// The chain that serves the port by the cluster's backends (0) or by this node's (1).
    pub(super) fn chain_name(&self, scope: usize, ip: Ip) -> String {
        port_name(name::AFFINITY[scope], ip, &self.port)
    }

    /// Its rules. A client that is remembered is so for longer, and served by its backend; any other draws one. A rule ends
    /// where it finds nothing: no such client, no room.
    pub(super) fn rules(&self, scope: usize, ip: Ip, count: usize) -> Vec<Rule> {
        let rule = || Rule::new().ip(ip);
        let client = [Selector::Address(ip, End::Source)];
        let clients = self.clients_name(ip);
        let remember = |rule: Rule, operation| {
            rule.change_map(operation, &clients, &client, &[Selector::Priority], Some(self.timeout))
        };
        let recall = |rule: Rule| rule.map(&client, &clients).set_priority();
        // Only what this packet has found: another packet of the client may have drawn since.
        let found = Rule::new().prioritized(!(FIRST - 1)).ip(ip);
        let forget = found.change_map(SetOperation::Delete, &clients, &client, &[Selector::Priority], None);
        let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
        vec![
            remember(recall(rule()), SetOperation::Update).jump(name::NUMBERS[scope]),
            forget,
            random(count).jump(name::SLOTS[scope]),
            // Recalled once more: another packet of the client may have drawn at the same time.
            recall(remember(rule(), SetOperation::Add)).goto(name::NUMBERED[scope]),
            Rule::new().count(FULL).goto(name::NUMBERED[scope]),
        ]
    }
}

/// The chains that all ports share, by name. Where an index or a number is of no backend any more, the first one serves.
pub(super) fn shared(scope: usize) -> [(&'static str, Vec<Rule>); 3] {
    let (slots, numbers) = (name::SLOTS[scope], name::NUMBERS[scope]);
    let to_number = |ip| Rule::new().ip(ip).map(&numbered(ip), &set_name(slots, ip)).set_priority().end();
    let by_index = [
        &Ip::BOTH.map(to_number)[..],
        &[random(1)],
        &Ip::BOTH.map(to_number),
        &[Rule::new().goto("rejected")],
    ];
    let serve = || Rule::new().jump(numbers);
    let by_number = vec![serve(), random(1).jump(slots), serve(), Rule::new().goto("rejected")];
    [(slots, by_index.concat()), (numbers, translate(numbers)), (name::NUMBERED[scope], by_number)]
}
