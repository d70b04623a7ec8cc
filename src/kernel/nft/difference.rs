//! What has to be done so that the kernel's table becomes the wanted one.

use std::collections::BTreeMap;

use super::element::Element;
use super::key::Key;
use super::set::Set;
use super::table::{Chain, Table, TableState};
use super::transaction::{Inside, Transaction};

/// Adds the steps from what the kernel has to `wanted`. Counters and sets that stay keep their values, and
/// chains whose rules are right keep the counts in their rules.
pub(super) fn steps(transaction: &mut Transaction, have: Option<&TableState>, wanted: &Table) {
    if have.is_none_or(|have| have.dormant) {
        transaction.add_table(wanted.family, &wanted.name);
    }
    let empty = Table::new(wanted.family, &wanted.name);
    let have = have.map_or(&empty, |have| &have.table);
    let mut inside = transaction.inside(wanted.family, &wanted.name);
    let plan = Plan::new(have, wanted);
    plan.remove(&mut inside);
    plan.add(&mut inside);
}

/// Deletes everything that is in the way before adding anything: rules first, which refer to sets, chains and
/// counters, then elements, which refer to chains.
struct Plan<'a> {
    have: &'a Table,
    wanted: &'a Table,
}

impl<'a> Plan<'a> {
    fn new(have: &'a Table, wanted: &'a Table) -> Self {
        Self { have, wanted }
    }

    /// The chain is there and hangs where it should.
    fn chain_stays(&self, name: &str) -> bool {
        match (self.have.chains.get(name), self.wanted.chains.get(name)) {
            (Some(have), Some(wanted)) => have.base == wanted.base,
            _ => false,
        }
    }

    /// The set is there and of the right type.
    fn set_stays(&self, name: &str) -> bool {
        match (self.have.sets.get(name), self.wanted.sets.get(name)) {
            (Some(have), Some(wanted)) => have.same_kind(wanted),
            _ => false,
        }
    }

    /// The chain's rules are right, and refer to nothing that is replaced.
    fn rules_stay(&self, name: &str) -> bool {
        self.chain_stays(name)
            && self.have.chains.get(name).map(|chain| &chain.rules)
                == self.wanted.chains.get(name).map(|chain| &chain.rules)
            && !self.replaces_something()
    }

    /// A chain or set is deleted and made again under its name.
    fn replaces_something(&self) -> bool {
        let chain = |name: &String| self.wanted.chains.contains_key(name) && !self.chain_stays(name);
        let set = |name: &String| self.wanted.sets.contains_key(name) && !self.set_stays(name);
        self.have.chains.keys().any(chain) || self.have.sets.keys().any(set)
    }

    fn remove(&self, inside: &mut Inside<'_>) {
        for (name, chain) in &self.have.chains {
            if !self.rules_stay(name) && !chain.rules.is_empty() {
                inside.flush_chain(name);
            }
        }
        for (name, set) in &self.have.sets {
            if self.set_stays(name) {
                inside.delete_elements(name, missing(set, self.wanted.sets.get(name)).map(|(key, _)| key));
            } else {
                inside.delete_set(name);
            }
        }
        for name in self.have.chains.keys().filter(|name| !self.chain_stays(name)) {
            inside.delete_chain(name);
        }
        for name in self.have.counters.difference(&self.wanted.counters) {
            inside.delete_counter(name);
        }
    }

    /// Elements come last: with each rule that looks into a map the kernel goes through all that the map has by then.
    fn add(&self, inside: &mut Inside<'_>) {
        for name in self.wanted.counters.difference(&self.have.counters) {
            inside.add_counter(name);
        }
        for (name, chain) in self.wanted.chains.iter().filter(|(name, _)| !self.chain_stays(name)) {
            inside.add_chain(name, chain);
        }
        let old = |name: &String| self.have.sets.get(name).filter(|_| self.set_stays(name));
        for (name, set) in self.wanted.sets.iter().filter(|(name, _)| old(name).is_none()) {
            inside.add_set(name, set);
        }
        for (name, chain) in self.wanted.chains.iter().filter(|(name, _)| !self.rules_stay(name)) {
            add_rules(inside, name, chain);
        }
        for (name, set) in &self.wanted.sets {
            inside.add_elements(name, missing(set, old(name)));
        }
    }
}

fn add_rules(inside: &mut Inside<'_>, name: &str, chain: &Chain) {
    for (index, rule) in chain.rules.iter().enumerate() {
        inside.add_rule(name, index + 1, rule);
    }
}

/// The elements of `set` that `other` does not have, or has with another value. Those of dynamic sets are the packets'.
pub(super) fn missing<'a>(
    set: &'a Set,
    other: Option<&'a Set>,
) -> impl Iterator<Item = (&'a Key, &'a Element)> {
    static NONE: BTreeMap<Key, Element> = BTreeMap::new();
    let other = other.map_or(&NONE, |other| &other.elements);
    let elements = (!set.dynamic).then_some(&set.elements).into_iter().flatten();
    elements.filter(|(key, element)| other.get(*key) != Some(*element))
}
