//! An inventory of the trusted keys: for each, what PCI DSS 4.0.1 names in the purpose of requirement 4.2.1.1, that is algorithm,
//! strength, key custodian and expiry date.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use selvedge_keys::PublicKey;
use serde::Serialize;

use super::policy::KeyringPolicy;
use super::publication::Publication;
use crate::duration;
use crate::mesh::annotation::{self, NodeAnnotations};

/// The key agreement of WireGuard.
pub const ALGORITHM: &str = "X25519 (RFC 7748)";
/// Security strength of a key agreement on a curve of 255 bits (NIST SP 800-57 part 1 revision 5, table 2).
pub const STRENGTH_BITS: u32 = 128;

/// All keys that the nodes of a cluster trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// When the Nodes were read.
    pub at: Timestamp,
    /// What keys are compared with.
    pub policy: KeyringPolicy,
    /// The keys, by Node.
    pub keys: Vec<TrustedKey>,
    /// Nodes whose annotations cannot be read. Other nodes trust none of their keys.
    pub unreadable: Vec<Unreadable>,
    /// Nodes that publish no key: not members of the fabric.
    pub without_key: Vec<String>,
}

/// A trusted key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustedKey {
    /// The Node that publishes it.
    pub node: String,
    /// Why it is trusted.
    pub state: TrustedState,
    /// Always [`ALGORITHM`].
    pub algorithm: &'static str,
    /// Always [`STRENGTH_BITS`].
    pub strength_bits: u32,
    /// [`PublicKey::fingerprint`].
    pub fingerprint: String,
    /// The key.
    pub public_key: PublicKey,
    /// Its number on this node.
    pub epoch: u64,
    /// When it was made; not published of a next key.
    pub created: Option<Timestamp>,
    /// Seconds since then; 0 for a time that is still to come.
    pub age_seconds: Option<i64>,
    /// How long it may be used.
    #[serde(with = "duration::text")]
    pub cryptoperiod: std::time::Duration,
    /// The end of its cryptoperiod.
    pub expires: Option<Timestamp>,
    /// Who is responsible for it.
    pub custodian: String,
}

/// Why a key is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TrustedState {
    /// Peers use it now.
    Current,
    /// Peers use it now, on a further lane.
    Lane,
    /// Peers use it once it is promoted: a rotation runs.
    Next,
    /// The same, on a further lane.
    NextLane,
}

impl fmt::Display for TrustedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Current => "current",
            Self::Lane => "lane",
            Self::Next => "next",
            Self::NextLane => "next lane",
        })
    }
}

/// A Node whose annotations cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unreadable {
    /// The Node.
    pub node: String,
    /// What is wrong, a sentence for each annotation.
    pub problems: Vec<String>,
}

impl Inventory {
    /// Of what these Nodes publish.
    #[must_use]
    pub fn new(publications: &[Publication], policy: KeyringPolicy, now: Timestamp) -> Self {
        let (mut keys, mut unreadable, mut without_key) = (Vec::new(), Vec::new(), Vec::new());
        for Publication { node, annotations, .. } in publications {
            match annotation::parse(annotations) {
                Ok(Some(published)) => {
                    let trusted = trusted(&published);
                    keys.extend(
                        trusted.map(|trusted| TrustedKey::new(node, &published, trusted, &policy, now)),
                    );
                }
                Ok(None) => without_key.push(node.clone()),
                Err(errors) => {
                    let problems = errors.iter().map(ToString::to_string).collect();
                    unreadable.push(Unreadable { node: node.clone(), problems });
                }
            }
        }
        Self { at: now, policy, keys, unreadable, without_key }
    }
}

/// Every key of a Node, and why it is trusted.
pub(super) fn trusted(published: &NodeAnnotations) -> impl Iterator<Item = (TrustedState, PublicKey)> + '_ {
    let keys = |keys: &annotation::Keys, main: TrustedState, lane: TrustedState| {
        let lanes = keys.lanes.iter().map(move |key| (lane, *key));
        std::iter::once((main, keys.public_key)).chain(lanes).collect::<Vec<_>>()
    };
    let next =
        published.next_keys.as_ref().map(|next| keys(next, TrustedState::Next, TrustedState::NextLane));
    keys(&published.keys, TrustedState::Current, TrustedState::Lane)
        .into_iter()
        .chain(next.into_iter().flatten())
}

impl TrustedKey {
    fn new(
        node: &str,
        published: &NodeAnnotations,
        (state, public_key): (TrustedState, PublicKey),
        policy: &KeyringPolicy,
        now: Timestamp,
    ) -> Self {
        let is_next = matches!(state, TrustedState::Next | TrustedState::NextLane);
        let created = published.key_created.filter(|_| !is_next);
        Self {
            node: node.to_owned(),
            state,
            algorithm: ALGORITHM,
            strength_bits: STRENGTH_BITS,
            fingerprint: public_key.fingerprint(),
            public_key,
            epoch: published.key_epoch + u64::from(is_next),
            created,
            age_seconds: created
                .map(|created| now.duration_since(created).max(SignedDuration::ZERO).as_secs()),
            cryptoperiod: policy.cryptoperiod,
            expires: created.and_then(|created| created.checked_add(policy.cryptoperiod).ok()),
            custodian: policy.custodian.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// A public key that can be a peer's.
    pub(crate) fn key(number: u8) -> String {
        selvedge_keys::PrivateKey::from_bytes([number; 32]).public_key().to_string()
    }

    /// What a Node with these annotations, without their prefix, publishes.
    pub(crate) fn publication(node: &str, annotations: &[(&str, &str)]) -> Publication {
        let annotations =
            annotations.iter().map(|(name, text)| (format!("selvedge.dev/{name}"), (*text).to_owned()));
        Publication { node: node.into(), annotations: annotations.collect(), next_since: None }
    }

    pub(crate) fn policy(days: u32) -> KeyringPolicy {
        let cryptoperiod = Duration::from_secs(86_400) * days;
        KeyringPolicy { cryptoperiod, custodian: "Ops".into(), source: "the command line".into() }
    }

    #[test]
    fn every_key_is_listed_with_what_an_auditor_asks_for() {
        let [current, lane, next, next_lane] = [1, 2, 3, 4].map(key);
        let rotating = publication(
            "a",
            &[
                ("public-key", &current),
                ("lane-keys", &lane),
                ("next-public-key", &next),
                ("next-lane-keys", &next_lane),
                ("key-epoch", "7"),
                ("key-created", "2026-01-01T00:00:00Z"),
            ],
        );
        let old = publication("b", &[("public-key", &key(5)), ("key-epoch", "1")]);
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let inventory = Inventory::new(&[rotating, old], policy(90), now);
        let of = |key: &TrustedKey| (key.node.clone(), key.state, key.epoch, key.public_key.to_string());
        assert_eq!(
            inventory.keys.iter().map(of).collect::<Vec<_>>(),
            [
                ("a".into(), TrustedState::Current, 7, current),
                ("a".into(), TrustedState::Lane, 7, lane),
                ("a".into(), TrustedState::Next, 8, next),
                ("a".into(), TrustedState::NextLane, 8, next_lane),
                ("b".into(), TrustedState::Current, 1, key(5)),
            ]
        );
        let first = serde_json::to_value(&inventory.keys[0]).unwrap();
        for (name, expected) in [
            ("algorithm", "X25519 (RFC 7748)"),
            ("fingerprint", inventory.keys[0].public_key.fingerprint().as_str()),
            ("created", "2026-01-01T00:00:00Z"),
            ("cryptoperiod", "90d"),
            ("expires", "2026-04-01T00:00:00Z"),
            ("custodian", "Ops"),
            ("state", "current"),
        ] {
            assert_eq!(first[name], expected, "{name}");
        }
        assert_eq!(
            (&first["strengthBits"], &first["ageSeconds"]),
            (&128.into(), &(30 * 86_400 + 43_200).into())
        );
        assert_eq!(
            inventory.keys[1].created, inventory.keys[0].created,
            "lane keys are made with the others"
        );
        for unknown in [&inventory.keys[2], &inventory.keys[4]] {
            assert_eq!((unknown.created, unknown.age_seconds, unknown.expires), (None, None, None));
        }
    }

    #[test]
    fn a_node_that_cannot_be_read_is_listed_with_the_reason() {
        let nodes = [
            publication("bad", &[("public-key", "x"), ("key-epoch", "0")]),
            publication("none", &[("location", "here")]),
        ];
        let inventory = Inventory::new(&nodes, policy(90), Timestamp::UNIX_EPOCH);
        assert!(inventory.keys.is_empty());
        assert_eq!(inventory.without_key, ["none"]);
        let Unreadable { node, problems } = &inventory.unreadable[0];
        assert_eq!((node.as_str(), problems.len()), ("bad", 2), "{problems:?}");
        assert!(problems[0].starts_with("selvedge.dev/public-key: ") && problems[1].contains("key-epoch"));
    }

    #[test]
    fn a_key_from_the_future_has_no_negative_age() {
        let node = publication(
            "a",
            &[("public-key", &key(1)), ("key-epoch", "1"), ("key-created", "2026-01-01T00:00:00Z")],
        );
        let inventory = Inventory::new(&[node], policy(1), Timestamp::UNIX_EPOCH);
        assert_eq!(inventory.keys[0].age_seconds, Some(0));
    }
}
