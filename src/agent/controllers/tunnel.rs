//! The tunnel's configuration: this node's identities and its peers. It counts as applied once the tunnel has answered
//! that it runs it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use selvedge_keys::PublicKey;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::session::Session;
use crate::local::{Client, ClientError, encode};
use crate::mesh::resolve::{Peer, PeerKeys};
use crate::tunnel::api::{Applied, DeviceConfig, PeerConfig, PeerKeyConfig, RETIRED_KEYS};

/// Up to this number of changed peers are sent one by one, and not with all others.
const FEW: usize = 16;

pub(in crate::agent) struct Tunnel {
    context: Arc<Context>,
    client: Client,
    /// What the tunnel runs, in which of its lives; none when that is not known.
    applied: Option<(u64, Wanted)>,
    /// The next key that each peer published last: once it is withdrawn there may be sessions on it.
    next_keys: NextKeys,
}

/// By name of the peer: the UID of its Node, the epoch and the key.
type NextKeys = BTreeMap<String, (String, u64, PublicKey)>;

/// A configuration, with its peers by name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// All but the peers.
    device: DeviceConfig,
    peers: BTreeMap<String, PeerConfig>,
}

/// What one peer needs to be as wanted.
enum Step<'a> {
    Put(&'a PeerConfig),
    Delete(&'a str),
}

impl Tunnel {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let client = Client::new(&context.paths.tunnel_socket(&context.config.interface));
        Ok(Self { context, client, applied: None, next_keys: NextKeys::new() })
    }

    fn wanted(&mut self) -> Result<Wanted, Unmet> {
        let (own, members) = (self.context.own()?, self.context.members()?);
        let config = &self.context.config;
        // That it is too small is reported by others; peers have to follow all the same.
        let mtu = self.context.mtu(&own.internal).unwrap_or_else(|error| error.least());
        let device = DeviceConfig {
            key_store: self.context.paths.keys(),
            identities: self.context.keys.lock().identities(),
            listen_port: config.listen_port,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            firewall_mark: config.firewall_mark,
            peers: Vec::new(),
        };
        let mut peers: Vec<_> =
            members.peers.iter().map(|peer| peer_config(peer, config.persistent_keepalive)).collect();
        let is_able = self.context.tunnel_capabilities.lock().iter().any(|name| name == RETIRED_KEYS);
        if is_able {
            remember(&mut self.next_keys, &members.peers);
            add_retired(&mut peers, &members.peers, &self.next_keys);
        }
        Ok(Wanted { device, peers: peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect() })
    }

    async fn apply(&self, wanted: &Wanted, before: Option<&Wanted>) -> Result<Vec<String>, ClientError> {
        let steps =
            before.filter(|before| before.device == wanted.device).map(|before| steps(before, wanted));
        let Some(steps) = steps.filter(|steps| steps.len() <= FEW) else {
            let peers = wanted.peers.values().cloned().collect();
            let config = DeviceConfig { peers, ..wanted.device.clone() };
            return Ok(told(self.client.put("/v1/config", &config).await?));
        };
        let mut changes = Vec::new();
        for step in steps {
            changes.extend(told(match step {
                Step::Put(peer) => self.client.put(&path(&peer.name), peer).await?,
                Step::Delete(name) => self.client.delete(&path(name)).await?,
            }));
        }
        Ok(changes)
    }
}

impl Controller for Tunnel {
    async fn reconcile(&mut self, pending: Triggers) -> Outcome {
        let session = match self.context.session.get() {
            Session::Open(session) => session,
            Session::None => return Err(Unmet::waiting("the tunnel has not answered yet")),
            Session::Broken(why) => return Err(Unmet::waiting(why)),
        };
        let wanted = self.wanted()?;
        // What is not known to be applied is sent whole, as at every slow comparison.
        let before = self.applied.take().filter(|(at, _)| *at == session && !pending.has(Trigger::Resync));
        let changes = self.apply(&wanted, before.as_ref().map(|(_, wanted)| wanted)).await;
        let changes = changes.map_err(Unmet::failed)?;
        self.applied = Some((session, wanted));
        Ok(changes)
    }
}

fn path(peer: &str) -> String {
    format!("/v1/peers/{}", encode(peer))
}

/// What makes the peers of `before` those of `wanted`. Peers are removed first: another may get their addresses.
fn steps<'a>(before: &'a Wanted, wanted: &'a Wanted) -> Vec<Step<'a>> {
    let gone = before.peers.keys().filter(|name| !wanted.peers.contains_key(*name));
    let changed = wanted.peers.iter().filter(|(name, peer)| before.peers.get(*name) != Some(peer));
    gone.map(|name| Step::Delete(name)).chain(changed.map(|(_, peer)| Step::Put(peer))).collect()
}

fn told(applied: Applied) -> Vec<String> {
    let lines = |what: &str, names: Vec<String>| -> Vec<String> {
        names.into_iter().map(|name| format!("{what} peer {name}")).collect()
    };
    [lines("added", applied.added), lines("changed", applied.changed), lines("removed", applied.removed)]
        .concat()
}

/// Remembers the next keys that peers publish, as long as they are peers.
fn remember(next_keys: &mut NextKeys, peers: &[Peer]) {
    let names: HashSet<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
    next_keys.retain(|name, _| names.contains(name.as_str()));
    for peer in peers {
        if let [_, next] = &peer.keys[..] {
            let next = (peer.uid.clone(), next.epoch, next.keys.public_key);
            next_keys.insert(peer.name.clone(), next);
        }
    }
}

/// Adds the retired keys of each peer, a withdrawn next one included, unless they are another one's: the tunnel refuses a key
/// that two peers have.
fn add_retired(configs: &mut [PeerConfig], peers: &[Peer], next_keys: &NextKeys) {
    let mut seen: HashSet<PublicKey> =
        configs.iter().flat_map(|config| &config.keys).map(|key| key.public_key).collect();
    for (config, peer) in configs.iter_mut().zip(peers) {
        let withdrawn = next_keys.get(&peer.name).filter(|(uid, ..)| *uid == peer.uid);
        let withdrawn = withdrawn.map(|(_, epoch, key)| (*epoch, *key));
        for (epoch, public_key) in peer.retired.iter().copied().chain(withdrawn) {
            let is_other = config.keys.iter().all(|known| known.epoch != epoch);
            if is_other && seen.insert(public_key) {
                config.keys.push(PeerKeyConfig { public_key, epoch, retired: true });
            }
        }
    }
}

/// A peer as the tunnel takes it, with `keepalive` in seconds.
fn peer_config(peer: &Peer, keepalive: Option<u16>) -> PeerConfig {
    let key = |keys: &PeerKeys| PeerKeyConfig {
        public_key: keys.keys.public_key,
        epoch: keys.epoch,
        retired: false,
    };
    PeerConfig {
        name: peer.name.clone(),
        keys: peer.keys.iter().map(key).collect(),
        endpoints: peer.endpoints.clone(),
        allowed_ips: peer.allowed_ips.clone(),
        persistent_keepalive: keepalive,
    }
}

#[cfg(test)]
mod tests {
    use selvedge_keys::PrivateKey;

    use super::*;
    use crate::mesh::annotation::Keys;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_bytes([seed; 32]).public_key()
    }

    fn peer(uid: &str, keys: &[(u64, u8)], retired: &[(u64, u8)]) -> Peer {
        let keys = keys.iter().map(|&(epoch, seed)| PeerKeys {
            epoch,
            keys: Keys { public_key: key(seed), lanes: Vec::new() },
        });
        Peer {
            name: "n1".into(),
            uid: uid.into(),
            keys: keys.collect(),
            retired: retired.iter().map(|&(epoch, seed)| (epoch, key(seed))).collect(),
            endpoints: Vec::new(),
            allowed_ips: Vec::new(),
            location: None,
            features: Vec::new(),
        }
    }

    /// The retired keys of the first of `peers`.
    fn retired(next_keys: &mut NextKeys, peers: &[Peer]) -> Vec<(u64, PublicKey)> {
        let mut configs: Vec<_> = peers.iter().map(|peer| peer_config(peer, None)).collect();
        remember(next_keys, peers);
        add_retired(&mut configs, peers, next_keys);
        let retired = configs[0].keys.iter().filter(|key| key.retired);
        retired.map(|key| (key.epoch, key.public_key)).collect()
    }

    #[test]
    fn a_withdrawn_next_key_is_retired_as_long_as_it_is_the_same_node() {
        let mut next_keys = NextKeys::new();
        assert_eq!(retired(&mut next_keys, &[peer("a", &[(5, 1), (6, 2)], &[(4, 9)])]), [(4, key(9))]);
        assert_eq!(retired(&mut next_keys, &[peer("a", &[(5, 1)], &[])]), [(6, key(2))]);
        assert_eq!(retired(&mut next_keys, &[peer("a", &[(6, 2)], &[(5, 1)])]), [(5, key(1))], "promoted");
        assert_eq!(retired(&mut next_keys, &[peer("a", &[(6, 3)], &[])]), [], "its epoch has another key");
        assert_eq!(retired(&mut next_keys, &[peer("b", &[(5, 1)], &[])]), [], "another Node object");
        let mut other = peer("c", &[(1, 2)], &[]);
        other.name = "n2".into();
        let both = [peer("a", &[(7, 1)], &[]), other];
        assert_eq!(retired(&mut next_keys, &both), [], "the key is another node's now");
    }
}
