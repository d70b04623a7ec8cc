//! What is wrong with the keys that Nodes publish.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use selvedge_keys::PublicKey;
use serde::Serialize;

use super::inventory::{Inventory, TrustedKey, TrustedState};
use super::publication::Publication;
use crate::config::LONGEST_CRYPTOPERIOD;
use crate::doctor::finding::{Finding, Severity};
use crate::duration;
use crate::mesh::annotation::{NAMES, PUBLIC_KEY, public_keys};

/// How far clocks may differ.
pub const CLOCKS: SignedDuration = SignedDuration::from_mins(5);
/// A rotation takes seconds, and is promoted at its deadline, which is a day at most.
pub const LONGEST_ROTATION: SignedDuration = SignedDuration::from_hours(24);
/// Names that a sentence lists; JSON has all.
const NAMED: usize = 5;

const DUPLICATE: &str = "duplicate-key";
const AGE: &str = "key-age";
const CREATED: &str = "key-created";
const MISSING: &str = "missing-key";
const ANNOTATIONS: &str = "annotations";
const NEXT: &str = "next-key";

/// A finding about Nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFinding {
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
    /// All Nodes that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl From<Finding> for NodeFinding {
    fn from(finding: Finding) -> Self {
        Self { finding, nodes: Vec::new() }
    }
}

/// Whether one of these has to be looked at.
#[must_use]
pub fn is_clean(findings: &[NodeFinding]) -> bool {
    findings.iter().all(|found| matches!(found.finding.severity, Severity::Ok | Severity::Skipped))
}

/// All checks, each with a finding at least.
#[must_use]
pub fn check(publications: &[Publication], inventory: &Inventory) -> Vec<NodeFinding> {
    let checks = [
        duplicates(publications),
        ages(inventory),
        created(inventory),
        missing(publications),
        annotations(inventory),
        next(publications, inventory.at),
    ];
    checks.concat()
}

/// A key that two Nodes publish is trusted for neither; a Node whose other annotations are wrong counts too.
fn duplicates(publications: &[Publication]) -> Vec<NodeFinding> {
    let mut nodes: BTreeMap<PublicKey, BTreeSet<&str>> = BTreeMap::new();
    for publication in publications {
        for key in public_keys(&publication.annotations) {
            nodes.entry(key).or_default().insert(&publication.node);
        }
    }
    let twice = nodes.iter().filter(|(_, nodes)| nodes.len() > 1);
    let found: Vec<_> = twice
        .map(|(key, nodes)| {
            let seen = format!("key {} is published by {}", key.fingerprint(), list(nodes.iter().copied()));
            let remedy = "find out which node the key belongs to; on the others move the key store away and restart the \
                          agent, which makes a new key";
            about(Finding::problem(DUPLICATE, seen, remedy), nodes.iter().copied())
        })
        .collect();
    or_ok(found, DUPLICATE, || format!("{} keys, each of one Node", nodes.len()))
}

/// Only the keys in use: a next key has just been made, and lane keys are as old as the others.
fn in_use(inventory: &Inventory) -> impl Iterator<Item = &TrustedKey> {
    inventory.keys.iter().filter(|key| key.state == TrustedState::Current)
}

fn ages(inventory: &Inventory) -> Vec<NodeFinding> {
    let period = inventory.policy.cryptoperiod;
    let older = |key: &TrustedKey, than: Duration| {
        key.created.is_some_and(|created| inventory.at.duration_since(created) > signed(than))
    };
    let beyond = |key: &&TrustedKey| older(key, LONGEST_CRYPTOPERIOD);
    let expired = |key: &&TrustedKey| older(key, period) && !beyond(key);
    let remedy = "rotate them: selvedge keys rotate --node NAME";
    let mut found = Vec::new();
    let sentence = |keys: &[&TrustedKey], limit: Duration, what: &str| {
        format!("{} older than {}, {what}: {}", count(keys.len()), duration::show(limit), oldest(keys))
    };
    let keys: Vec<&TrustedKey> = in_use(inventory).filter(beyond).collect();
    if !keys.is_empty() {
        let seen = sentence(&keys, LONGEST_CRYPTOPERIOD, "the longest cryptoperiod that there can be");
        found.push(about(Finding::problem(AGE, seen, remedy), nodes(&keys)));
    }
    let keys: Vec<&TrustedKey> = in_use(inventory).filter(expired).collect();
    if !keys.is_empty() {
        let seen = sentence(&keys, period, "the cryptoperiod");
        found.push(about(Finding::warning(AGE, seen, remedy), nodes(&keys)));
    }
    or_ok(found, AGE, || format!("no key is older than {}", duration::show(period)))
}

fn created(inventory: &Inventory) -> Vec<NodeFinding> {
    let is_future =
        |key: &&TrustedKey| key.created.is_some_and(|created| created.duration_since(inventory.at) > CLOCKS);
    let future: Vec<&TrustedKey> = in_use(inventory).filter(is_future).collect();
    let unknown: Vec<&TrustedKey> = in_use(inventory).filter(|key| key.created.is_none()).collect();
    let mut found = Vec::new();
    if !future.is_empty() {
        let seen = format!("{} made in the future: {}", count(future.len()), list(nodes(&future)));
        let remedy = "set the clocks of these nodes and of this machine, then rotate the keys";
        found.push(about(Finding::problem(CREATED, seen, remedy), nodes(&future)));
    }
    if !unknown.is_empty() {
        let seen = format!("{} without key-created: {}", count(unknown.len()), list(nodes(&unknown)));
        found.push(about(
            Finding::warning(CREATED, seen, "look at the agents of these nodes"),
            nodes(&unknown),
        ));
    }
    or_ok(found, CREATED, || "every key has a creation time, in the past".into())
}

/// A Node that an agent has annotated is a member; without a key no other node reaches it.
fn missing(publications: &[Publication]) -> Vec<NodeFinding> {
    let is_member = |publication: &&Publication| {
        let annotations = &publication.annotations;
        NAMES.iter().any(|name| annotations.contains_key(*name)) && !annotations.contains_key(PUBLIC_KEY)
    };
    let keyless: Vec<&str> =
        publications.iter().filter(is_member).map(|publication| publication.node.as_str()).collect();
    let mut found = Vec::new();
    if !keyless.is_empty() {
        let seen = format!("members without a public key: {}", list(keyless.iter().copied()));
        let remedy = "look at the agents of these nodes: each publishes its key at its start";
        found.push(about(Finding::problem(MISSING, seen, remedy), keyless));
    }
    or_ok(found, MISSING, || "every member publishes a key".into())
}

fn annotations(inventory: &Inventory) -> Vec<NodeFinding> {
    let found: Vec<_> = inventory
        .unreadable
        .iter()
        .map(|unreadable| {
            let seen = format!("Node {}: {}", unreadable.node, unreadable.problems.join("; "));
            let remedy = "other nodes refuse this one; restart its agent, which writes its annotations again";
            about(Finding::problem(ANNOTATIONS, seen, remedy), [unreadable.node.as_str()])
        })
        .collect();
    or_ok(found, ANNOTATIONS, || "the annotations of every member can be read".into())
}

fn next(publications: &[Publication], now: Timestamp) -> Vec<NodeFinding> {
    let is_late = |since: Timestamp| now.duration_since(since) > LONGEST_ROTATION;
    let late = publications.iter().filter(|publication| publication.next_since.is_some_and(is_late));
    let late: Vec<&str> = late.map(|publication| publication.node.as_str()).collect();
    let mut found = Vec::new();
    if !late.is_empty() {
        let seen =
            format!("a next key has been published for more than a day by {}", list(late.iter().copied()));
        let remedy = "look at the rotation on these nodes: selvedge keys status; an agent that is down does not end one";
        found.push(about(Finding::warning(NEXT, seen, remedy), late));
    }
    or_ok(found, NEXT, || "no next key has been published for more than a day".into())
}

fn or_ok(found: Vec<NodeFinding>, check: &'static str, seen: impl FnOnce() -> String) -> Vec<NodeFinding> {
    if found.is_empty() { vec![Finding::ok(check, seen()).into()] } else { found }
}

fn about<'a>(finding: Finding, nodes: impl IntoIterator<Item = &'a str>) -> NodeFinding {
    NodeFinding { finding, nodes: nodes.into_iter().map(str::to_owned).collect() }
}

fn nodes<'a>(keys: &[&'a TrustedKey]) -> impl Iterator<Item = &'a str> {
    keys.iter().map(|key| key.node.as_str()).collect::<Vec<_>>().into_iter()
}

fn count(keys: usize) -> String {
    if keys == 1 { "1 key is".into() } else { format!("{keys} keys are") }
}

/// The first few names, and how many more there are.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.peekable();
    let mut text = names.by_ref().take(NAMED).collect::<Vec<_>>().join(", ");
    let more = names.count();
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
}

/// The same, the oldest keys first.
fn oldest(keys: &[&TrustedKey]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_by_key(|key| key.created);
    list(nodes(&keys))
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::{key, policy, publication};
    use super::*;
    use crate::mesh::annotation::{KEY_EPOCH, NEXT_PUBLIC_KEY};

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn member(node: &str, number: u8, created: &str) -> Publication {
        publication(node, &[("public-key", &key(number)), ("key-epoch", "1"), ("key-created", created)])
    }

    fn findings(publications: &[Publication]) -> Vec<NodeFinding> {
        check(publications, &Inventory::new(publications, policy(90), at(NOW)))
    }

    /// The only check that has a finding, its severity, and its Nodes.
    fn only(publications: &[Publication]) -> (&'static str, Severity, Vec<String>) {
        let found = findings(publications);
        let bad: Vec<_> = found.iter().filter(|found| found.finding.severity != Severity::Ok).collect();
        let [NodeFinding { finding, nodes }] = bad[..] else { panic!("{found:#?}") };
        assert!(!is_clean(&found));
        (finding.check, finding.severity, nodes.clone())
    }

    #[test]
    fn good_keys_have_no_finding() {
        let good = [
            member("a", 1, "2026-05-01T00:00:00Z"),
            // 90 days to the second, and four minutes ahead.
            member("b", 2, "2026-03-03T00:00:00Z"),
            member("c", 3, "2026-06-01T00:04:00Z"),
            publication("other", &[]),
        ];
        let found = findings(&good);
        assert!(is_clean(&found), "{found:#?}");
        assert_eq!(found.len(), 6, "every check has something to say");
    }

    #[test]
    fn a_key_of_two_nodes_is_found_wherever_it_is_published() {
        let own = member("a", 1, NOW);
        for name in ["public-key", "next-public-key", "lane-keys", "next-lane-keys"] {
            let mut other = member("b", 2, NOW);
            let copied =
                |text: String| if name.contains("lane") { format!("{},{text}", key(9)) } else { text };
            if name == "next-lane-keys" {
                other.annotations.insert(NEXT_PUBLIC_KEY.into(), key(8));
            }
            other.annotations.insert(format!("selvedge.dev/{name}"), copied(key(1)));
            let both = vec!["a".to_owned(), "b".to_owned()];
            assert_eq!(only(&[own.clone(), other]), (DUPLICATE, Severity::Problem, both), "{name}");
        }
        // Also on a Node that other nodes refuse for another reason.
        let mut broken = member("b", 1, NOW);
        broken.annotations.remove(KEY_EPOCH);
        let found = findings(&[own, broken]);
        let checks: Vec<_> =
            found.iter().filter(|found| found.finding.severity == Severity::Problem).collect();
        assert_eq!(
            checks.iter().map(|found| found.finding.check).collect::<Vec<_>>(),
            [DUPLICATE, ANNOTATIONS]
        );
    }

    #[test]
    fn old_keys_are_a_warning_and_those_beyond_the_maximum_a_problem() {
        let nodes = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>();
        let expired = [member("a", 1, "2026-03-02T23:59:59Z"), member("b", 2, NOW)];
        assert_eq!(only(&expired), (AGE, Severity::Warning, nodes(&["a"])));
        let year = [member("a", 1, "2025-06-01T00:00:00Z")];
        assert_eq!(only(&year), (AGE, Severity::Warning, nodes(&["a"])), "365 days to the second");
        let beyond = [member("a", 1, "2025-05-31T23:59:59Z"), member("c", 3, "2020-01-01T00:00:00Z")];
        assert_eq!(only(&beyond), (AGE, Severity::Problem, nodes(&["a", "c"])));
        let text = findings(&beyond).into_iter().map(|found| found.finding.seen).collect::<String>();
        assert!(text.contains("2 keys are older than 365d") && text.contains("c, a"), "{text}");
    }

    #[test]
    fn a_key_from_the_future_is_a_problem_beyond_what_clocks_differ() {
        let future = [member("a", 1, "2026-06-01T00:05:01Z"), member("b", 2, "2026-06-01T00:05:00Z")];
        assert_eq!(only(&future), (CREATED, Severity::Problem, vec!["a".to_owned()]));
        let unknown = [publication("a", &[("public-key", &key(1)), ("key-epoch", "1")])];
        assert_eq!(only(&unknown), (CREATED, Severity::Warning, vec!["a".to_owned()]));
    }

    #[test]
    fn a_member_without_key_is_found_and_a_node_that_is_none_is_not() {
        let keyless = [publication("a", &[("endpoints", "192.0.2.1:51830")]), publication("other", &[])];
        assert_eq!(only(&keyless), (MISSING, Severity::Problem, vec!["a".to_owned()]));
        // One of the annotations that operators write.
        let other = [publication("other", &[("of-an-operator", "x")])];
        assert!(is_clean(&findings(&other)));
    }

    #[test]
    fn a_rotation_that_does_not_end_is_found() {
        let rotating = |since: &str| {
            let mut node = member("a", 1, NOW);
            node.annotations.insert(NEXT_PUBLIC_KEY.into(), key(2));
            node.next_since = Some(at(since));
            node
        };
        assert!(is_clean(&findings(&[rotating("2026-05-31T00:00:00Z")])));
        assert_eq!(
            only(&[rotating("2026-05-30T23:59:59Z")]),
            (NEXT, Severity::Warning, vec!["a".to_owned()])
        );
    }

    #[test]
    fn many_nodes_are_one_finding() {
        let many: Vec<_> =
            (1..=200).map(|number| member(&format!("n{number}"), number, "2020-01-01T00:00:00Z")).collect();
        let (check, _, nodes) = only(&many);
        assert_eq!((check, nodes.len()), (AGE, 200));
        let found = findings(&many);
        let seen = &found.iter().find(|found| found.finding.check == AGE).unwrap().finding.seen;
        assert!(seen.contains("and 195 more") && seen.len() < 200, "{seen}");
    }
}
