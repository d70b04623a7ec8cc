//! What was believed so far: for every Node its UID, keys and prefixes, kept on disk so that an accepted claim
//! stays with its Node over restarts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use selvedge_keys::{PublicKey, durable};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::prefixes;

/// Version of the file's format. A version may add to it; what one does not know it leaves out.
const VERSION: u32 = 1;

/// The accepted claims of one Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// UID of the Node object; another UID is another Node, whatever its name.
    pub uid: String,
    /// The highest epoch accepted; never goes back.
    pub epoch: u64,
    /// All keys of each epoch, that of lane 0 first.
    pub keys: BTreeMap<u64, Vec<PublicKey>>,
    /// Pod prefixes, confirmed by `spec.podCIDRs`, ascending.
    pub pod_cidrs: Vec<IpNet>,
    /// Node addresses, confirmed by `status.addresses`, ascending.
    pub node_addresses: Vec<IpAddr>,
    /// Those of them that are this Node's and nobody else's, ascending.
    pub held_addresses: Vec<IpAddr>,
    /// How it was reached as a peer; absent while it is not one. Not a claim: only for the time that lists lack the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<Reach>,
}

/// What a peer published beside its claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Candidates in order of preference.
    pub endpoints: Vec<SocketAddr>,
    /// Site or cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// What others may rely on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl Record {
    /// Says whether the Node has this key, of whatever epoch.
    #[must_use]
    pub fn has_key(&self, key: &PublicKey) -> bool {
        self.keys.values().any(|keys| keys.contains(key))
    }

    /// Says whether the key is the main one of an epoch up to the accepted one, or of the next.
    #[must_use]
    pub fn is_main(&self, key: &PublicKey) -> bool {
        self.keys.values().any(|keys| keys.first() == Some(key))
    }
}

/// The accepted claims of all Nodes, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Records {
    /// By Node name.
    pub nodes: BTreeMap<String, Record>,
}

/// Records that were found damaged and moved away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where the damaged file is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub damage: String,
}

/// Why records cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the accepted records {}: {source}", path.display())]
pub struct RecordsError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
struct Form<T> {
    version: u32,
    /// SHA-256 of the text of `nodes`.
    sha256: String,
    nodes: T,
}

impl Records {
    /// Reads the file; no file is no records. A damaged one is never believed: it is moved aside, for a person
    /// to look at, and every claim has to be made anew, which is safe (of two that conflict neither is then
    /// believed). The caller reports what is in quarantine.
    ///
    /// # Errors
    /// When the file cannot be read, or cannot be moved aside.
    pub fn open(path: &Path) -> Result<(Self, Option<Quarantined>), RecordsError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Self::default(), None)),
            Err(source) => return Err(RecordsError { action: "read", path: path.into(), source }),
        };
        match Self::decode(&bytes) {
            Ok(records) => Ok((records, None)),
            Err(damage) => {
                let aside = quarantine(path).map_err(|source| RecordsError {
                    action: "move aside",
                    path: path.into(),
                    source,
                })?;
                Ok((Self::default(), Some(Quarantined { path: aside, damage })))
            }
        }
    }

    /// Writes the file; on return it is on disk, and a crash leaves the old one or the new one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> Result<(), RecordsError> {
        durable::write(path, 0o600, self.encode().as_bytes()).map_err(|source| RecordsError {
            action: "write",
            path: path.into(),
            source,
        })
    }

    /// Whether the claims are the same, however the peers are reached.
    #[must_use]
    pub fn same_claims(&self, other: &Self) -> bool {
        let claims = |record: &Record| Record { reach: None, ..record.clone() };
        self.nodes.len() == other.nodes.len()
            && self.nodes.iter().all(|(name, record)| {
                other.nodes.get(name).is_some_and(|there| record == there || claims(record) == claims(there))
            })
    }

    fn encode(&self) -> String {
        let nodes = serde_json::to_string_pretty(self).expect("records have only text keys");
        let sha256 = hex(nodes.as_bytes());
        let nodes = RawValue::from_string(nodes).expect("just serialized");
        let form = Form { version: VERSION, sha256, nodes };
        serde_json::to_string(&form).expect("records have only text keys") + "\n"
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let form: Form<&RawValue> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if form.version != VERSION {
            return Err(format!("version {} is not known, only {VERSION}", form.version));
        }
        if form.sha256 != hex(form.nodes.get().as_bytes()) {
            return Err("its checksum does not match its content".into());
        }
        let records: Self = serde_json::from_str(form.nodes.get()).map_err(|error| error.to_string())?;
        records.check().map(|()| records)
    }

    /// No key and no address may be two Nodes'.
    fn check(&self) -> Result<(), String> {
        let mut holders = BTreeMap::new();
        for (name, record) in &self.nodes {
            for key in record.keys.values().flatten() {
                if let Some(other) = holders.insert(key, name).filter(|other| *other != name) {
                    return Err(format!("{other} and {name} both have key {}", key.short()));
                }
            }
        }
        let claims =
            self.nodes.iter().flat_map(|(name, record)| record.pod_cidrs.iter().map(move |net| (*net, name)));
        match prefixes::conflicts(claims).into_iter().next() {
            Some((name, conflict)) => {
                Err(format!("{name} and {} both have {}", conflict.with, conflict.prefix))
            }
            None => Ok(()),
        }
    }
}

/// Moves the file to the first free name beside it.
fn quarantine(path: &Path) -> io::Result<PathBuf> {
    let name = |number: u32| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".damaged-{number}"));
        path.with_file_name(name)
    };
    // Only the last few are kept, so that a disk that damages files does not fill up.
    let free = (1..=8).map(name).find(|aside| !aside.exists()).unwrap_or_else(|| name(8));
    std::fs::rename(path, &free)?;
    durable::sync_folder(path)?;
    Ok(free)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_keys::PrivateKey;

    fn key(seed: u8) -> PublicKey {
        PrivateKey::from_bytes([seed; 32]).public_key()
    }

    fn some() -> Records {
        let record = |seed: u8, cidr: &str| Record {
            uid: format!("uid-{seed}"),
            epoch: 2,
            keys: [(1, vec![key(seed)]), (2, vec![key(seed + 100)])].into(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            held_addresses: Vec::new(),
            reach: None,
        };
        let nodes = [("a".into(), record(1, "10.0.1.0/24")), ("b".into(), record(2, "10.0.2.0/24"))];
        Records { nodes: nodes.into() }
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        assert_eq!(Records::open(&path).unwrap(), (Records::default(), None));
        some().save(&path).unwrap();
        assert_eq!(Records::open(&path).unwrap(), (some(), None));
    }

    #[test]
    fn how_a_peer_is_reached_is_kept_and_is_no_claim() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        let mut records = some();
        let endpoints = vec!["192.0.2.1:51830".parse().unwrap()];
        records.nodes.get_mut("a").unwrap().reach = Some(Reach { endpoints, ..Reach::default() });
        assert!(records.same_claims(&some()) && records != some());
        records.save(&path).unwrap();
        assert_eq!(Records::open(&path).unwrap(), (records.clone(), None));
        records.nodes.get_mut("a").unwrap().epoch += 1;
        assert!(!records.same_claims(&some()));
        records.nodes.remove("b");
        assert!(!records.same_claims(&some()) && !some().same_claims(&records));
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.json");
        some().save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        let position = good.windows(5).position(|bytes| bytes == b"uid-1").unwrap();
        flipped[position + 4] = b'9';
        for (number, bad) in [&good[..good.len() / 2], b"", b"{}", &flipped].into_iter().enumerate() {
            std::fs::write(&path, bad).unwrap();
            let (records, quarantined) = Records::open(&path).unwrap();
            let quarantined = quarantined.unwrap();
            assert_eq!(records, Records::default());
            assert!(quarantined.path.ends_with(format!("records.json.damaged-{}", number + 1)));
            assert_eq!(std::fs::read(&quarantined.path).unwrap(), bad);
            assert!(!path.exists() && !quarantined.damage.is_empty());
        }
    }

    #[test]
    fn records_that_contradict_themselves_are_damaged() {
        let mut records = some();
        records.nodes.get_mut("b").unwrap().keys.insert(3, vec![key(1)]);
        assert!(Records::decode(records.encode().as_bytes()).unwrap_err().contains("both have key"));
        let mut records = some();
        records.nodes.get_mut("b").unwrap().pod_cidrs = vec!["10.0.0.0/16".parse().unwrap()];
        assert!(Records::decode(records.encode().as_bytes()).unwrap_err().contains("both have 10.0."));
    }

    #[test]
    fn a_newer_version_is_not_believed() {
        let text = some().encode().replace("\"version\":1", "\"version\":2");
        assert!(Records::decode(text.as_bytes()).unwrap_err().contains("version 2"));
    }
}
