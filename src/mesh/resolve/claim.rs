//! Keys and prefixes that more than one Node claims.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_keys::PublicKey;

use super::candidate::Candidate;
use super::{Fabric, PeerKeys, Reason, Record, Refusal};
use crate::mesh::annotation::Keys;
use crate::mesh::prefixes::{self, Conflict, Held};

/// The candidates whose claims are theirs alone; refusals for the others.
pub(super) fn settle<'a>(
    fabric: &Fabric,
    candidates: Vec<Candidate<'a>>,
    known: &BTreeMap<&str, &Record>,
    refusals: &mut Vec<Refusal>,
) -> Vec<Candidate<'a>> {
    let holders = Holders::new(fabric, known);
    let mut rest = Vec::new();
    for candidate in candidates {
        match holders.taken(&candidate) {
            Some(reason) => refusals.push(candidate.refusal(reason, true)),
            None => rest.push(candidate),
        }
    }
    // Only now, so that who is refused anyway can put nobody else's new claim in doubt.
    let disputes = Disputes::new(&rest);
    rest.into_iter().filter_map(|candidate| disputes.settle(candidate, refusals)).collect()
}

/// Whose the keys and prefixes are that were accepted before.
struct Holders<'a> {
    own_keys: BTreeSet<PublicKey>,
    keys: BTreeMap<PublicKey, &'a str>,
    prefixes: Held<&'a str>,
}

impl<'a> Holders<'a> {
    fn new(fabric: &'a Fabric, known: &BTreeMap<&'a str, &'a Record>) -> Self {
        let keys =
            known.iter().flat_map(|(name, record)| record.keys.values().flatten().map(|key| (*key, *name)));
        let theirs = known.iter().flat_map(|(name, record)| record.pod_cidrs.iter().map(|net| (*net, *name)));
        let own = fabric.own.pod_cidrs.iter().map(|net| (*net, fabric.own.name.as_str()));
        Self {
            own_keys: fabric.own.keys.iter().copied().collect(),
            keys: keys.collect(),
            prefixes: Held::new(theirs.chain(own)),
        }
    }

    /// Why the candidate is refused: a claim that belongs to another.
    fn taken(&self, candidate: &Candidate<'_>) -> Option<Reason> {
        let mut keys = candidate.keys.iter().flat_map(|keys| keys.keys.iter());
        let key = keys.find_map(|key| self.key_taken(key, candidate.name()));
        key.or_else(|| {
            candidate.pod_cidrs.iter().find_map(|net| {
                let holder = self.prefixes.other(net, &candidate.name())?;
                Some(Reason::CidrTaken { prefix: *net, holder: (*holder).to_owned() })
            })
        })
    }

    fn key_taken(&self, key: PublicKey, name: &str) -> Option<Reason> {
        if self.own_keys.contains(&key) {
            return Some(Reason::OwnKey(key));
        }
        let holder = self.keys.get(&key).filter(|holder| **holder != name)?;
        Some(Reason::KeyTaken { key, holder: (*holder).to_owned() })
    }
}

/// What several candidates claim that no one had before.
struct Disputes<'a> {
    keys: BTreeMap<PublicKey, BTreeSet<&'a str>>,
    prefixes: BTreeMap<&'a str, Conflict<&'a str>>,
}

impl<'a> Disputes<'a> {
    fn new(candidates: &[Candidate<'a>]) -> Self {
        let mut keys: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for candidate in candidates {
            let had = |key: &PublicKey| candidate.record.is_some_and(|record| record.has_key(key));
            for key in candidate.keys.iter().flat_map(|keys| keys.keys.iter()).filter(|key| !had(key)) {
                keys.entry(key).or_default().insert(candidate.node.claims.name.as_str());
            }
        }
        keys.retain(|_, names| names.len() > 1);
        let prefixes = candidates.iter().flat_map(|candidate| {
            let had = |net: &_| candidate.record.is_some_and(|record| record.pod_cidrs.contains(net));
            candidate
                .pod_cidrs
                .iter()
                .filter(move |net| !had(net))
                .map(|net| (*net, candidate.node.claims.name.as_str()))
        });
        Self { keys, prefixes: prefixes::conflicts(prefixes) }
    }

    /// The candidate with what of it is beyond dispute. One that was accepted before keeps the keys of then.
    fn settle<'c>(&self, mut candidate: Candidate<'c>, refusals: &mut Vec<Refusal>) -> Option<Candidate<'c>> {
        if let Some(Conflict { prefix, with }) = self.prefixes.get(candidate.name()) {
            let reason = Reason::CidrDisputed { prefix: *prefix, other: (*with).to_owned() };
            refusals.push(candidate.refusal(reason, true));
            return None;
        }
        let name = candidate.name();
        let disputed = candidate.keys.iter().position(|keys| self.disputed(&keys.keys, name).is_some());
        let Some(position) = disputed else { return Some(candidate) };
        let reason = self.disputed(&candidate.keys[position].keys, name)?;
        let kept = match (candidate.record, position) {
            (None, _) => None,
            (Some(record), 0) => last_accepted(record),
            (Some(_), _) => candidate.keys.first().cloned(),
        };
        refusals.push(candidate.refusal(reason, kept.is_none()));
        candidate.keys = vec![kept?];
        Some(candidate)
    }

    fn disputed(&self, keys: &Keys, name: &str) -> Option<Reason> {
        keys.iter().find_map(|key| {
            let other = self.keys.get(&key)?.iter().find(|other| **other != name)?;
            Some(Reason::KeyDisputed { key, other: (*other).to_owned() })
        })
    }
}

fn last_accepted(record: &Record) -> Option<PeerKeys> {
    let (public_key, lanes) = record.keys.get(&record.epoch)?.split_first()?;
    Some(PeerKeys { epoch: record.epoch, keys: Keys { public_key: *public_key, lanes: lanes.to_vec() } })
}
