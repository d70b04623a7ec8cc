//! Taking a configuration: looked at whole first, so that a refused one changes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use selvedge_keys::PublicKey;

use super::config::{self, Config, ConfigError, PeerChanges};
use super::identity::{Identity, OwnKey};
use super::peer::Peer;
use super::routes::Routes;
use super::{Device, PeerIndex};

impl Device {
    /// Makes `config` the whole configuration. Sessions of unchanged keys stay; the same again changes nothing,
    /// and endpoints that roamed stay as they are. Handshakes with new peers begin at the next timeout.
    ///
    /// # Errors
    /// When the configuration contradicts itself; then nothing of it is applied.
    pub fn apply(&mut self, config: &Config, now: Instant) -> Result<PeerChanges, ConfigError> {
        check(config)?;
        let mut changes = PeerChanges::default();
        let rekeyed = self.apply_identities(&config.identities);
        let mut rerouted = self.remove_absent(config, &mut changes);
        let mut free = self.free_places();
        for peer in &config.peers {
            rerouted |= self.apply_peer(peer, config, rekeyed, now, &mut free, &mut changes);
        }
        self.keys = self
            .peers()
            .flat_map(|peer| {
                let keys = peer.config.keys.iter().filter(|key| !key.is_retired);
                keys.map(|key| (key.public_key, peer.index))
            })
            .collect();
        let places = self.peers().filter_map(|peer| Some((peer.endpoint?.address, peer.index)));
        self.places = places.collect();
        if rerouted {
            self.routes = Routes::new(
                self.peers().flat_map(|peer| prefixes(&peer.config).map(|net| (net, peer.index))),
            );
        }
        if self.peers().any(Peer::is_active) {
            self.next_tick = Some(now);
        }
        Ok(changes)
    }

    /// True when the set of own keys or their epochs changed.
    fn apply_identities(&mut self, wanted: &[config::Identity]) -> bool {
        let form = |own: &OwnKey| (own.epoch, own.identity.public(), own.is_withdrawn);
        let mut before = std::mem::take(&mut self.identities);
        let old: Vec<_> = before.iter().map(form).collect();
        for config::Identity { epoch, private_key, is_withdrawn } in wanted {
            let public = private_key.public_key();
            let kept = before.iter().position(|known| known.identity.public() == public);
            let identity = kept
                .map_or_else(|| Arc::new(Identity::new(private_key)), |at| before.swap_remove(at).identity);
            self.identities.push(OwnKey { epoch: *epoch, identity, is_withdrawn: *is_withdrawn });
        }
        self.identities.sort_by_key(|own| std::cmp::Reverse(own.epoch));
        !self.identities.iter().map(form).eq(old)
    }

    fn remove_absent(&mut self, config: &Config, changes: &mut PeerChanges) -> bool {
        let wanted: HashSet<&str> = config.peers.iter().map(|peer| peer.name.as_str()).collect();
        for place in &mut self.peers {
            if let Some(peer) = place
                && !wanted.contains(peer.config.name.as_str())
            {
                peer.clear(&mut self.shared);
                changes.removed.push(peer.config.name.clone());
                *place = None;
            }
        }
        self.names.retain(|name, _| wanted.contains(name.as_str()));
        if !changes.removed.is_empty() {
            let peers = &self.peers;
            self.shared.starts.retain(|index| peers[index.0 as usize].is_some());
        }
        !changes.removed.is_empty()
    }

    /// Adds or changes one peer; true when its allowed IPs changed.
    fn apply_peer(
        &mut self,
        config: &config::Peer,
        &Config { proposes, ref heard, .. }: &Config,
        rekeyed: bool,
        now: Instant,
        free: &mut Vec<usize>,
        changes: &mut PeerChanges,
    ) -> bool {
        let known = self.names.get(&config.name).and_then(|index| super::at(&mut self.peers, *index));
        if let Some(peer) = known {
            let rerouted = peer.config.allowed_ips != config.allowed_ips;
            let changed = peer.configure(config, proposes, &mut self.shared, now);
            if changed {
                changes.changed.push(config.name.clone());
            }
            if changed || rekeyed {
                peer.arrange(&self.identities, &mut self.shared, now);
            }
            return rerouted;
        }
        let mut peer = Peer::new(self.take_place(free), config, heard.get(&config.name).copied());
        self.shared.known.add(peer.sites());
        peer.arrange(&self.identities, &mut self.shared, now);
        peer.persistent_due = config.persistent_keepalive.map(|_| now);
        peer.wanted_since = peer.endpoint.map(|_| now); // the other end may hold sessions that we lost
        changes.added.push(config.name.clone());
        self.names.insert(config.name.clone(), peer.index);
        let at = peer.index.0 as usize;
        self.peers[at] = Some(peer);
        true
    }

    /// The places without a peer, the first last.
    fn free_places(&self) -> Vec<usize> {
        (0..self.peers.len()).rev().filter(|place| self.peers[*place].is_none()).collect()
    }

    /// One of the `free` places, or a new one.
    fn take_place(&mut self, free: &mut Vec<usize>) -> PeerIndex {
        let free = free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        PeerIndex(u32::try_from(free).expect("there are fewer than 2^32 peers in memory"))
    }
}

fn prefixes(peer: &config::Peer) -> impl Iterator<Item = IpNet> {
    peer.allowed_ips.iter().map(IpNet::trunc)
}

fn check(config: &Config) -> Result<(), ConfigError> {
    unique(config.identities.iter().map(|identity| identity.epoch), |epoch| {
        format!("own identity of epoch {epoch}")
    })?;
    unique(config.peers.iter().map(|peer| &peer.name), |name| format!("peer {name}"))?;
    for peer in &config.peers {
        unique(peer.keys.iter().map(|key| key.epoch), |epoch| {
            format!("key of epoch {epoch} of peer {}", peer.name)
        })?;
    }
    check_keys(config)?;
    check_prefixes(config)
}

fn unique<T: std::hash::Hash + Eq + Copy>(
    items: impl Iterator<Item = T>,
    name: impl Fn(T) -> String,
) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(ConfigError::Duplicate { what: name(item) });
        }
    }
    Ok(())
}

fn check_keys(config: &Config) -> Result<(), ConfigError> {
    let mut holders: HashMap<PublicKey, &str> = HashMap::new();
    for identity in &config.identities {
        if holders.insert(identity.private_key.public_key(), "this device").is_some() {
            return Err(ConfigError::Duplicate { what: format!("own key of epoch {}", identity.epoch) });
        }
    }
    for peer in &config.peers {
        for key in &peer.keys {
            if let Some(holder) = holders.insert(key.public_key, &peer.name) {
                let (key, peer, holder) = (key.public_key, peer.name.clone(), holder.to_owned());
                return Err(ConfigError::DuplicateKey { key, peer, holder });
            }
        }
    }
    Ok(())
}

fn check_prefixes(config: &Config) -> Result<(), ConfigError> {
    let mut holders: HashMap<IpNet, &str> = HashMap::new();
    for peer in &config.peers {
        for prefix in prefixes(peer) {
            let first = holders.insert(prefix, &peer.name).filter(|first| *first != peer.name);
            if let Some(first) = first {
                let (first, second) = (first.to_owned(), peer.name.clone());
                return Err(ConfigError::OverlappingAllowedIps { prefix, first, second });
            }
        }
    }
    Ok(())
}
