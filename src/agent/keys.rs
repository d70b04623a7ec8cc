//! This node's own keys: made on first start, never read out again but for their public halves.

use std::collections::BTreeMap;

use anyhow::Context as _;
use jiff::Timestamp;
use selvedge_keys::{KeyStore, NodeKeys, PublicKey, StoreError};

use crate::mesh::annotation::{self, Keys as Published};
use crate::mesh::resolve::superseded;
use crate::paths::Paths;
use crate::tunnel::api::IdentityConfig;

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
    ) -> Result<Vec<String>, StoreError> {
        let Some(floor) = self.floor(annotations) else { return Ok(Vec::new()) };
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
