//! Which owners' prefixes overlap.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

/// Prefixes that belong to somebody.
#[derive(Debug)]
pub(super) struct Held<O> {
    owners: BTreeMap<IpNet, O>,
    /// The lengths of the prefixes there are, for IPv4 and IPv6: only these need to be looked for.
    lengths: [BTreeSet<u8>; 2],
}

impl<O: PartialEq> Held<O> {
    /// Of owners of the same prefix the last one has it.
    pub(super) fn new(claims: impl Iterator<Item = (IpNet, O)>) -> Self {
        let owners: BTreeMap<IpNet, O> = claims.map(|(prefix, owner)| (prefix.trunc(), owner)).collect();
        let lengths = [false, true].map(|ipv6| {
            let family = owners.keys().filter(|net| net.addr().is_ipv6() == ipv6);
            family.map(IpNet::prefix_len).collect()
        });
        Self { owners, lengths }
    }

    /// Some other owner than `owner` of an address in `prefix`.
    pub(super) fn other(&self, prefix: &IpNet, owner: &O) -> Option<&O> {
        let prefix = prefix.trunc();
        let lengths = self.lengths[usize::from(prefix.addr().is_ipv6())].range(..=prefix.prefix_len()).rev();
        let supernets = lengths.filter_map(|length| IpNet::new(prefix.addr(), *length).ok());
        let above = supernets.filter_map(|net| self.owners.get(&net.trunc()));
        let below =
            self.owners.range(prefix..).take_while(|(net, _)| prefix.contains(*net)).map(|(_, owner)| owner);
        above.chain(below).find(|other| *other != owner)
    }
}

/// A prefix of one owner that shares addresses with one of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict<O> {
    /// The owner's prefix.
    pub(super) prefix: IpNet,
    /// The other owner: the lowest of those that share addresses with it through one prefix.
    pub(super) with: O,
}

/// Every owner that has a conflict, with its first one. Takes n log n for n claims, whatever they are.
pub(super) fn conflicts<O: Ord + Clone>(
    claims: impl Iterator<Item = (IpNet, O)>,
) -> BTreeMap<O, Conflict<O>> {
    let mut owners: BTreeMap<IpNet, BTreeSet<O>> = BTreeMap::new();
    for (prefix, owner) in claims {
        owners.entry(prefix.trunc()).or_default().insert(owner);
    }
    let mut found = BTreeMap::new();
    // In this order a prefix comes right after those that hold it, so a stack has all of them, at most one of
    // each length.
    let mut holders: Vec<(IpNet, &BTreeSet<O>)> = Vec::new();
    for (prefix, here) in &owners {
        while holders.pop_if(|(holder, _)| !holder.contains(prefix)).is_some() {}
        note(&mut found, *prefix, here, here);
        for (holder, above) in &holders {
            note(&mut found, *prefix, here, above);
            note(&mut found, *holder, above, here);
        }
        holders.push((*prefix, here));
    }
    found
}

/// Notes for each of `owners` the lowest other one of `others`.
fn note<O: Ord + Clone>(
    found: &mut BTreeMap<O, Conflict<O>>,
    prefix: IpNet,
    owners: &BTreeSet<O>,
    others: &BTreeSet<O>,
) {
    for owner in owners {
        if let Some(with) = others.iter().find(|other| *other != owner).filter(|_| !found.contains_key(owner))
        {
            found.insert(owner.clone(), Conflict { prefix, with: with.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::range::overlap;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u8..4, 22u8..=26).prop_map(|(third, length)| format!("10.0.{third}.0/{length}"));
        let v6 = (0u8..4, 46u8..=50).prop_map(|(third, length)| format!("fd00:0:{third}000::/{length}"));
        prop_oneof![v4, v6].prop_map(|text| text.parse::<IpNet>().unwrap().trunc())
    }

    proptest! {
        #[test]
        fn another_owner_is_found_as_by_a_naive_search(
            claims in proptest::collection::btree_map(net(), 0u8..5, 0..8), prefix in net(), owner in 0u8..5
        ) {
            let held = Held::new(claims.clone().into_iter());
            let naive = claims.iter().any(|(net, by)| *by != owner && overlap(net, &prefix));
            prop_assert_eq!(held.other(&prefix, &owner).is_some(), naive);
        }

        #[test]
        fn the_owners_found_are_those_of_a_naive_search(claims in proptest::collection::vec((net(), 0u8..5), 0..12)) {
            let found = conflicts(claims.iter().copied());
            for owner in 0..5 {
                let conflict = claims.iter().any(|(one, by)| {
                    *by == owner && claims.iter().any(|(other, by)| *by != owner && overlap(one, other))
                });
                prop_assert_eq!(found.contains_key(&owner), conflict);
            }
            for (owner, conflict) in found {
                prop_assert!(claims.contains(&(conflict.prefix, owner)));
                prop_assert!(conflict.with != owner);
            }
        }
    }
}
