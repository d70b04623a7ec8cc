//! From the control API's configuration to the device's, with the private keys from the store.

use selvedge_keys::KeyReader;

use super::ChangeError;
use crate::mtu;
use crate::tunnel::api::{DeviceConfig, PeerConfig};
use crate::tunnel::device::config::{Config, Identity, Peer, PeerKey};

/// The configuration with its keys.
pub(super) fn resolve(config: &DeviceConfig) -> Result<Config, ChangeError> {
    check(config)?;
    let identities: Result<Vec<_>, _> =
        config.identities.iter().map(|identity| load(config, identity.epoch)).collect();
    Ok(Config {
        identities: identities?,
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

fn load(config: &DeviceConfig, epoch: u64) -> Result<Identity, ChangeError> {
    if !config.key_store.is_dir() {
        let folder = config.key_store.display();
        return Err(ChangeError::Invalid(format!("the key store {folder} is no folder")));
    }
    let keys = KeyReader::open(&config.key_store).and_then(|store| store.load(epoch));
    let keys = keys.map_err(|source| ChangeError::Key { epoch, source })?;
    Ok(Identity { epoch, private_key: keys.private_key })
}

fn peer(peer: &PeerConfig) -> Peer {
    let keys = peer.keys.iter().map(|key| PeerKey {
        public_key: key.public_key,
        epoch: key.epoch,
        preshared_key: None,
    });
    Peer {
        name: peer.name.clone(),
        keys: keys.collect(),
        endpoints: peer.endpoints.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        persistent_keepalive: peer.persistent_keepalive,
    }
}
