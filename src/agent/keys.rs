//! This node's own keys: made on first start, rotated on request, never read out again but for their public halves.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use selvedge_keys::audit::Event;
use selvedge_keys::rotation::{
    Machine, Outcome, PeerSessions, Phase, Rotation, Seen, Shown, Step, TooLate, Tunnel, Wanted, leftover,
};
use selvedge_keys::{KeyStore, NodeKeys, PublicKey, StoreError};
use serde::{Deserialize, Serialize};

use super::audit::Audit;
use crate::mesh::annotation::{self, Keys as Published, MAX_EPOCH, NodeAnnotations};
use crate::mesh::resolve::superseded;
use crate::paths::Paths;
use crate::tunnel::api::{DeviceStatus, IdentityConfig, PeerStatus};
pub(super) use files::FileError;
use files::Files;

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
    /// The file of the rotation cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// One rotation at a time.
    #[error("rotation {id} of this node's keys is running ({phase:?}); wait for it, or abort it")]
    Running {
        /// The one that runs.
        id: String,
        /// How far it is.
        phase: Phase,
    },
    /// A new key must not be an old one.
    #[error("keys that an interrupted rotation has left are about to be wiped; retry in a minute")]
    Leftovers,
    /// None runs, or another one.
    #[error("no rotation {0} of this node's keys is running")]
    NotRunning(String),
    /// It is past the point of no return.
    #[error(transparent)]
    TooLate(#[from] TooLate),
}

/// The public half of the keys of one epoch.
#[derive(Debug, Clone)]
struct Epoch {
    created: Timestamp,
    published: Published,
}

/// What a rotation is asked for.
#[derive(Debug, Clone)]
pub(super) struct NewRotation {
    pub(super) id: String,
    pub(super) by: String,
    pub(super) reason: String,
    pub(super) deadline: Duration,
}

/// A rotation that is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) rotation: Rotation,
    pub(super) outcome: Outcome,
    pub(super) at: Timestamp,
}

/// The peers of this node while a rotation runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Confirmations {
    /// Peers with a session.
    pub(super) live: usize,
    /// Those of them that packets go to by another key than the one that is to stay.
    pub(super) waiting: BTreeSet<String>,
}

/// The tunnel as the rotation sees it.
#[derive(Debug, Clone)]
pub(super) struct TunnelKeys {
    /// Number of the connection to it: another process has another one.
    pub(super) life: u64,
    /// Epochs of the own keys that it uses.
    pub(super) identities: Vec<u64>,
    /// By name of the peer, for those with a confirmed session.
    pub(super) peers: BTreeMap<String, PeerSessions>,
}

impl TunnelKeys {
    /// What a rotation between these epochs needs of the tunnel's status.
    pub(super) fn of(life: u64, status: &DeviceStatus, from: u64, to: u64) -> Self {
        let sessions = |peer: &PeerStatus| {
            let confirmed = || peer.sessions.iter().filter(|session| session.confirmed);
            let has = |epoch: u64| confirmed().any(|session| session.own_epoch == epoch);
            let sending = peer.sessions.iter().find(|session| session.sending)?.own_epoch;
            confirmed().next().map(|_| PeerSessions { old: has(from), new: has(to), sending })
        };
        let peers = status.peers.iter().filter_map(|peer| Some((peer.name.clone(), sessions(peer)?)));
        let identities = status.identities.iter().map(|identity| identity.epoch).collect();
        Self { life, identities, peers: peers.collect() }
    }

    /// The peers, and which of them the rotation still waits for.
    pub(super) fn confirmations(&self, rotation: &Rotation) -> Confirmations {
        let goal = if rotation.phase.is_abort() { rotation.from } else { rotation.to };
        let waiting = self.peers.iter().filter(|(_, sessions)| sessions.sending != goal);
        Confirmations { live: self.peers.len(), waiting: waiting.map(|(name, _)| name.clone()).collect() }
    }
}

/// The key store, the public halves of this node's keys, and the rotation that runs.
#[derive(Debug)]
pub(super) struct Keys {
    store: KeyStore,
    current: u64,
    epochs: BTreeMap<u64, Epoch>,
    files: Files,
    machine: Option<Machine>,
    last: Option<Ended>,
    audit: Audit,
    /// The peers whose confirmation of the new key is recorded.
    confirmed: BTreeSet<String>,
}

impl Keys {
    /// Opens the store, and makes the first key when there is none. Resumes a rotation that was interrupted.
    pub(super) fn open(paths: &Paths) -> anyhow::Result<Self> {
        let store = KeyStore::open(paths.keys()).context("cannot open the key store")?;
        let (now, is_first) = (Timestamp::now(), store.current()?.is_none());
        let keys: NodeKeys = store.ensure(now).context("cannot make or read this node's key")?;
        tracing::info!(epoch = keys.epoch, public_key = %keys.private_key.public_key(), "this node's key");
        let files = Files::new(paths);
        let rotation = files.running();
        if let Some(Rotation { id, phase, from, to, .. }) = &rotation {
            tracing::info!(id, ?phase, from, to, "resuming the key rotation");
        }
        let mut this = Self {
            store,
            current: keys.epoch,
            epochs: BTreeMap::new(),
            last: files.last(),
            files,
            machine: rotation.map(Machine::new),
            audit: Audit::new(paths.audit()),
            confirmed: BTreeSet::new(),
        };
        this.reload().context("cannot read this node's keys")?;
        this.record_start(is_first, now);
        Ok(this)
    }

    fn record_start(&mut self, is_first: bool, now: Timestamp) {
        let mut events = vec![Event::AgentStarted { version: env!("CARGO_PKG_VERSION").into() }];
        if is_first {
            let (epoch, public_key) = self.current();
            events.push(Event::KeyCreated { epoch, public_key });
        }
        if let Some(Rotation { id, phase, .. }) = self.rotation() {
            let phase = format!("{phase:?}").into();
            events.push(Event::RotationResumed { id: id.as_str().into(), phase });
        }
        self.audit.record(&events, now);
    }

    /// Reads the public halves of all keys in the store. Those of an epoch that cannot be read are left out, unless it is the
    /// one in use.
    fn reload(&mut self) -> Result<(), StoreError> {
        for epoch in self.store.epochs()? {
            match self.store.load(epoch) {
                Ok(keys) => self.insert(&keys),
                Err(error) if epoch == self.current => return Err(error),
                Err(error) => {
                    tracing::error!(epoch, %error, "cannot read the keys of an epoch that is not in use");
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, keys: &NodeKeys) {
        self.epochs.insert(keys.epoch, Epoch { created: keys.created, published: Published::from(keys) });
    }

    /// Makes newer keys when this node's own object already shows others of this epoch or a later one: the store was
    /// lost or is an old copy, and other nodes believe only keys newer than those. Likewise when `is_revoked` says so of a key in
    /// use. Returns what was done.
    pub(super) fn keep_ahead(
        &mut self,
        annotations: &BTreeMap<String, String>,
        is_revoked: impl Fn(&PublicKey) -> bool,
    ) -> Result<Vec<String>, KeysError> {
        let shown = self.floor(annotations);
        let revoked = self.in_use().published.iter().find(is_revoked);
        let (floor, why) = match (shown, revoked) {
            (Some(floor), _) => (floor, format!("the Node object shows others of epoch {floor}")),
            (None, Some(key)) => (self.current, format!("key {} is revoked", key.short())),
            (None, None) => return Ok(Vec::new()),
        };
        if floor >= MAX_EPOCH {
            return Err(KeysError::LastEpoch);
        }
        let now = Timestamp::now();
        let keys = self.store.supersede(floor, now)?;
        self.current = keys.epoch;
        self.insert(&keys);
        let (epoch, public_key) = self.current();
        let promoted = Event::KeyPromoted { epoch, public_key, confirmed: 0, live: 0 };
        self.audit.record(&[Event::KeyCreated { epoch, public_key }, promoted], now);
        Ok(vec![format!("keys of epoch {}, because {why}", self.current)])
    }

    /// Whether these annotations show other keys of this epoch or a later one.
    pub(super) fn is_behind(&self, annotations: &BTreeMap<String, String>) -> bool {
        self.floor(annotations).is_some()
    }

    /// What cannot be read is written again anyway.
    fn floor(&self, annotations: &BTreeMap<String, String>) -> Option<u64> {
        let shown = annotation::parse(annotations).ok()??;
        superseded(&shown, self.current, &self.in_use().published)
    }

    fn in_use(&self) -> &Epoch {
        self.epochs.get(&self.current).expect("the epoch in use was read or made")
    }

    /// Epoch and key for people.
    pub(super) fn current(&self) -> (u64, PublicKey) {
        (self.current, self.in_use().published.public_key)
    }

    /// When the key in use was made.
    pub(super) fn created(&self) -> Timestamp {
        self.in_use().created
    }

    fn wanted(&self) -> Wanted {
        // One that is about other keys ends with the next step.
        let is_meant = |rotation: &&Rotation| [rotation.from, rotation.to].contains(&self.current);
        let wanted = self.rotation().filter(is_meant).map(Rotation::wanted);
        wanted.unwrap_or_else(|| Wanted::steady(self.current))
    }

    /// For the tunnel, which reads the private halves from the store.
    pub(super) fn identities(&self) -> Vec<IdentityConfig> {
        let there = |epoch: &u64| self.epochs.contains_key(epoch);
        let wanted = self.wanted().identities.into_iter().filter(|own| there(&own.epoch));
        wanted.map(|own| IdentityConfig { epoch: own.epoch, withdrawn: own.is_withdrawn }).collect()
    }

    /// For the annotations: the keys in use with their epoch and age, and the next ones.
    pub(super) fn published(&self) -> (Published, u64, Timestamp, Option<Published>) {
        let wanted = self.wanted();
        let (epoch, keys) = match self.epochs.get(&wanted.published) {
            Some(keys) => (wanted.published, keys),
            None => (self.current, self.in_use()),
        };
        let next = wanted.next.and_then(|next| Some(self.epochs.get(&next)?.published.clone()));
        (keys.published.clone(), epoch, keys.created, next)
    }

    /// Every own public key.
    pub(super) fn all(&self) -> Vec<PublicKey> {
        self.epochs.values().flat_map(|epoch| epoch.published.iter()).collect()
    }

    /// The rotation that runs.
    pub(super) fn rotation(&self) -> Option<&Rotation> {
        self.machine.as_ref().map(Machine::rotation)
    }

    /// The rotation that ended last.
    pub(super) fn last(&self) -> Option<&Ended> {
        self.last.as_ref()
    }

    /// Whether the store has keys that neither the epoch in use nor a rotation needs.
    pub(super) fn has_leftovers(&self) -> bool {
        self.machine.is_none() && self.store.epochs().is_ok_and(|epochs| epochs.len() > 1)
    }

    /// Begins a rotation.
    pub(super) fn rotate(&mut self, wanted: NewRotation, now: Timestamp) -> Result<(), KeysError> {
        if let Some(Rotation { id, phase, .. }) = self.rotation().cloned() {
            return Err(KeysError::Running { id, phase });
        }
        if self.current >= MAX_EPOCH {
            return Err(KeysError::LastEpoch);
        }
        // One of them may have the number of the new key.
        if self.has_leftovers() {
            return Err(KeysError::Leftovers);
        }
        let NewRotation { id, by, reason, deadline } = wanted;
        let rotation = Rotation {
            id,
            by,
            reason,
            from: self.current,
            to: self.current + 1,
            phase: Phase::Prepare,
            begun: now,
            deadline: now + deadline,
            replaced: None,
            is_complete: false,
            aborted: None,
        };
        self.files.save(&rotation)?;
        let requested = Event::RotationRequested {
            id: rotation.id.as_str().into(),
            by: rotation.by.as_str().into(),
            reason: rotation.reason.as_str().into(),
            deadline: rotation.deadline,
        };
        self.audit.record(&[requested], now);
        self.confirmed.clear();
        self.machine = Some(Machine::new(rotation));
        Ok(())
    }

    /// Takes the rotation `id` back.
    pub(super) fn abort(&mut self, id: &str, by: &str, reason: &str) -> Result<(), KeysError> {
        let machine = self.machine.as_ref().filter(|machine| machine.rotation().id == id);
        let mut machine = machine.ok_or_else(|| KeysError::NotRunning(id.to_owned()))?.clone();
        let before = machine.rotation().phase;
        machine.abort(reason)?;
        self.files.save(machine.rotation())?;
        if machine.rotation().phase != before {
            let aborted = Event::RotationAborted { id: id.into(), by: by.into(), reason: reason.into() };
            self.audit.record(&[aborted], Timestamp::now());
        }
        self.machine = Some(machine);
        Ok(())
    }

    /// Takes the next step of the rotation, or wipes what an interrupted one has left. Returns what was done; nothing when there
    /// is nothing to do now.
    pub(super) fn step(
        &mut self,
        now: Timestamp,
        uptime: Duration,
        shown: Option<&NodeAnnotations>,
        tunnel: Option<&TunnelKeys>,
    ) -> Result<Option<String>, KeysError> {
        let epochs: Vec<u64> = self.store.epochs()?;
        let Some(mut machine) = self.machine.clone() else {
            let identities = tunnel.map(|tunnel| &tunnel.identities[..]);
            let wiped = identities.and_then(|identities| leftover(self.current, &epochs, identities));
            return wiped.map(|epoch| self.wipe(epoch, "left by an interrupted rotation", now)).transpose();
        };
        let to = machine.rotation().to;
        self.record_confirmed(machine.rotation(), tunnel, now);
        let next = self.epochs.get(&to).map(|epoch| &epoch.published);
        let is_shown = |shown: &NodeAnnotations| Shown {
            epoch: shown.key_epoch,
            has_next: shown.next_keys.is_some() && shown.next_keys.as_ref() == next,
        };
        let peers: Vec<PeerSessions> =
            tunnel.map(|tunnel| tunnel.peers.values().copied().collect()).unwrap_or_default();
        let step = machine.step(&Seen {
            now,
            uptime,
            current: self.current,
            epochs: &epochs,
            shown: shown.map(is_shown),
            tunnel: tunnel.map(|tunnel| Tunnel {
                life: tunnel.life,
                identities: &tunnel.identities,
                peers: &peers,
            }),
        });
        let done = match step {
            Step::Wait => None,
            Step::Create(epoch) => {
                let keys = self.store.create(epoch, now)?;
                self.insert(&keys);
                self.record_key(epoch, now, |epoch, public_key| Event::KeyCreated { epoch, public_key });
                Some(format!("keys of epoch {epoch} made"))
            }
            Step::Promote(epoch) => {
                self.store.promote(epoch)?;
                self.current = epoch;
                let live = tunnel.map_or(0, |tunnel| tunnel.peers.len());
                let goes_elsewhere = |peer: &&PeerSessions| peer.sending != epoch;
                let waiting = peers.iter().filter(goes_elsewhere).count();
                let [confirmed, live] =
                    [live - waiting, live].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
                self.record_key(epoch, now, |epoch, public_key| Event::KeyPromoted {
                    epoch,
                    public_key,
                    confirmed,
                    live,
                });
                Some(format!("keys of epoch {epoch} are in use"))
            }
            Step::Wipe(epoch) => {
                let reason = if machine.rotation().phase.is_abort() { "rotation aborted" } else { "rotated" };
                Some(self.wipe(epoch, reason, now)?)
            }
            Step::Enter(phase) => {
                self.files.save(machine.rotation())?;
                if phase == Phase::Confirm {
                    self.record_key(to, now, |epoch, public_key| Event::KeyPublished { epoch, public_key });
                }
                Some(format!("phase {phase:?}"))
            }
            Step::End(outcome) => {
                let rotation = machine.rotation().clone();
                let ended = Ended { rotation, outcome, at: now };
                self.files.end(&ended)?;
                let rotation = &ended.rotation;
                let (id, how) = (rotation.id.as_str().into(), format!("{outcome:?}").into());
                self.audit.record(&[Event::RotationEnded { id, outcome: how }], now);
                let done = format!("rotation {} ended: {outcome:?}", rotation.id);
                self.last = Some(ended);
                self.machine = None;
                return Ok(Some(done));
            }
        };
        self.machine = Some(machine);
        Ok(done)
    }

    /// Records what happened to other nodes' keys.
    pub(super) fn record(&mut self, events: &[Event], now: Timestamp) {
        self.audit.record(events, now);
    }

    /// Why the audit log is behind, if it is.
    pub(super) fn audit_problem(&self) -> Option<&str> {
        self.audit.problem()
    }

    fn record_key(&mut self, epoch: u64, now: Timestamp, event: impl FnOnce(u64, PublicKey) -> Event) {
        if let Some(keys) = self.epochs.get(&epoch) {
            self.audit.record(&[event(epoch, keys.published.public_key)], now);
        }
    }

    /// Records each peer once that packets go to by the new key.
    fn record_confirmed(&mut self, rotation: &Rotation, tunnel: Option<&TunnelKeys>, now: Timestamp) {
        if !matches!(rotation.phase, Phase::Confirm | Phase::Promote | Phase::Announce | Phase::Retire) {
            return;
        }
        let epoch = rotation.to;
        let peers = tunnel.into_iter().flat_map(|tunnel| &tunnel.peers);
        let confirmed = peers.filter(|(_, sessions)| sessions.sending == epoch).map(|(name, _)| name);
        let new: Vec<String> = confirmed.filter(|name| !self.confirmed.contains(*name)).cloned().collect();
        let event = |peer: &String| Event::PeerConfirmed { epoch, peer: peer.as_str().into() };
        self.audit.record(&new.iter().map(event).collect::<Vec<_>>(), now);
        self.confirmed.extend(new);
    }

    fn wipe(&mut self, epoch: u64, reason: &str, now: Timestamp) -> Result<String, KeysError> {
        self.store.retire(epoch)?;
        let reason = reason.into();
        self.record_key(epoch, now, |epoch, public_key| Event::KeyRetired { epoch, public_key, reason });
        self.epochs.remove(&epoch);
        Ok(format!("keys of epoch {epoch} wiped"))
    }
}

#[cfg(test)]
mod tests;
