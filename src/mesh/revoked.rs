//! What operators have revoked, kept on disk: a key stays revoked for as long as this node lives, whatever the API server says
//! later.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use selvedge_keys::{PublicKey, durable};
use serde::{Deserialize, Serialize};

/// Most bytes of the file.
const LARGEST: u64 = 64 << 20;
/// Most revocations. Who may write them could fill disk and memory.
pub const MOST: usize = 100_000;

/// One revocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokedEntry {
    /// Name of the Node that published the keys.
    pub node: String,
    /// UID of that Node object; empty if none is barred.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The keys.
    pub keys: BTreeSet<PublicKey>,
    /// Who revoked them.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who let the Node in again; its keys stay revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readmitted_by: Option<String>,
}

/// All revocations, by name.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    entries: BTreeMap<String, RevokedEntry>,
    keys: BTreeSet<PublicKey>,
    /// UID of a Node that is barred, with the name of a revocation.
    barred: BTreeMap<String, String>,
}

impl PartialEq for Revoked {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Eq for Revoked {}

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the revoked keys to {}: {source}", path.display())]
pub struct RevokedError {
    path: PathBuf,
    source: io::Error,
}

impl Revoked {
    fn of(entries: BTreeMap<String, RevokedEntry>) -> Self {
        let keys = entries.values().flat_map(|entry| entry.keys.iter().copied()).collect();
        let bars = |entry: &RevokedEntry| entry.readmitted_by.is_none() && !entry.uid.is_empty();
        let barred = entries.iter().filter(|(_, entry)| bars(entry));
        let barred = barred.map(|(name, entry)| (entry.uid.clone(), name.clone())).collect();
        Self { entries, keys, barred }
    }

    /// With what the API server shows now. What it no longer shows stays; a readmission is not taken back.
    #[must_use]
    pub fn with(&self, shown: impl IntoIterator<Item = (String, RevokedEntry)>) -> Self {
        let mut entries = self.entries.clone();
        for (name, mut entry) in shown {
            if let Some(before) = entries.get(&name) {
                entry.keys.extend(&before.keys);
                entry.readmitted_by = before.readmitted_by.clone().or(entry.readmitted_by);
            } else if entries.len() >= MOST {
                continue;
            }
            entries.insert(name, entry);
        }
        Self::of(entries)
    }

    /// Whether nobody may use this key.
    #[must_use]
    pub fn has(&self, key: &PublicKey) -> bool {
        self.keys.contains(key)
    }

    /// The revocation that bars the Node with this UID, with its name.
    #[must_use]
    pub fn bar(&self, uid: &str) -> Option<(&str, &RevokedEntry)> {
        let (name, entry) = self.entries.get_key_value(self.barred.get(uid)?)?;
        Some((name, entry))
    }

    /// All revocations, by name.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, RevokedEntry> {
        &self.entries
    }

    /// Reads the file; none without one.
    ///
    /// # Errors
    /// When it cannot be read or is damaged, for people.
    pub fn open(path: &Path) -> Result<Option<Self>, String> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(it) if it.len() > LARGEST => return Err(format!("{} bytes", it.len())),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text)
            .map(|entries| Some(Self::of(entries)))
            .map_err(|error| error.to_string())
    }

    /// Writes the file; on return it is on disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, path: &Path) -> Result<(), RevokedError> {
        // It cannot fail: all of it has a JSON form.
        let text = serde_json::to_vec(&self.entries).unwrap_or_default();
        let written = durable::write(path, 0o600, &text);
        written.map_err(|source| RevokedError { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::annotation::tests::key;

    fn entry(uid: &str, numbers: &[u8]) -> RevokedEntry {
        RevokedEntry {
            node: "n".into(),
            uid: uid.into(),
            keys: numbers.iter().map(|number| key(*number)).collect(),
            by: "alice".into(),
            ..RevokedEntry::default()
        }
    }

    #[test]
    fn what_was_revoked_stays_so_and_a_bar_ends_with_the_readmission() {
        let first = Revoked::default().with([("a".to_owned(), entry("u1", &[1, 2]))]);
        assert!(first.has(&key(1)) && first.has(&key(2)) && !first.has(&key(3)));
        assert_eq!(first.bar("u1").map(|(name, _)| name), Some("a"));
        assert!(first.bar("u2").is_none() && first.bar("").is_none());
        let gone = first.with([]);
        assert_eq!(gone, first, "an object that is gone changes nothing");
        let emptied = first.with([("a".to_owned(), entry("u1", &[]))]);
        assert!(emptied.has(&key(1)), "nor does one without its keys");
        let again = RevokedEntry { readmitted_by: Some("bob".into()), ..entry("u1", &[1, 2]) };
        let readmitted = first.with([("a".to_owned(), again)]);
        assert!(readmitted.bar("u1").is_none() && readmitted.has(&key(1)));
        let barred = readmitted.with([("a".to_owned(), entry("u1", &[1, 2]))]);
        assert!(barred.bar("u1").is_none(), "a readmission is not taken back");
        let second = readmitted.with([("b".to_owned(), entry("u1", &[4]))]);
        assert_eq!(second.bar("u1").map(|(name, _)| name), Some("b"), "another revocation bars again");
        let keyless = Revoked::default().with([("c".to_owned(), entry("", &[5]))]);
        assert!(keyless.bar("").is_none() && keyless.has(&key(5)));
    }

    #[test]
    fn the_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.json");
        assert_eq!(Revoked::open(&path), Ok(None));
        let revoked = Revoked::default().with([("a".to_owned(), entry("u1", &[1, 2]))]);
        revoked.save(&path).unwrap();
        let read = Revoked::open(&path).unwrap().unwrap();
        assert_eq!((&read, read.has(&key(2)), read.bar("u1").is_some()), (&revoked, true, true));
        std::fs::write(&path, "{").unwrap();
        assert!(Revoked::open(&path).is_err());
    }
}
