//! From the control API's configuration to the device's, with the private keys from the store.

use selvedge_keys::{KeyReader, StoreError};

use super::ChangeError;
use crate::mtu;
use crate::tunnel::api::{DeviceConfig, IdentityConfig, PeerConfig};
use crate::tunnel::device::config::{Config, Identity, Peer, PeerKey};

/// The configuration with its keys.
pub(super) fn resolve(config: &DeviceConfig) -> Result<Config, ChangeError> {
    check(config)?;
    Ok(Config {
        identities: identities(config)?,
        peers: config.peers.iter().map(peer).collect(),
        proposes: true,
        ..Config::default()
    })
}

fn check(config: &DeviceConfig) -> Result<(), ChangeError> {
    let least = mtu::least(false);
    if u32::from(config.mtu) < least {
        return Err(ChangeError::Invalid(format!("mtu {} is less than {least}", config.mtu)));
    }
    match config.peers.iter().find(|peer| peer.name.is_empty()) {
        Some(_) => Err(ChangeError::Invalid("a peer has no name".into())),
        None => Ok(()),
    }
}

/// The own keys. One that the store has no longer is left out, as long as there is another: the rest of the configuration
/// counts all the same.
fn identities(config: &DeviceConfig) -> Result<Vec<Identity>, ChangeError> {
    let (mut found, mut missing) = (Vec::new(), None);
    for identity in &config.identities {
        match load(config, *identity) {
            Ok(loaded) => found.push(loaded),
            Err(error @ ChangeError::Key { source: StoreError::Missing { .. }, .. }) => {
                tracing::warn!(%error, epoch = identity.epoch, "key missing from the store, continuing without it");
                missing = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

fn load(config: &DeviceConfig, identity: IdentityConfig) -> Result<Identity, ChangeError> {
    let IdentityConfig { epoch, withdrawn: is_withdrawn } = identity;
    if !config.key_store.is_dir() {
        let folder = config.key_store.display();
        return Err(ChangeError::Invalid(format!("the key store {folder} is no folder")));
    }
    let keys = KeyReader::open(&config.key_store).and_then(|store| store.load(epoch));
    let keys = keys.map_err(|source| ChangeError::Key { epoch, source })?;
    Ok(Identity { epoch, private_key: keys.private_key, is_withdrawn })
}

fn peer(peer: &PeerConfig) -> Peer {
    let keys = peer.keys.iter().map(|key| PeerKey {
        public_key: key.public_key,
        epoch: key.epoch,
        preshared_key: None,
        is_retired: key.retired,
    });
    Peer {
        name: peer.name.clone(),
        keys: keys.collect(),
        endpoints: peer.endpoints.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        persistent_keepalive: peer.persistent_keepalive,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use selvedge_keys::KeyStore;

    use super::*;

    #[test]
    fn an_epoch_missing_from_the_store_does_not_refuse_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let key_store = folder.path().join("keys");
        KeyStore::open(&key_store).unwrap().ensure(Timestamp::now()).unwrap();
        let config = |epochs: &[u64]| DeviceConfig {
            key_store: key_store.clone(),
            identities: epochs
                .iter()
                .map(|epoch| IdentityConfig { epoch: *epoch, withdrawn: false })
                .collect(),
            listen_port: 0,
            mtu: 1420,
            firewall_mark: None,
            peers: Vec::new(),
        };
        let loaded = |epochs: &[u64]| {
            resolve(&config(epochs))
                .map(|config| config.identities.iter().map(|own| own.epoch).collect::<Vec<_>>())
        };
        assert_eq!(loaded(&[1, 2]).unwrap(), [1]);
        assert!(matches!(loaded(&[2]), Err(ChangeError::Key { epoch: 2, .. })), "a device needs a key");
        std::fs::write(key_store.join("epoch-2"), "damaged").unwrap();
        assert!(loaded(&[1, 2]).is_err(), "a damaged key is not a missing one");
    }
}
