//! What outlives a worker process: the accepted configuration and where peers were last heard from.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::tunnel::api::DeviceConfig;
use crate::tunnel::descriptors::Descriptors;
use crate::tunnel::device::config::{Config, Peer};

/// A configuration written beside the kept one, to take its place or to go again.
#[derive(Debug)]
pub(super) struct Draft {
    temporary: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Writes `config` for `path`, mode 0600. Not synced: what is lost with the node is not needed after.
    pub(super) fn write(config: &DeviceConfig, path: &Path) -> io::Result<Self> {
        let draft = Self { temporary: path.with_extension("json.new"), path: path.to_owned() };
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft.temporary)?;
        let mut writer = io::BufWriter::new(file);
        serde_json::to_writer(&mut writer, config)?;
        writer.flush()?;
        Ok(draft)
    }

    /// Puts it in the place of the one before, in one step.
    pub(super) fn accept(self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `accept` there is nothing to remove.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The configuration kept at `path`, if there is one that can be read.
pub(super) fn load(path: &Path) -> Option<DeviceConfig> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot read the kept configuration");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(
            |error| tracing::warn!(%error, path = %path.display(), "the kept configuration is damaged"),
        )
        .ok()
}

/// Puts `bytes` into a file that is memory alone, and has the parent keep it under `name`.
pub(super) fn keep_in_memory(descriptors: &Descriptors, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    descriptors.keep(name, file.as_fd())
}

/// Reads back what [`keep_in_memory`] wrote.
pub(super) fn read_memory(descriptor: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::from(descriptor);
    // The position is shared with the process that wrote it.
    file.rewind()?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where peers were heard from, other than where they were said to be.
///
/// Only a new data plane looks at this: it tries that place first, also where the configuration proposes other endpoints
/// than then; but where it orders them, only for as long as it orders the same. While one lives, the device itself knows
/// better.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Roamed {
    places: BTreeMap<String, Place>,
    /// The endpoints of each peer of the configuration.
    #[serde(skip)]
    configured: HashMap<String, Vec<SocketAddr>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    configured: Vec<SocketAddr>,
    heard_from: SocketAddr,
}

impl Roamed {
    /// Goes by another configuration: forgets peers that are not in it. Looks at each peer once.
    pub(super) fn configure<'a>(&mut self, peers: impl Iterator<Item = &'a Peer>) {
        self.configured = peers.map(|peer| (peer.name.clone(), peer.endpoints.clone())).collect();
        self.places.retain(|name, _| self.configured.contains_key(name));
    }

    /// Records that `peer` is at `endpoint`. Returns false if that is already recorded, or if the peer does not exist.
    pub(super) fn note(&mut self, peer: &str, endpoint: SocketAddr) -> bool {
        let Some(configured) = self.configured.get(peer).cloned() else { return false };
        let place = Place { configured, heard_from: endpoint };
        self.places.insert(peer.to_owned(), place.clone()) != Some(place)
    }

    /// Where the peers of `config` were last heard from, by name.
    pub(super) fn places(&self, config: &Config) -> BTreeMap<String, SocketAddr> {
        let place = |peer: &Peer| {
            let place = self.places.get(&peer.name)?;
            let counts = config.proposes || place.configured == peer.endpoints;
            counts.then(|| (peer.name.clone(), place.heard_from))
        };
        if self.places.is_empty() { BTreeMap::new() } else { config.peers.iter().filter_map(place).collect() }
    }
}

/// When to write what changes often: at once, and then at most once in [`Writes::INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct Writes {
    last: Option<Instant>,
    is_pending: bool,
}

impl Writes {
    /// Shortest time between two writes.
    pub(super) const INTERVAL: Duration = Duration::from_secs(1);

    /// There is something to write.
    pub(super) fn want(&mut self) {
        self.is_pending = true;
    }

    /// When to write; none when there is nothing to write.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        self.is_pending.then(|| self.last.map_or(now, |last| last + Self::INTERVAL))
    }

    /// All is written, also what changed since the last [`Writes::want`].
    pub(super) fn written(&mut self, now: Instant) {
        (self.last, self.is_pending) = (Some(now), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &[&str]) -> Config {
        let endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        let peer = Peer {
            name: "b".into(),
            keys: vec![],
            endpoints,
            allowed_ips: vec![],
            persistent_keepalive: None,
        };
        Config { peers: vec![peer], ..Config::default() }
    }

    /// Where the peer was heard, if that counts for a configuration that orders or proposes these endpoints.
    fn place(roamed: &Roamed, endpoints: &[&str], proposes: bool) -> Option<String> {
        let config = Config { proposes, ..config(endpoints) };
        roamed.places(&config).get("b").map(ToString::to_string)
    }

    #[test]
    fn a_roamed_endpoint_counts_until_the_configuration_orders_another() {
        let mut roamed = Roamed::default();
        let first = config(&["1.1.1.1:1", "2.2.2.2:2"]);
        roamed.configure(first.peers.iter());
        assert!(roamed.note("b", "2.2.2.2:2".parse().unwrap()));
        for proposes in [false, true] {
            let place = place(&roamed, &["1.1.1.1:1", "2.2.2.2:2"], proposes);
            assert_eq!(place.as_deref(), Some("2.2.2.2:2"));
        }
        assert_eq!(place(&roamed, &["3.3.3.3:3"], false), None);
        assert_eq!(place(&roamed, &["3.3.3.3:3"], true).as_deref(), Some("2.2.2.2:2"));
        roamed.configure(first.peers.iter());
        assert!(!roamed.note("b", "2.2.2.2:2".parse().unwrap()));
        assert!(roamed.note("b", "4.4.4.4:4".parse().unwrap()));
        assert_eq!(place(&roamed, &["1.1.1.1:1", "2.2.2.2:2"], false).as_deref(), Some("4.4.4.4:4"));
        assert!(!roamed.note("unknown", "4.4.4.4:4".parse().unwrap()));
    }

    #[test]
    fn where_peers_are_is_kept_in_the_form_that_other_versions_read() {
        let mut roamed = Roamed::default();
        roamed.configure(config(&["1.1.1.1:1"]).peers.iter());
        roamed.note("b", "2.2.2.2:2".parse().unwrap());
        let text = serde_json::to_string(&roamed).unwrap();
        assert_eq!(text, r#"{"b":{"configured":["1.1.1.1:1"],"heard_from":"2.2.2.2:2"}}"#);
        let read: Roamed = serde_json::from_str(&text).unwrap();
        assert_eq!(read.places, roamed.places);
        roamed.configure([].iter());
        assert_eq!(roamed, Roamed::default(), "a peer that is gone is forgotten");
    }

    #[test]
    fn each_configuration_looks_at_each_peer_once_and_each_move_at_one() {
        let mut roamed = Roamed::default();
        let all = Config {
            peers: (0..5000).map(|n| Peer { name: n.to_string(), ..config(&[]).peers.remove(0) }).collect(),
            ..Config::default()
        };
        for round in 0..3_u16 {
            let looked_at = std::cell::Cell::new(0);
            roamed.configure(all.peers.iter().inspect(|_| looked_at.set(looked_at.get() + 1)));
            assert_eq!(looked_at.get(), 5000);
            for peer in &all.peers {
                assert!(roamed.note(&peer.name, SocketAddr::from(([1, 1, 1, 1], round))));
            }
            assert_eq!(roamed.places(&all).len(), 5000);
        }
    }

    #[test]
    fn a_storm_of_moves_is_written_once_a_second_and_the_last_one_is_written() {
        let (mut roamed, mut writes, start) = (Roamed::default(), Writes::default(), Instant::now());
        roamed.configure(config(&[]).peers.iter());
        let (mut written, mut now, mut count) = (Roamed::default(), start, 0);
        let mut moves = 0..10_000_u16;
        loop {
            now += Duration::from_millis(1);
            let next = moves.next();
            if next.is_some_and(|port| roamed.note("b", SocketAddr::from(([1, 1, 1, 1], port)))) {
                writes.want();
            }
            match writes.due(now) {
                Some(due) if due <= now => {
                    written = roamed.clone();
                    writes.written(now);
                    count += 1;
                }
                None if next.is_none() => break,
                _ => {}
            }
        }
        assert!(count <= 12, "{count} writes in {:?}", now - start);
        assert_eq!(written, roamed);
        assert!(now - start <= Duration::from_secs(11));
    }

    #[test]
    fn a_draft_takes_its_place_only_when_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tunnel.json");
        let config = |mtu| DeviceConfig {
            key_store: "/keys".into(),
            identities: vec![],
            listen_port: 1,
            mtu,
            firewall_mark: None,
            peers: vec![],
        };
        Draft::write(&config(1400), &path).unwrap().accept().unwrap();
        drop(Draft::write(&config(1500), &path).unwrap());
        assert_eq!(load(&path), Some(config(1400)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(load(&path), None);
    }
}
