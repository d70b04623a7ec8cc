//! Changes of a table, made from what is known to have changed: nothing is read.

use std::collections::{BTreeMap, BTreeSet};

use super::Error;
use super::difference::missing;
use super::element::{Data, Element};
use super::key::Key;
use super::rule::Rule;
use super::set::Set;
use super::table::{Chain, Family, Table};
use super::transaction::Transaction;

/// Elements to delete from and to add to the sets and maps of one table, and whole sets and chains, in one transaction.
///
/// It takes for granted what the kernel has: an element that is to be deleted is there, one that is to be added is
/// not, and so with sets and chains. Otherwise [`Connection::update`](super::Connection::update) does nothing of it and returns
/// [`Error::Stale`](super::Error::Stale); then the whole table has to be compared
/// ([`Connection::apply`](super::Connection::apply)).
///
/// Keys of interval sets have to be ranges, also if they are of one value: made from an [`IpNet`](ipnet::IpNet), or by
/// [`Concat`](super::Concat) as it says.
///
/// ```no_run
/// # use selvedge::kernel::nft::{Concat, Connection, Data, Family, Update};
/// let mut update = Update::new(Family::Inet, "selvedge-example");
/// let service = Concat::new().address("10.96.0.1".parse()?).protocol(6).port(80);
/// update.replace("service4", service, Data::Value(2_u32.to_ne_bytes().to_vec()));
/// update.delete("members4", "192.0.2.7".parse::<std::net::IpAddr>()?);
/// Connection::open()?.update(&update)?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    family: Family,
    table: String,
    sets: BTreeMap<String, SetUpdate>,
    new_sets: BTreeMap<String, Set>,
    old_sets: BTreeSet<String>,
    chains: BTreeMap<String, ChainUpdate>,
    generation: Option<u32>,
}

/// What happens to one set: first elements are deleted, then added.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct SetUpdate {
    delete: BTreeSet<Key>,
    add: BTreeMap<Key, Element>,
}

/// What happens to one chain, none of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ChainUpdate {
    Add(Vec<Rule>),
    Replace(Vec<Rule>),
    Delete,
}

impl ChainUpdate {
    fn rules(&self) -> &[Rule] {
        match self {
            Self::Add(rules) | Self::Replace(rules) => rules,
            Self::Delete => &[],
        }
    }
}

impl Update {
    /// Changes nothing yet.
    #[must_use]
    pub fn new(family: Family, table: impl Into<String>) -> Self {
        Self {
            family,
            table: table.into(),
            sets: BTreeMap::new(),
            new_sets: BTreeMap::new(),
            old_sets: BTreeSet::new(),
            chains: BTreeMap::new(),
            generation: None,
        }
    }

    /// Only if the ruleset still is that of `generation`
    /// ([`Connection::generation`](super::Connection::generation)): nobody has changed any table since.
    #[must_use]
    pub fn if_generation(self, generation: u32) -> Self {
        Self { generation: Some(generation), ..self }
    }

    /// Adds a key to a set.
    pub fn insert(&mut self, set: &str, key: impl Into<Key>) -> &mut Self {
        self.add(set, key, Data::None)
    }

    /// Adds a key and its value to a map, or with [`Element::expiring`] a key with a timeout to either.
    pub fn add(&mut self, set: &str, key: impl Into<Key>, element: impl Into<Element>) -> &mut Self {
        self.set(set).add.insert(key.into(), element.into());
        self
    }

    /// Deletes a key. One that this update adds is not added after all.
    pub fn delete(&mut self, set: &str, key: impl Into<Key>) -> &mut Self {
        let (set, key) = (self.set(set), key.into());
        if set.add.remove(&key).is_none() {
            set.delete.insert(key);
        }
        self
    }

    /// Gives a key of a map another value.
    pub fn replace(&mut self, set: &str, key: impl Into<Key>, element: impl Into<Element>) -> &mut Self {
        let key = key.into();
        self.delete(set, key.clone()).add(set, key, element)
    }

    /// Makes the elements of `before`, which the kernel has, those of `after`.
    pub fn difference(&mut self, set: &str, before: &Set, after: &Set) -> &mut Self {
        for (key, _) in missing(before, Some(after)) {
            self.delete(set, key.clone());
        }
        for (key, element) in missing(after, Some(before)) {
            self.add(set, key.clone(), element.clone());
        }
        self
    }

    /// Adds a set or map, with its elements.
    pub fn add_set(&mut self, name: &str, set: Set) -> &mut Self {
        self.new_sets.insert(name.to_owned(), set);
        self
    }

    /// Deletes a set or map with all its elements.
    pub fn delete_set(&mut self, name: &str) -> &mut Self {
        self.old_sets.insert(name.to_owned());
        self
    }

    /// Adds a chain that rules or maps lead to.
    pub fn add_chain(&mut self, name: &str, rules: Vec<Rule>) -> &mut Self {
        self.chain(name, ChainUpdate::Add(rules))
    }

    /// Gives a chain other rules, whatever it had.
    pub fn replace_rules(&mut self, name: &str, rules: Vec<Rule>) -> &mut Self {
        self.chain(name, ChainUpdate::Replace(rules))
    }

    /// Deletes a chain, which nothing leads to any more.
    pub fn delete_chain(&mut self, name: &str) -> &mut Self {
        self.chain(name, ChainUpdate::Delete)
    }

    fn chain(&mut self, name: &str, change: ChainUpdate) -> &mut Self {
        self.chains.insert(name.to_owned(), change);
        self
    }

    /// Carries it out in the model of the table: what the kernel has after it, if the kernel has `table` before.
    pub fn apply_to(self, table: &mut Table) {
        for (name, mut change) in self.sets {
            let Some(set) = table.sets.get_mut(&name) else { continue };
            change.delete.iter().for_each(|key| drop(set.elements.remove(key)));
            set.elements.append(&mut change.add);
        }
        self.old_sets.iter().for_each(|name| drop(table.sets.remove(name)));
        table.sets.extend(self.new_sets);
        for (name, change) in self.chains {
            match change {
                ChainUpdate::Delete => drop(table.chains.remove(&name)),
                ChainUpdate::Add(rules) | ChainUpdate::Replace(rules) => {
                    drop(table.chains.insert(name, Chain::regular(rules)));
                }
            }
        }
    }

    /// Whether the kernel would take it if it had `table`: all sets and chains are there, with what is deleted, and without what
    /// is added.
    #[must_use]
    pub fn fits(&self, table: &Table) -> bool {
        let elements = self.sets.iter().all(|(name, change)| {
            table.sets.get(name).is_some_and(|set| {
                let is_there = |key: &&Key| set.elements.contains_key(*key);
                change.delete.iter().all(|key| is_there(&key))
                    && change.add.keys().all(|key| !is_there(&key) || change.delete.contains(key))
            })
        });
        let has = |name: &String| table.sets.contains_key(name);
        elements
            && self.old_sets.iter().all(has)
            && self.new_sets.keys().all(|name| !has(name) || self.old_sets.contains(name))
            && self.chains.iter().all(|(name, change)| {
                table.chains.contains_key(name) != matches!(change, ChainUpdate::Add(_))
            })
    }

    /// It changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.values().all(|set| set.delete.is_empty() && set.add.is_empty())
            && self.new_sets.is_empty()
            && self.old_sets.is_empty()
            && self.chains.is_empty()
    }

    /// The bytes that [`Connection::update`](super::Connection::update) sends; for measurements.
    ///
    /// # Errors
    /// [`Error::TooLong`].
    #[doc(hidden)]
    pub fn batch(&self) -> Result<Vec<u8>, Error> {
        self.transaction().batch(self.generation)
    }

    pub(super) fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// What is in the way is deleted before anything is added: elements, which lead to chains, then rules, which use sets.
    pub(super) fn transaction(&self) -> Transaction {
        let mut transaction = Transaction::default();
        let mut inside = transaction.inside(self.family, &self.table);
        self.sets.iter().for_each(|(name, set)| inside.delete_elements(name, &set.delete));
        for (name, _) in self.chains.iter().filter(|(_, change)| !matches!(change, ChainUpdate::Add(_))) {
            inside.flush_chain(name);
        }
        for (name, _) in self.chains.iter().filter(|(_, change)| **change == ChainUpdate::Delete) {
            inside.delete_chain(name);
        }
        self.old_sets.iter().for_each(|name| inside.delete_set(name));
        self.new_sets.iter().for_each(|(name, set)| inside.add_set(name, set));
        for (name, _) in self.chains.iter().filter(|(_, change)| matches!(change, ChainUpdate::Add(_))) {
            inside.add_chain(name, &Chain::default());
        }
        for (name, change) in &self.chains {
            for (index, rule) in change.rules().iter().enumerate() {
                inside.add_rule(name, index + 1, rule);
            }
        }
        self.new_sets.iter().for_each(|(name, set)| inside.add_new_elements(name, &set.elements));
        self.sets.iter().for_each(|(name, set)| inside.add_new_elements(name, &set.add));
        transaction
    }

    fn set(&mut self, name: &str) -> &mut SetUpdate {
        self.sets.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> Update {
        Update::new(Family::Inet, "table")
    }

    #[test]
    fn later_changes_of_a_key_are_folded_into_earlier_ones() {
        let (one, two) = (Data::Value(vec![1]), Data::Value(vec![2]));
        let mut added = update();
        added.add("map", [1], one.clone()).delete("map", [1]);
        assert!(added.is_empty());
        let mut replaced = update();
        replaced.delete("map", [1]).add("map", [1], one).replace("map", [1], two.clone());
        let mut directly = update();
        directly.replace("map", [1], two);
        assert_eq!(replaced, directly);
        let mut deleted = directly.clone();
        deleted.delete("map", [1]);
        let mut only_deleted = update();
        only_deleted.delete("map", [1]);
        assert_eq!(deleted, only_deleted);
    }

    #[test]
    fn the_difference_of_two_sets() {
        let set = |keys: &[u8]| {
            let mut set = Set::new(super::super::Field::Protocol);
            keys.iter().for_each(|key| {
                set.insert([*key]);
            });
            set
        };
        let mut difference = update();
        difference.difference("set", &set(&[1, 2, 3]), &set(&[2, 3, 4]));
        let mut expected = update();
        expected.delete("set", [1]).insert("set", [4]);
        assert_eq!(difference, expected);
        let mut none = update();
        assert!(none.difference("set", &set(&[1]), &set(&[1])).is_empty());
    }
}
