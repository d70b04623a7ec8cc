//! This node's own keys: made on first start, never read out again but for their public halves.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;
use selvedge_keys::{KeyStore, NodeKeys, PublicKey, StoreError};

use crate::mesh::annotation::{self, Keys as Published, MAX_EPOCH};
use crate::mesh::resolve::superseded;
use crate::paths::Paths;
use crate::tunnel::api::IdentityConfig;

/// Why there are no newer keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// The store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No epoch follows the one that the Node object shows.
    #[error(
        "the Node object shows other keys of epoch {MAX_EPOCH}, the last one; delete the Node object and restart its \
         kubelet, which registers it again: a new Node object may begin with any epoch"
    )]
    LastEpoch,
}

/// The key store, and the public halves of the keys that this node uses now.
#[derive(Debug)]
pub(super) struct Keys {
    store: KeyStore,
    epoch: u64,
    created: Timestamp,
    published: Published,
}

impl Keys {
    /// Opens the store, and makes the first key when there is none.
    pub(super) fn open(paths: &Paths) -> anyhow::Result<Self> {
        let store = KeyStore::open(paths.keys()).context("cannot open the key store")?;
        let keys: NodeKeys = store.ensure(Timestamp::now()).context("cannot make or read this node's key")?;
        tracing::info!(epoch = keys.epoch, public_key = %keys.private_key.public_key(), "this node's key");
        let (epoch, created, published) = (keys.epoch, keys.created, Published::from(&keys));
        Ok(Self { store, epoch, created, published })
    }

    /// Makes newer keys when this node's own object already shows others of this epoch or a later one: the store was
    /// lost or is an old copy, and other nodes believe only keys newer than those. Returns what was done.
    pub(super) fn keep_ahead(
        &mut self,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, KeysError> {
        let Some(floor) = self.floor(annotations) else { return Ok(Vec::new()) };
        if floor >= MAX_EPOCH {
            return Err(KeysError::LastEpoch);
        }
        let keys = self.store.supersede(floor, Timestamp::now())?;
        (self.epoch, self.created, self.published) = (keys.epoch, keys.created, Published::from(&keys));
        Ok(vec![format!(
            "keys of epoch {}, because the Node object shows others of epoch {floor}",
            self.epoch
        )])
    }

    /// Whether these annotations show other keys of this epoch or a later one.
    pub(super) fn is_behind(&self, annotations: &BTreeMap<String, String>) -> bool {
        self.floor(annotations).is_some()
    }

    /// What cannot be read is written again anyway.
    fn floor(&self, annotations: &BTreeMap<String, String>) -> Option<u64> {
        let shown = annotation::parse(annotations).ok()??;
        superseded(&shown, self.epoch, &self.published)
    }

    /// Epoch and key for people.
    pub(super) fn current(&self) -> (u64, PublicKey) {
        (self.epoch, self.published.public_key)
    }

    /// For the tunnel, which reads the private half from the store.
    pub(super) fn identities(&self) -> Vec<IdentityConfig> {
        vec![IdentityConfig { epoch: self.epoch }]
    }

    /// For the annotations.
    pub(super) fn published(&self) -> (Published, u64, Timestamp) {
        (self.published.clone(), self.epoch, self.created)
    }

    /// Every own public key.
    pub(super) fn all(&self) -> Vec<PublicKey> {
        self.published.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::annotation::{KEY_EPOCH, PUBLIC_KEY};

    #[test]
    fn keys_follow_those_on_the_node_object_as_long_as_an_epoch_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::open(folder.path().join("keys")).unwrap();
        let first = store.ensure(Timestamp::now()).unwrap();
        let mut keys =
            Keys { epoch: first.epoch, created: first.created, published: Published::from(&first), store };
        let other = NodeKeys::generate(1, 0, Timestamp::now()).unwrap().private_key.public_key();
        let shown = |epoch: u64| -> BTreeMap<String, String> {
            [(PUBLIC_KEY, other.to_string()), (KEY_EPOCH, epoch.to_string())]
                .map(|(name, text)| (name.to_owned(), text))
                .into()
        };
        assert!(matches!(keys.keep_ahead(&shown(MAX_EPOCH)), Err(KeysError::LastEpoch)));
        assert_eq!(keys.current().0, 1, "the store is as before");
        keys.keep_ahead(&shown(MAX_EPOCH - 1)).unwrap();
        assert_eq!(keys.current().0, MAX_EPOCH);
        let (published, epoch, _) = keys.published();
        let texts =
            shown(epoch).into_iter().chain([(PUBLIC_KEY.to_owned(), published.public_key.to_string())]);
        assert!(annotation::parse(&texts.collect()).unwrap().is_some(), "others read the last one, too");
    }
}
