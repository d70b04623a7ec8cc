//! The key store: who may read it, and whether its keys can be. Says nothing of a key itself.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use selvedge_keys::{KeyReader, StoreError};
use serde::Serialize;

use super::finding::Finding;
use super::host::is_there;

const CHECK: &str = "keys";

/// A file or folder as it lies there: nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its mode, in octal.
    pub mode: String,
    /// The user that it belongs to.
    pub owner: u32,
    /// Bytes; 0 for the folder.
    pub size: u64,
}

/// The folder first, under the name `.`, then what is in it, by name.
///
/// # Errors
/// When it is not there or cannot be listed.
pub fn entries(folder: &Path) -> std::io::Result<Vec<Entry>> {
    let entry = |name: String, path: &Path| -> std::io::Result<Entry> {
        let metadata = path.symlink_metadata()?;
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        Ok(Entry { name, mode: format!("{:04o}", metadata.mode() & 0o7777), owner: metadata.uid(), size })
    };
    let mut entries = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        entries.push(entry(file.file_name().to_string_lossy().into_owned(), &file.path())?);
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    entries.insert(0, entry(".".into(), folder)?);
    Ok(entries)
}

/// What the library says of the store.
#[derive(Debug)]
pub(super) enum Facts {
    /// There is none.
    Absent,
    /// It cannot be told whether there is one.
    Unseen(std::io::Error),
    /// All its keys can be read: the epoch in use, and how many there are.
    Good(Option<u64>, usize),
    /// What is wrong.
    Bad(StoreError),
}

impl Facts {
    pub(super) fn gather(folder: &Path) -> Self {
        match is_there(folder) {
            Ok(true) => {}
            Ok(false) => return Self::Absent,
            Err(error) => return Self::Unseen(error),
        }
        let read = || {
            let store = KeyReader::open(folder)?;
            let epochs = store.epochs()?;
            epochs.iter().try_for_each(|epoch| store.load(*epoch).map(drop))?;
            Ok((store.current()?, epochs.len()))
        };
        read().map_or_else(Self::Bad, |(current, epochs)| Self::Good(current, epochs))
    }
}

/// `root`: this process may see what the agent sees.
pub(super) fn judge(facts: &Facts, root: bool) -> Finding {
    match facts {
        Facts::Absent => Finding::ok(CHECK, "no keys yet: the agent makes them on its first start"),
        Facts::Unseen(error) => {
            Finding::skipped(CHECK, format!("the key store cannot be looked at: {error}"))
        }
        Facts::Good(Some(epoch), count) => {
            Finding::ok(CHECK, format!("epoch {epoch} is in use, of {count}; folder 0700, files 0600"))
        }
        Facts::Good(None, 0) => {
            Finding::ok(CHECK, "the folder is empty: the agent makes keys on its first start")
        }
        Facts::Good(None, count) => Finding::warning(
            CHECK,
            format!("no file says which of {count} epochs is in use"),
            "start the agent: it takes the only epoch, or says what to do",
        ),
        Facts::Bad(error) if !root => Finding::skipped(CHECK, format!("{error} (run the doctor as root)")),
        Facts::Bad(error) => {
            Finding::problem(CHECK, error.to_string(), "do what it says, then start the agent")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::finding::Severity;
    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn looking_at_no_store_makes_none() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        assert_eq!(judge(&Facts::gather(&keys), true).severity, Severity::Ok);
        assert!(!keys.exists() && entries(&keys).is_err());
        std::fs::write(&keys, "").unwrap();
        let below = Facts::gather(&keys.join("below"));
        assert_eq!(judge(&below, true).severity, Severity::Skipped, "{below:?}");
    }

    #[test]
    fn modes_and_damage_are_problems_and_no_key_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("keys");
        let keys = selvedge_keys::KeyStore::open(&dir).unwrap().ensure(jiff::Timestamp::UNIX_EPOCH).unwrap();
        let secret = std::fs::read_to_string(dir.join("epoch-1")).unwrap();
        let secret = secret.lines().find_map(|line| line.strip_prefix("private ")).unwrap().to_owned();
        let look = || {
            let finding = judge(&Facts::gather(&dir), true);
            assert!(!format!("{finding:?} {:?}", entries(&dir)).contains(&secret));
            finding
        };
        assert_eq!(look().seen, "epoch 1 is in use, of 1; folder 0700, files 0600");
        assert_eq!(keys.epoch, 1);
        let listed = entries(&dir).unwrap();
        let names: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.mode.as_str())).collect();
        assert_eq!(names, [(".", "0700"), ("current", "0600"), ("epoch-1", "0600")]);

        chmod(&dir, 0o755);
        assert!(look().seen.contains("chmod 0700"), "{:?}", look());
        chmod(&dir, 0o700);
        chmod(&dir.join("epoch-1"), 0o644);
        assert!(look().severity == Severity::Problem && look().seen.contains("chmod 0600"));
        chmod(&dir.join("epoch-1"), 0o600);
        std::fs::write(dir.join("epoch-1"), "selvedge-key 1\n").unwrap();
        assert!(look().seen.contains("cut short"), "{:?}", look());
        assert_eq!(judge(&Facts::gather(&dir), false).severity, Severity::Skipped);
    }
}
