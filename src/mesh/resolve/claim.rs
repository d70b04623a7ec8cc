//! Keys and prefixes that more than one Node claims.
//!
//! The main key of a Node, that of lane 0 in the epoch in use, decides whether the Node is a peer. Keys of further lanes and
//! of the next epoch never contest the main key of a newcomer, and one that is not believed costs its Node these keys alone:
//! otherwise a Node could list the keys of a hundred others and keep all of them out.

use std::collections::{BTreeMap, BTreeSet};

use selvedge_keys::PublicKey;

use super::candidate::Candidate;
use super::{Fabric, PeerKeys, Reason, Record, Refusal};
use crate::mesh::annotation::Keys;
use crate::mesh::prefixes::{self, Conflict, Held};

/// The candidates whose claims are theirs alone; refusals for the others. Those that still wait for their confirmation are
/// among the claimants, and never among the accepted.
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
            Some(reason) if !candidate.waits() => refusals.push(candidate.refusal(reason, true)),
            Some(_) => {}
            None => rest.push(candidate),
        }
    }
    // Only now, so that who is refused anyway can put nobody else's new claim in doubt.
    let disputes = Disputes::new(&rest);
    let accepted = rest.into_iter().filter(|candidate| !candidate.waits());
    let accepted = accepted.filter_map(|candidate| disputes.settle(candidate, refusals)).collect::<Vec<_>>();
    accepted.into_iter().map(|candidate| disputes.cut(&holders, candidate, refusals)).collect()
}

/// Takes out of the records what is the main key of another Node: further lanes and next epochs give way to it.
pub(super) fn release(records: &mut BTreeMap<String, Record>) {
    let mains = |(name, record): (&String, &Record)| {
        let epochs = record.keys.range(..=record.epoch);
        epochs.filter_map(|(_, keys)| keys.first()).map(|key| (*key, name.clone())).collect::<Vec<_>>()
    };
    let mains: BTreeMap<PublicKey, String> = records.iter().flat_map(mains).collect();
    for (name, record) in records.iter_mut() {
        let others = |key: &PublicKey| mains.get(key).is_some_and(|holder| holder != name);
        let now = record.epoch;
        record.keys.retain(|epoch, keys| *epoch <= now || !keys.iter().any(others));
        for keys in record.keys.values_mut().filter(|keys| keys.iter().skip(1).any(others)) {
            let main = keys.first().copied();
            keys.retain(|key| Some(*key) == main || !others(key));
        }
    }
}

/// Whose the keys and prefixes are that were accepted before.
struct Holders<'a> {
    own_keys: BTreeSet<PublicKey>,
    keys: BTreeMap<PublicKey, (&'a str, Rank)>,
    prefixes: Held<&'a str>,
}

/// What a key is to its Node, the strongest claim first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Main key, of now or of an earlier epoch.
    Main,
    /// Main key of the next epoch.
    Next,
    /// Key of a further lane.
    Lane,
}

impl<'a> Holders<'a> {
    fn new(fabric: &'a Fabric, known: &BTreeMap<&'a str, &'a Record>) -> Self {
        let ranked = |(name, record): (&&'a str, &&'a Record)| {
            let (name, record) = (*name, *record);
            record.keys.iter().flat_map(move |(epoch, keys)| {
                let main = if *epoch > record.epoch { Rank::Next } else { Rank::Main };
                let ranks = std::iter::once(main).chain(std::iter::repeat(Rank::Lane));
                keys.iter().zip(ranks).map(move |(key, rank)| (*key, (name, rank)))
            })
        };
        let mut keys = BTreeMap::<PublicKey, (&str, Rank)>::new();
        for (key, (name, rank)) in known.iter().flat_map(ranked) {
            let held = keys.entry(key).or_insert((name, rank));
            held.1 = held.1.min(rank);
        }
        let theirs = known.iter().flat_map(|(name, record)| record.pod_cidrs.iter().map(|net| (*net, *name)));
        let own = fabric.own.pod_cidrs.iter().map(|net| (*net, fabric.own.name.as_str()));
        Self {
            own_keys: fabric.own.keys.iter().copied().collect(),
            keys,
            prefixes: Held::new(theirs.chain(own)),
        }
    }

    /// Why the candidate is refused: its main key or a prefix belongs to another.
    fn taken(&self, candidate: &Candidate<'_>) -> Option<Reason> {
        let gives_way = |rank: Rank| match rank {
            Rank::Main => false,
            // A Node that was accepted before has a key of its own to keep, a newcomer has not.
            Rank::Next => candidate.record.is_none(),
            Rank::Lane => true,
        };
        let key = self.key_taken(candidate.main(), candidate.name(), gives_way);
        key.or_else(|| {
            candidate.pod_cidrs.iter().find_map(|net| {
                let holder = self.prefixes.other(net, &candidate.name())?;
                Some(Reason::CidrTaken { prefix: *net, holder: (*holder).to_owned() })
            })
        })
    }

    fn key_taken(&self, key: PublicKey, name: &str, gives_way: impl Fn(Rank) -> bool) -> Option<Reason> {
        if self.own_keys.contains(&key) {
            return Some(Reason::OwnKey(key));
        }
        let (holder, rank) = self.keys.get(&key).filter(|(holder, _)| *holder != name)?;
        (!gives_way(*rank)).then(|| Reason::KeyTaken { key, holder: (*holder).to_owned() })
    }
}

/// What several candidates claim now.
struct Disputes<'a> {
    /// By key, who claims it as the main one.
    mains: BTreeMap<PublicKey, BTreeSet<&'a str>>,
    /// By key, who claims it as the main one of the next epoch.
    nexts: BTreeMap<PublicKey, BTreeSet<&'a str>>,
    /// By key, who claims it otherwise, or as a next one, and did not have it before.
    others: BTreeMap<PublicKey, BTreeSet<&'a str>>,
    prefixes: BTreeMap<&'a str, Conflict<&'a str>>,
}

impl<'a> Disputes<'a> {
    fn new(candidates: &[Candidate<'a>]) -> Self {
        let (mut mains, mut nexts, mut others) = (Claimants::new(), Claimants::new(), Claimants::new());
        for candidate in candidates {
            let name = candidate.node.claims.name.as_str();
            claim(&mut mains, candidate.main(), name);
            for (index, keys) in candidate.keys.iter().enumerate() {
                if index > 0 {
                    claim(&mut nexts, keys.keys.public_key, name);
                }
                let had = |key: &PublicKey| candidate.record.is_some_and(|record| record.has_key(key));
                let secondary = keys.keys.iter().skip(usize::from(index == 0));
                secondary.filter(|key| !had(key)).for_each(|key| claim(&mut others, key, name));
            }
        }
        let prefixes = candidates.iter().flat_map(|candidate| {
            let had = |net: &_| candidate.record.is_some_and(|record| record.pod_cidrs.contains(net));
            candidate
                .pod_cidrs
                .iter()
                .filter(move |net| !had(net))
                .map(|net| (*net, candidate.node.claims.name.as_str()))
        });
        Self { mains, nexts, others, prefixes: prefixes::conflicts(prefixes) }
    }

    /// The candidate with what of its prefixes and its main key is beyond dispute. One that was accepted before keeps the
    /// keys of then.
    fn settle<'c>(&self, mut candidate: Candidate<'c>, refusals: &mut Vec<Refusal>) -> Option<Candidate<'c>> {
        if let Some(Conflict { prefix, with }) = self.prefixes.get(candidate.name()) {
            let reason = Reason::CidrDisputed { prefix: *prefix, other: (*with).to_owned() };
            refusals.push(candidate.refusal(reason, true));
            return None;
        }
        let Some(reason) = self.disputed(&candidate) else { return Some(candidate) };
        let kept = candidate.record.and_then(last_accepted);
        refusals.push(candidate.refusal(reason, kept.is_none()));
        candidate.keys = vec![kept?];
        Some(candidate)
    }

    fn disputed(&self, candidate: &Candidate<'_>) -> Option<Reason> {
        let (key, name) = (candidate.main(), candidate.name());
        if candidate.record.is_some_and(|record| record.is_main(&key)) {
            return None;
        }
        let next = || other(&self.nexts, key, name).filter(|_| candidate.record.is_some());
        let other = other(&self.mains, key, name).or_else(next)?;
        Some(Reason::KeyDisputed { key, other: other.to_owned() })
    }

    /// The candidate without the further lanes, and without the next epoch, of which a key is another Node's or claimed by
    /// another.
    fn cut<'c>(
        &self,
        holders: &Holders<'_>,
        mut candidate: Candidate<'c>,
        refusals: &mut Vec<Refusal>,
    ) -> Candidate<'c> {
        let lanes = candidate.keys[0].keys.lanes.iter().find_map(|key| self.lost(holders, *key, &candidate));
        if let Some(reason) = lanes {
            refusals.push(candidate.refusal(reason, false));
            candidate.keys[0].keys.lanes.clear();
        }
        let next = candidate.keys.get(1).into_iter().flat_map(|keys| keys.keys.iter());
        let next = next.into_iter().find_map(|key| self.lost(holders, key, &candidate));
        if let Some(reason) = next {
            refusals.push(candidate.refusal(reason, false));
            candidate.keys.truncate(1);
        }
        candidate
    }

    fn lost(&self, holders: &Holders<'_>, key: PublicKey, candidate: &Candidate<'_>) -> Option<Reason> {
        let name = candidate.name();
        if let Some(reason) = holders.key_taken(key, name, |_| false) {
            return Some(reason);
        }
        let had = candidate.record.is_some_and(|record| record.has_key(&key));
        let secondary = || other(&self.others, key, name).filter(|_| !had);
        let other = other(&self.mains, key, name).or_else(secondary)?;
        Some(Reason::KeyDisputed { key, other: other.to_owned() })
    }
}

type Claimants<'a> = BTreeMap<PublicKey, BTreeSet<&'a str>>;

fn claim<'a>(claimants: &mut Claimants<'a>, key: PublicKey, name: &'a str) {
    claimants.entry(key).or_default().insert(name);
}

/// Some claimant of the key that is not `name`.
fn other<'a>(claimants: &Claimants<'a>, key: PublicKey, name: &str) -> Option<&'a str> {
    claimants.get(&key)?.iter().find(|other| **other != name).copied()
}

fn last_accepted(record: &Record) -> Option<PeerKeys> {
    let (public_key, lanes) = record.keys.get(&record.epoch)?.split_first()?;
    Some(PeerKeys { epoch: record.epoch, keys: Keys { public_key: *public_key, lanes: lanes.to_vec() } })
}
