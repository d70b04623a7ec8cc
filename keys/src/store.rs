//! The key store: a folder of mode 0700 with a file of mode 0600 for each epoch, and `current`, which names the
//! epoch in use.
//!
//! A rotation is: [`create`](KeyStore::create) the next epoch, publish it, [`promote`](KeyStore::promote) it,
//! [`retire`](KeyStore::retire) the old one. After a kill at any point, each of these either has happened or
//! has not, and calling it again finishes the work. Writers exclude each other with a lock on the folder;
//! readers (the tunnel) need none, and change nothing on the disk: see [`KeyReader`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;
use zeroize::Zeroizing;

use crate::access::{self, AccessError};
use crate::durable;
use crate::file::{self, Damage, MAX_FILE, NodeKeys};

const CURRENT: &str = "current";
const CURRENT_HEADER: &str = "selvedge-current 1";
const RETIRED: &str = ".retired";

/// Why the store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder or a file belongs to another user, or lets other users in.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file is not what was written to it. It is left as it is.
    #[error("{} is damaged: {damage}; restore it from a backup, or move the folder away for new keys", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// There are no keys of that epoch.
    #[error("{} holds no keys of epoch {epoch}", dir.display())]
    Missing {
        /// The store.
        dir: PathBuf,
        /// The epoch asked for.
        epoch: u64,
    },
    /// There are keys of that epoch already; they are kept.
    #[error("{} holds keys of epoch {epoch} already", dir.display())]
    Exists {
        /// The store.
        dir: PathBuf,
        /// The epoch asked for.
        epoch: u64,
    },
    /// Epochs only grow.
    #[error("epoch {epoch} does not follow epoch {current}, which {} uses; epochs only grow", dir.display())]
    Backward {
        /// The store.
        dir: PathBuf,
        /// The epoch asked for.
        epoch: u64,
        /// The epoch in use.
        current: u64,
    },
    /// The keys in use cannot be retired.
    #[error("{} uses epoch {epoch}; promote another epoch before retiring it", dir.display())]
    InUse {
        /// The store.
        dir: PathBuf,
        /// The epoch asked for.
        epoch: u64,
    },
    /// Several epochs and nothing that says which is in use.
    #[error(
        "{} holds epochs {epochs:?} but no file `current`; restore it, or move away all but the right epoch",
        dir.display()
    )]
    NoCurrent {
        /// The store.
        dir: PathBuf,
        /// The epochs there are.
        epochs: Vec<u64>,
    },
    /// The system has no randomness to give.
    #[error("no randomness for a new key: {0}")]
    Random(#[from] getrandom::Error),
}

/// The key store of one node.
#[derive(Debug)]
pub struct KeyStore(KeyReader);

/// The key store of one node, to read. Nothing is written, made or synced.
#[derive(Debug)]
pub struct KeyReader {
    dir: PathBuf,
}

impl Deref for KeyStore {
    type Target = KeyReader;

    fn deref(&self) -> &KeyReader {
        &self.0
    }
}

impl KeyReader {
    /// Opens the store that is there.
    ///
    /// # Errors
    /// When the folder is missing or a symbolic link, belongs to somebody else or lets others in.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let folder = open_folder(&dir)?;
        access::check(&dir, &folder, 0o700)?;
        Ok(Self { dir })
    }

    /// The keys of one epoch.
    ///
    /// # Errors
    /// [`StoreError::Missing`], or [`StoreError::Damaged`] naming the file.
    pub fn load(&self, epoch: u64) -> Result<NodeKeys, StoreError> {
        let path = self.path(epoch);
        let bytes = read(&path)?.ok_or_else(|| StoreError::Missing { dir: self.dir.clone(), epoch })?;
        file::decode(&bytes, epoch).map_err(|damage| StoreError::Damaged { path, damage })
    }

    /// The epochs there are keys of, ascending.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn epochs(&self) -> Result<Vec<u64>, StoreError> {
        let mut epochs: Vec<u64> = self.names()?.iter().filter_map(|name| epoch_of(name)).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The epoch in use, None before first start.
    ///
    /// # Errors
    /// When the file that says so cannot be read or is damaged.
    pub fn current(&self) -> Result<Option<u64>, StoreError> {
        let path = self.dir.join(CURRENT);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let parsed = parse_current(&bytes);
        parsed.map(Some).map_err(|damage| StoreError::Damaged { path, damage })
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let list = || -> io::Result<Vec<String>> {
            fs::read_dir(&self.dir)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        list().map_err(|source| io_error("list", &self.dir, source))
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.dir.join(name_of(epoch))
    }
}

impl KeyStore {
    /// Opens the store, making the folder with mode 0700 if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made, is a symbolic link, belongs to somebody else or lets others in.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        durable::make_folder(&dir, 0o700).map_err(|source| io_error("make folder", &dir, source))?;
        KeyReader::open(dir).map(Self)
    }

    /// The keys in use; makes and promotes epoch 1 on first start.
    ///
    /// # Errors
    /// When the store cannot be read or written, or is damaged. A store that ever had keys never gets new ones
    /// by itself.
    pub fn ensure(&self, now: Timestamp) -> Result<NodeKeys, StoreError> {
        if let Some(epoch) = self.current()? {
            return self.load(epoch);
        }
        let _lock = self.lock()?;
        let epoch = match (self.current()?, self.epochs()?.as_slice()) {
            (Some(epoch), _) | (None, &[epoch]) => epoch,
            (None, []) => self.add(1, now)?.epoch,
            (None, epochs) => {
                return Err(StoreError::NoCurrent { dir: self.dir.clone(), epochs: epochs.into() });
            }
        };
        let keys = self.load(epoch)?;
        self.point(epoch)?;
        Ok(keys)
    }

    /// Makes new keys at an epoch above both the current one and `floor`, and promotes them at once. For a node
    /// whose store was lost or restored from an old copy while the cluster already knows epoch `floor` of it.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure); [`StoreError::Backward`] when `floor` is the last number there is.
    pub fn supersede(&self, floor: u64, now: Timestamp) -> Result<NodeKeys, StoreError> {
        let _lock = self.lock()?;
        let last = self.epochs()?.last().copied().unwrap_or(0);
        let highest = self.current()?.unwrap_or(0).max(last).max(floor);
        let next = highest.checked_add(1).ok_or_else(|| self.backward(floor, highest))?;
        let keys = self.add(next, now)?;
        self.point(next)?;
        Ok(keys)
    }

    /// Makes the keys of a new epoch, without using them yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; [`StoreError::Backward`] for an epoch not above the one in use.
    pub fn create(&self, epoch: u64, now: Timestamp) -> Result<NodeKeys, StoreError> {
        let _lock = self.lock()?;
        self.add(epoch, now)
    }

    /// Makes an epoch the one in use, after checking that its keys can be read. Promoting it again is fine.
    ///
    /// # Errors
    /// As [`load`](Self::load); [`StoreError::Backward`] for an epoch below the one in use.
    pub fn promote(&self, epoch: u64) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.load(epoch)?;
        if let Some(current) = self.current()?.filter(|current| *current > epoch) {
            return Err(self.backward(epoch, current));
        }
        self.point(epoch)
    }

    /// Overwrites and deletes the keys of an epoch, also damaged ones. Retiring what is gone is fine.
    ///
    /// # Errors
    /// [`StoreError::InUse`] for the epoch in use.
    pub fn retire(&self, epoch: u64) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        if self.current()? == Some(epoch) {
            return Err(StoreError::InUse { dir: self.dir.clone(), epoch });
        }
        let path = self.path(epoch);
        match durable::wipe(&path, &self.dir.join(format!("{}{RETIRED}", name_of(epoch)))) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| io_error("retire", &path, source)),
        }
    }

    /// With the lock held: writes the keys of a new epoch.
    fn add(&self, epoch: u64, now: Timestamp) -> Result<NodeKeys, StoreError> {
        let current = self.current()?.unwrap_or(0);
        if self.epochs()?.contains(&epoch) {
            return Err(StoreError::Exists { dir: self.dir.clone(), epoch });
        }
        if epoch <= current {
            return Err(self.backward(epoch, current));
        }
        let keys = NodeKeys::generate(epoch, 0, now)?;
        // A kill may have come between making the folder and its own sync.
        durable::sync_folder(&self.dir)
            .map_err(|source| io_error("sync the folder of", &self.dir, source))?;
        self.write(&name_of(epoch), file::encode(&keys).as_bytes())?;
        Ok(keys)
    }

    /// With the lock held: says which epoch is in use.
    fn point(&self, epoch: u64) -> Result<(), StoreError> {
        self.write(CURRENT, format!("{CURRENT_HEADER}\nepoch {epoch}\n").as_bytes())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        durable::write(&path, 0o600, content).map_err(|source| io_error("write", &path, source))
    }

    /// Excludes other writers, and clears away what a killed one left half done.
    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let folder = open_folder(&self.dir)?;
        let lock = Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io_error("lock", &self.dir, errno.into()))?;
        for name in self.names()? {
            if name.ends_with(durable::TEMPORARY) || name.ends_with(RETIRED) {
                let path = self.dir.join(name);
                durable::finish_wipe(&path).map_err(|source| io_error("clear away", &path, source))?;
            }
        }
        Ok(lock)
    }

    fn backward(&self, epoch: u64, current: u64) -> StoreError {
        StoreError::Backward { dir: self.dir.clone(), epoch, current }
    }
}

fn name_of(epoch: u64) -> String {
    format!("epoch-{epoch}")
}

fn epoch_of(name: &str) -> Option<u64> {
    let epoch = name.strip_prefix("epoch-")?.parse().ok()?;
    (name == name_of(epoch)).then_some(epoch)
}

fn parse_current(bytes: &[u8]) -> Result<u64, Damage> {
    let text = std::str::from_utf8(bytes).map_err(|_| Damage::Line(1))?;
    if text.is_empty() {
        return Err(Damage::Empty);
    }
    let line = text.strip_prefix(CURRENT_HEADER).and_then(|rest| rest.strip_prefix('\n'));
    let line = line.ok_or(Damage::Line(1))?.strip_suffix('\n').ok_or(Damage::Truncated)?;
    line.strip_prefix("epoch ").and_then(|epoch| epoch.parse().ok()).ok_or(Damage::Line(2))
}

/// The whole file, None if there is none; refuses one that others can read.
fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let mut file = match OpenOptions::new().read(true).custom_flags(O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", path, source)),
    };
    access::check(path, &file, 0o600)?;
    // Read into one buffer that never grows, so that no copy of a secret is left behind.
    let mut bytes = Zeroizing::new(vec![0; MAX_FILE + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(io_error("read", path, source)),
        }
    }
    bytes.truncate(length);
    Ok(Some(bytes))
}

fn open_folder(dir: &Path) -> Result<File, StoreError> {
    access::open_folder(dir).map_err(|source| io_error("open folder", dir, source))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests;
