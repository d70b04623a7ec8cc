//! Entries: the events, and the line that holds one.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::sum::Sha256Sum;
use super::text::{Escaped, Text};
use crate::key::PublicKey;

/// Most bytes of a line, without its newline.
pub const MAX_LINE: usize = 4096;
/// Most public keys in one entry. With three texts of 768 bytes the line stays below [`MAX_LINE`].
const MAX_KEYS: usize = 24;

/// What happened. No field can hold a private key or a preshared key: those have no serde form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// The agent made the keys of an epoch.
    KeyCreated {
        /// Number of the keys, as in [`NodeKeys::epoch`](crate::NodeKeys::epoch).
        epoch: u64,
        /// Public key of lane 0.
        public_key: PublicKey,
    },
    /// The agent published a public key to the cluster.
    KeyPublished {
        /// Epoch of the key.
        epoch: u64,
        /// Public key of lane 0.
        public_key: PublicKey,
    },
    /// A peer confirmed that it accepts the key of an epoch.
    PeerConfirmed {
        /// Epoch that the peer confirmed.
        epoch: u64,
        /// Node name of the peer.
        peer: Text,
    },
    /// The agent put the keys of an epoch into use.
    KeyPromoted {
        /// Epoch now in use.
        epoch: u64,
        /// Public key of lane 0.
        public_key: PublicKey,
        /// Number of peers that had confirmed the epoch by then.
        confirmed: u64,
        /// Number of peers that were live by then.
        live: u64,
    },
    /// The agent deleted the keys of an epoch.
    KeyRetired {
        /// Epoch of the deleted keys.
        epoch: u64,
        /// Public key of lane 0.
        public_key: PublicKey,
        /// Why, for people.
        reason: Text,
    },
    /// Someone revoked the keys of a node. More than 24 keys are written as several entries.
    KeyRevoked {
        /// Name of the node.
        node: Text,
        /// UID of its Node object.
        uid: Text,
        /// The keys that peers no longer accept.
        public_keys: Vec<PublicKey>,
        /// User or controller that revoked them.
        by: Text,
    },
    /// Someone readmitted a node whose keys were revoked.
    NodeReadmitted {
        /// Name of the node.
        node: Text,
        /// UID of its Node object.
        uid: Text,
        /// User or controller that readmitted it.
        by: Text,
    },
    /// The agent refused what a node claimed about itself.
    ClaimRefused {
        /// Name of the node.
        node: Text,
        /// UID of its Node object.
        uid: Text,
        /// Why, for people.
        reason: Text,
    },
    /// Someone requested a rotation.
    RotationRequested {
        /// Name of the rotation.
        id: Text,
        /// User or controller that requested it.
        by: Text,
        /// Why, for people.
        reason: Text,
        /// When the rotation has to have ended.
        deadline: Timestamp,
    },
    /// The agent resumed a rotation after a restart.
    RotationResumed {
        /// Name of the rotation.
        id: Text,
        /// Phase in which it resumed.
        phase: Text,
    },
    /// The agent aborted a rotation.
    RotationAborted {
        /// Name of the rotation.
        id: Text,
        /// Who asked for it.
        by: Text,
        /// Why, for people.
        reason: Text,
    },
    /// A rotation ended.
    RotationEnded {
        /// Name of the rotation.
        id: Text,
        /// How it ended.
        outcome: Text,
    },
    /// The guard was opened: packets may leave the node outside the tunnel.
    GuardOpened {
        /// Why, for people.
        reason: Text,
    },
    /// The guard was closed.
    GuardClosed {},
    /// The agent started.
    AgentStarted {
        /// Version of the agent.
        version: Text,
    },
    /// Written by the log itself: a last line that was not complete was cut off.
    #[non_exhaustive]
    Repaired {
        /// Number of bytes cut off.
        bytes: u64,
        /// Their hash, without the newline if they ended with one.
        sha256: Sha256Sum,
    },
    /// Written by the log itself: the oldest file is deleted.
    #[non_exhaustive]
    Pruned {
        /// Number of the last line that is deleted.
        through: u64,
        /// Hash of that line.
        hash: Sha256Sum,
    },
    /// Written by the log itself: on opening, the chain was broken. The file is left as it is, and this entry
    /// names the hash of its last line.
    #[non_exhaustive]
    Damaged {
        /// Name of the file in the folder of the log.
        file: Text,
        /// Line in the file, from 1.
        line: u64,
        /// What is wrong with the line.
        reason: Text,
    },
}

impl Event {
    /// The event as events that each fit a line.
    pub(crate) fn parts(&self) -> Vec<Cow<'_, Self>> {
        match self {
            Self::KeyRevoked { node, uid, public_keys, by } if public_keys.len() > MAX_KEYS => {
                let part = |keys: &[PublicKey]| Self::KeyRevoked {
                    node: node.clone(),
                    uid: uid.clone(),
                    public_keys: keys.to_vec(),
                    by: by.clone(),
                };
                public_keys.chunks(MAX_KEYS).map(|keys| Cow::Owned(part(keys))).collect()
            }
            event => vec![Cow::Borrowed(event)],
        }
    }
}

/// One entry, as read from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the line, from 1; grows by one.
    pub number: u64,
    /// When the event was recorded, by the clock of the node; it can go back.
    pub at: Timestamp,
    /// What happened.
    pub event: Recorded,
    /// Hash of the line before.
    pub previous: Sha256Sum,
}

/// The event of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// An event that this version knows.
    Known(Event),
    /// An event that only a later version knows.
    Unknown {
        /// Name of the event.
        event: String,
        /// The whole line, a JSON object.
        line: String,
    },
}

/// What every line has, whatever its event.
#[derive(Debug, Deserialize)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    #[serde(deserialize_with = "utc")]
    pub(crate) at: Timestamp,
    pub(crate) event: String,
    pub(crate) previous: Sha256Sum,
}

impl Frame {
    /// Reads a line without its newline; None if it is not the line of an entry.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

impl Entry {
    /// Reads a line without its newline; None if it is not the line of an entry.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let Frame { number, at, event, previous } = Frame::parse(line)?;
        let event = match serde_json::from_slice(line) {
            Ok(event) => Recorded::Known(event),
            Err(_) => Recorded::Unknown { event, line: String::from_utf8(line.to_vec()).ok()? },
        };
        Some(Self { number, at, event, previous })
    }
}

/// The line of an entry, without its newline.
pub(crate) fn encode(number: u64, at: Timestamp, event: &Event, previous: Sha256Sum) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a> {
        number: u64,
        at: Timestamp,
        #[serde(flatten)]
        event: &'a Event,
        previous: Sha256Sum,
    }
    let mut line = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut line, Escaped);
    let entry = Line { number, at, event, previous };
    entry.serialize(&mut serializer).expect("every field has a JSON form, and a Vec takes any bytes");
    line
}

/// A time of RFC 3339 in UTC, with the suffix Z.
fn utc<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    use serde::de::Error as _;
    let text = String::deserialize(deserializer)?;
    let time = text.parse().ok().filter(|_| text.ends_with('Z'));
    time.ok_or_else(|| D::Error::custom("not a time of RFC 3339 in UTC"))
}
