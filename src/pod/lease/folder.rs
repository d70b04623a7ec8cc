//! The folder of leases, and changes to it under its lock.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::listing::Listing;
use super::{Error, Holder, Lease, PATIENCE, Unreadable};
use crate::pod::attachment::Attachment;
use crate::pod::pool::{Addresses, Pool};

const POLL: Duration = Duration::from_micros(500);
pub(super) const TEMPORARY: &str = ".new";

/// The folder of leases.
#[derive(Debug, Clone)]
pub struct Leases {
    pub(super) folder: PathBuf,
}

impl Leases {
    /// Leases in `folder`, which need not exist.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Waits for the lock, for a bounded time. The folder is made if it is missing.
    pub fn lock(&self) -> Result<Locked, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(|source| self.failed("make", source))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(locked) = self.try_lock()? {
                return Ok(locked);
            }
            std::thread::sleep(POLL);
        }
        Err(Error::Busy(self.folder.clone()))
    }

    fn try_lock(&self) -> Result<Option<Locked>, Error> {
        let folder = File::open(&self.folder).map_err(|source| self.failed("open", source))?;
        let lock = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK | nix::Error::EINTR)) => return Ok(None),
            Err((_, errno)) => return Err(self.failed("lock", errno.into())),
        };
        // Somebody may have put another folder in this place meanwhile; then the lock is worth nothing.
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let held = lock.metadata().map(id).map_err(|source| self.failed("look at", source))?;
        let named = std::fs::metadata(&self.folder).map(id).ok();
        Ok((named == Some(held)).then(|| Locked { folder: self.folder.clone(), _lock: lock }))
    }

    /// The lease of an attachment, if there is one.
    pub fn find(&self, attachment: &Attachment) -> Result<Option<Lease>, Error> {
        let port = attachment.port().name;
        let listing = Listing::read(&self.folder)?;
        listing
            .leases
            .iter()
            .find(|entry| entry.port == port)
            .map(|entry| entry.read(&self.folder))
            .transpose()
    }

    /// All leases, and the files that should be leases but can't be read.
    pub fn list(&self) -> Result<(Vec<Lease>, Vec<Unreadable>), Error> {
        Ok(Listing::read(&self.folder)?.open(&self.folder))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::Io { what, path: self.folder.clone(), source }
    }
}

/// The folder while nobody else changes it.
#[derive(Debug)]
pub struct Locked {
    pub(super) folder: PathBuf,
    _lock: Flock<File>,
}

impl Locked {
    /// Leases the next addresses of `pool`. Dying at any point leaves the lease made or not made.
    pub fn take(&self, pool: &Pool, holder: Holder) -> Result<Lease, Error> {
        let listing = Listing::read(&self.folder)?;
        let port = holder.attachment.port().name;
        if listing.leases.iter().any(|entry| entry.port == port) {
            return Err(Error::Exists(holder.attachment));
        }
        let taken: BTreeSet<IpAddr> =
            listing.leases.iter().flat_map(|entry| entry.addresses.iter().collect::<Vec<_>>()).collect();
        let rested: Vec<Addresses> = listing.rested.iter().map(|rest| rest.addresses.clone()).collect();
        let addresses = pool.next(&taken, &rested).ok_or(Error::NoAddresses { capacity: pool.capacity() })?;
        if !holder.host_ports.is_empty() {
            listing.host_ports_are_free(&self.folder, &holder.host_ports)?;
        }
        let Holder { network, attachment, netns, netns_id, pod, mtu, datapath, host_ports } = holder;
        let lease = Lease { network, attachment, netns, netns_id, pod, addresses, mtu, datapath, host_ports };
        // What a process left that died while it gave the same lease back.
        self.forget_gone(&listing, &port)?;
        self.write(&lease, &port)?;
        for rest in listing.rested.iter().filter(|rest| rest.addresses == lease.addresses) {
            self.remove(&rest.name)?;
        }
        Ok(lease)
    }

    /// As [`Leases::list`].
    pub fn list(&self) -> Result<(Vec<Lease>, Vec<Unreadable>), Error> {
        Ok(Listing::read(&self.folder)?.open(&self.folder))
    }

    /// Gives the addresses of a lease back, to rest. Gone already is fine.
    pub fn give_back(&self, attachment: &Attachment) -> Result<(), Error> {
        let listing = Listing::read(&self.folder)?;
        let port = attachment.port().name;
        let mut number = listing.rested.last().map_or(0, |rest| rest.number);
        for entry in listing.leases.iter().filter(|entry| entry.port == port) {
            number += 1;
            let rest = self.folder.join(format!("{}~{number:020}", entry.addresses));
            let path = self.folder.join(&entry.name);
            std::fs::rename(&path, rest).map_err(|source| Error::Io { what: "give back", path, source })?;
        }
        self.forget_gone(&listing, &port)
    }

    fn write(&self, lease: &Lease, port: &str) -> Result<(), Error> {
        // Under the lock the temporary name is ours; what is there is from a process that died.
        let (temporary, path) =
            (self.folder.join(TEMPORARY), self.folder.join(format!("{}@{port}", lease.addresses)));
        self.remove(TEMPORARY)?;
        let text = serde_json::to_vec(lease).map_err(|source| Error::Json { path: path.clone(), source })?;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&text)?;
            std::fs::hard_link(&temporary, &path)
        };
        write().map_err(|source| Error::Io { what: "write", path: path.clone(), source })?;
        self.remove(TEMPORARY)
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }
}
