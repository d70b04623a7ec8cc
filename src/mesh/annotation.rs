//! The annotations by which a node tells the others how to reach it, as typed values.
//!
//! Reading them costs little whatever they hold: every value has a bound on its length that is looked at first.

mod error;
mod patch;
mod read;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use selvedge_keys::{NodeKeys, PublicKey};

pub use crate::config::MAX_ENDPOINTS;
pub use error::{AnnotationError, Problem};
pub use patch::merge_patch;
pub use read::{parse, public_keys};

/// What every annotation of Selvedge begins with.
pub const PREFIX: &str = "selvedge.dev/";
/// The key that peers should use now, base64. A Node without it is no member of the fabric.
pub const PUBLIC_KEY: &str = "selvedge.dev/public-key";
/// Keys of the further lanes, comma-separated.
pub const LANE_KEYS: &str = "selvedge.dev/lane-keys";
/// The key of the epoch to come, while a rotation runs.
pub const NEXT_PUBLIC_KEY: &str = "selvedge.dev/next-public-key";
/// Lane keys of the epoch to come.
pub const NEXT_LANE_KEYS: &str = "selvedge.dev/next-lane-keys";
/// Number of the key, from 1 to [`MAX_EPOCH`]; only grows. The next key has the number after it.
pub const KEY_EPOCH: &str = "selvedge.dev/key-epoch";
/// When the key was made, RFC 3339.
pub const KEY_CREATED: &str = "selvedge.dev/key-created";
/// `ip:port` candidates in order of preference, comma-separated.
pub const ENDPOINTS: &str = "selvedge.dev/endpoints";
/// Copy of `spec.podCIDRs`.
pub const POD_CIDRS: &str = "selvedge.dev/pod-cidrs";
/// Copy of the internal ones of `status.addresses`.
pub const NODE_ADDRESSES: &str = "selvedge.dev/node-addresses";
/// Site or cloud.
pub const LOCATION: &str = "selvedge.dev/location";
/// What the other side may rely on, comma-separated: `lanes=4`, `pq-psk`, ...
pub const FEATURES: &str = "selvedge.dev/features";

/// Every annotation that a node writes on its own object; others with the prefix belong to operators.
pub const NAMES: [&str; 11] = [
    PUBLIC_KEY,
    LANE_KEYS,
    NEXT_PUBLIC_KEY,
    NEXT_LANE_KEYS,
    KEY_EPOCH,
    KEY_CREATED,
    ENDPOINTS,
    POD_CIDRS,
    NODE_ADDRESSES,
    LOCATION,
    FEATURES,
];

/// The highest epoch: the largest integer that every JSON reader takes exactly (RFC 8259, section 6). The admission policy
/// lets an epoch grow by at most 65,536 in one write, so that nobody gets there and a real key can always follow a false one.
pub const MAX_EPOCH: u64 = (1 << 53) - 1;
/// Most bytes that one value may have.
pub const MAX_VALUE: usize = 8192;
/// Most internal addresses that a node may publish.
pub const MAX_NODE_ADDRESSES: usize = 16;
/// Most lanes beside the first.
pub const MAX_LANES: usize = 63;
/// Most features that a node may publish.
pub const MAX_FEATURES: usize = 32;

/// The keys of one epoch: that of lane 0, which any WireGuard peer uses, and those of the further lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Key of lane 0.
    pub public_key: PublicKey,
    /// Keys of the further lanes.
    pub lanes: Vec<PublicKey>,
}

impl Keys {
    /// All keys, that of lane 0 first.
    pub fn iter(&self) -> impl Iterator<Item = PublicKey> {
        std::iter::once(self.public_key).chain(self.lanes.iter().copied())
    }
}

impl From<&NodeKeys> for Keys {
    fn from(keys: &NodeKeys) -> Self {
        let lanes = keys.lanes.iter().map(|lane| lane.public_key()).collect();
        Self { public_key: keys.private_key.public_key(), lanes }
    }
}

/// What a node publishes of itself. Values that [`parse`] gave are well formed; whether to believe them is for
/// [`resolve`](super::resolve::resolve()) to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAnnotations {
    /// Keys to use now.
    pub keys: Keys,
    /// Keys of the epoch to come, `key_epoch` + 1, while a rotation runs.
    pub next_keys: Option<Keys>,
    /// Number of the keys, from 1 to [`MAX_EPOCH`].
    pub key_epoch: u64,
    /// When they were made.
    pub key_created: Option<Timestamp>,
    /// Candidates in order of preference, each once.
    pub endpoints: Vec<SocketAddr>,
    /// Copy of `spec.podCIDRs`, ascending, at most one of a family; empty while the node waits for some.
    pub pod_cidrs: Vec<IpNet>,
    /// Copy of the internal addresses of `status.addresses`, ascending.
    pub node_addresses: Vec<IpAddr>,
    /// Site or cloud.
    pub location: Option<String>,
    /// What the other side may rely on, as published.
    pub features: Vec<String>,
}

/// The annotations in their text form. [`parse`] gives back the same values.
#[must_use]
pub fn render(node: &NodeAnnotations) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut put = |name: &str, text: String| {
        if !text.is_empty() {
            texts.insert(name.to_owned(), text);
        }
    };
    put(PUBLIC_KEY, node.keys.public_key.to_string());
    put(LANE_KEYS, list(&node.keys.lanes));
    if let Some(next) = &node.next_keys {
        put(NEXT_PUBLIC_KEY, next.public_key.to_string());
        put(NEXT_LANE_KEYS, list(&next.lanes));
    }
    put(KEY_EPOCH, node.key_epoch.to_string());
    put(KEY_CREATED, node.key_created.map(|time| time.to_string()).unwrap_or_default());
    put(ENDPOINTS, list(&node.endpoints));
    put(POD_CIDRS, list(&node.pod_cidrs));
    put(NODE_ADDRESSES, list(&node.node_addresses));
    put(LOCATION, node.location.clone().unwrap_or_default());
    put(FEATURES, list(&node.features));
    texts
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub(super) mod tests;
