//! Who has which addresses: one file per pod interface, safe against being killed at any point.
//!
//! The folder holds files named `ADDRESSES@PORT`, each a lease, and `ADDRESSES~NUMBER`, addresses that came back,
//! numbered in the order of coming back. Addresses of both families are one name, so a lease is one `link(2)` and
//! giving it back one `rename(2)`: there is no state in between. Changes happen under a lock on the folder itself,
//! which the kernel drops with the process.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::attachment::{Attachment, PodName};
use super::mapping::HostPort;
use super::node::Datapath;
use super::pool::{Addresses, Pool};

/// How long to wait for another process.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_micros(500);
const TEMPORARY: &str = ".new";

/// A lease as it is in its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// Name of the network.
    pub network: String,
    /// Container and interface.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The pod's network namespace when it was added.
    pub netns: PathBuf,
    /// The pod, if the runtime said.
    #[serde(default)]
    pub pod: PodName,
    /// Its addresses.
    pub addresses: Addresses,
    /// Largest packet of its interface, in bytes: the node's when it was added.
    pub mtu: u32,
    /// How it was connected.
    #[serde(default)]
    pub datapath: Datapath,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
}

/// What to lease for.
#[derive(Debug, Clone)]
pub struct Holder {
    /// Name of the network.
    pub network: String,
    /// Container and interface.
    pub attachment: Attachment,
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// The pod, if the runtime said.
    pub pod: PodName,
    /// Largest packet of its interface, in bytes.
    pub mtu: u32,
    /// How it is to be connected.
    pub datapath: Datapath,
    /// Ports of the node that are to lead to it.
    pub host_ports: Vec<HostPort>,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every address is somebody's.
    #[error(
        "all {capacity} pod addresses of this node are in use; delete pods here, or give nodes larger pod CIDRs"
    )]
    NoAddresses {
        /// How many pods fit.
        capacity: u32,
    },
    /// ADD was called twice.
    #[error("{0} has addresses already; DEL has to come first")]
    Exists(Attachment),
    /// Another pod has it.
    #[error("{port} leads to {holder} already")]
    HostPortTaken {
        /// The port of the node.
        port: HostPort,
        /// Who has it.
        holder: String,
    },
    /// Another process holds the lock.
    #[error("{} has been locked by another process for {PATIENCE:?}", .0.display())]
    Busy(PathBuf),
    /// The folder or a file in it can't be used.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A lease is not what it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// A file that should be a lease, and is not.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Unreadable {
    /// The addresses that it is about, as its name says.
    pub addresses: Addresses,
    /// What is wrong with it.
    source: Error,
}

impl Lease {
    /// Whose it is, as people know it.
    #[must_use]
    pub fn holder(&self) -> String {
        match &self.pod {
            pod if pod.name.is_empty() => self.attachment.to_string(),
            pod => format!("pod {}/{} ({})", pod.namespace, pod.name, self.attachment),
        }
    }
}

/// The folder of leases.
#[derive(Debug, Clone)]
pub struct Leases {
    folder: PathBuf,
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
    folder: PathBuf,
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
        let Holder { network, attachment, netns, pod, mtu, datapath, host_ports } = holder;
        let lease = Lease { network, attachment, netns, pod, addresses, mtu, datapath, host_ports };
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
        Ok(())
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

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Io { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }
}

/// What the names in the folder say.
#[derive(Debug, Default)]
struct Listing {
    leases: Vec<Entry>,
    /// Oldest first.
    rested: Vec<Rest>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    addresses: Addresses,
    port: String,
}

#[derive(Debug)]
struct Rest {
    name: String,
    addresses: Addresses,
    number: u64,
}

impl Listing {
    fn read(folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { what: "list", path: folder.to_owned(), source };
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries.map_err(failed)?,
        };
        let mut listing = Self::default();
        for entry in entries {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                listing.add(name);
            }
        }
        listing.leases.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        listing.rested.sort_by_key(|rest| rest.number);
        Ok(listing)
    }

    fn open(&self, folder: &Path) -> (Vec<Lease>, Vec<Unreadable>) {
        let mut found = (vec![], vec![]);
        for entry in &self.leases {
            match entry.read(folder) {
                Ok(lease) => found.0.push(lease),
                Err(source) => found.1.push(Unreadable { addresses: entry.addresses.clone(), source }),
            }
        }
        found
    }

    fn host_ports_are_free(&self, folder: &Path, wanted: &[HostPort]) -> Result<(), Error> {
        for lease in self.open(folder).0 {
            let taken = |port: &&HostPort| lease.host_ports.iter().any(|other| other.overlaps(port));
            if let Some(port) = wanted.iter().find(taken) {
                return Err(Error::HostPortTaken { port: *port, holder: lease.holder() });
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String) {
        if let Some((addresses, port)) = name.split_once('@') {
            if let Some(addresses) = Addresses::parse(addresses) {
                let port = port.to_owned();
                self.leases.push(Entry { addresses, port, name });
            }
        } else if let Some((addresses, number)) = name.split_once('~')
            && let (Some(addresses), Ok(number)) = (Addresses::parse(addresses), number.parse())
        {
            self.rested.push(Rest { addresses, number, name });
        }
    }
}

impl Entry {
    fn read(&self, folder: &Path) -> Result<Lease, Error> {
        let path = folder.join(&self.name);
        let text =
            std::fs::read(&path).map_err(|source| Error::Io { what: "read", path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::Protocol;
    use super::*;

    fn pool(net: &str) -> Pool {
        Pool::new(&[net.parse().unwrap(), "fd00::/64".parse().unwrap()])
    }

    fn holder(container: &str) -> Holder {
        Holder {
            network: "pods".to_owned(),
            attachment: Attachment::new(container, "eth0").unwrap(),
            netns: "/run/netns/x".into(),
            pod: PodName::default(),
            mtu: 1420,
            datapath: Datapath::Bridge,
            host_ports: vec![],
        }
    }

    fn leases() -> (tempfile::TempDir, Leases) {
        let folder = tempfile::tempdir().unwrap();
        let leases = Leases::new(folder.path().join("leases"));
        (folder, leases)
    }

    fn take(leases: &Leases, container: &str) -> Result<String, Error> {
        let lease = leases.lock()?.take(&pool("10.1.0.0/29"), holder(container))?;
        Ok(lease.addresses.to_string())
    }

    fn give_back(leases: &Leases, container: &str) {
        leases.lock().unwrap().give_back(&holder(container).attachment).unwrap();
    }

    #[test]
    fn taken_found_and_given_back() {
        let (_folder, leases) = leases();
        assert_eq!(leases.find(&holder("a").attachment).unwrap(), None);
        assert_eq!(take(&leases, "a").unwrap(), "10.1.0.2,fd00::2");
        let found = leases.find(&holder("a").attachment).unwrap().unwrap();
        assert_eq!((found.addresses.to_string().as_str(), &*found.network), ("10.1.0.2,fd00::2", "pods"));
        assert!(matches!(take(&leases, "a"), Err(Error::Exists(_))));
        give_back(&leases, "a");
        give_back(&leases, "a");
        assert_eq!(leases.find(&holder("a").attachment).unwrap(), None);
    }

    #[test]
    fn addresses_rest_before_they_come_again() {
        let (_folder, leases) = leases();
        let names = ["a", "b", "c", "d", "e"];
        let given: Vec<String> = names.iter().map(|name| take(&leases, name).unwrap()).collect();
        assert_eq!(given.last().unwrap(), "10.1.0.6,fd00::6");
        assert!(matches!(take(&leases, "f"), Err(Error::NoAddresses { capacity: 5 })));
        for name in ["c", "a", "e"] {
            give_back(&leases, name);
        }
        let again: Vec<String> = ["x", "y", "z"].iter().map(|name| take(&leases, name).unwrap()).collect();
        assert_eq!(again, ["10.1.0.4,fd00::4", "10.1.0.2,fd00::2", "10.1.0.6,fd00::6"]);
    }

    #[test]
    fn an_address_of_an_older_pod_cidr_is_not_given_twice() {
        let (_folder, leases) = leases();
        take(&leases, "a").unwrap();
        let other = leases.lock().unwrap().take(&pool("10.9.0.0/29"), holder("b")).unwrap();
        assert_eq!(other.addresses.to_string(), "10.9.0.3,fd00::3", "fd00::2 is still in use");
    }

    #[test]
    fn what_a_dead_process_left_is_no_harm() {
        let (_folder, leases) = leases();
        take(&leases, "a").unwrap();
        give_back(&leases, "a");
        // Died after writing, before linking; and after linking, before removing the rest.
        std::fs::write(leases.folder.join(TEMPORARY), b"{").unwrap();
        std::fs::write(leases.folder.join("10.1.0.3,fd00::3~00000000000000000009"), b"{").unwrap();
        let given: Vec<String> =
            ["b", "c", "d", "e"].iter().map(|name| take(&leases, name).unwrap()).collect();
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 4);
        std::fs::write(leases.folder.join("10.1.0.2,fd00::2~00000000000000000010"), b"{").unwrap();
        let fifth = take(&leases, "f").unwrap();
        assert!(!given.contains(&fifth));
        assert!(matches!(take(&leases, "g"), Err(Error::NoAddresses { .. })));
    }

    #[test]
    fn an_unreadable_lease_keeps_its_addresses_and_is_told() {
        let (_folder, leases) = leases();
        take(&leases, "a").unwrap();
        let (name, _) = ("10.1.0.2,fd00::2@".to_owned() + &holder("a").attachment.port().name, ());
        std::fs::write(leases.folder.join(name), b"").unwrap();
        assert_eq!(leases.list().unwrap().1.len(), 1);
        assert_eq!(take(&leases, "b").unwrap(), "10.1.0.3,fd00::3");
        give_back(&leases, "a");
        assert_eq!(leases.list().unwrap().1.len(), 0);
    }

    #[test]
    fn a_host_port_has_one_holder() {
        let (_folder, leases) = leases();
        let take = |container: &str, host: &str| {
            let host_ip = (!host.is_empty()).then(|| host.parse().unwrap());
            let port = HostPort { host_ip, host_port: 80, protocol: Protocol::Tcp, container_port: 8080 };
            let pod =
                PodName { namespace: "shop".to_owned(), name: container.to_owned(), ..PodName::default() };
            let holder = Holder { host_ports: vec![port], pod, ..holder(container) };
            leases.lock().unwrap().take(&pool("10.1.0.0/24"), holder)
        };
        let lease = take("a", "192.0.2.1").unwrap();
        assert_eq!(leases.find(&lease.attachment).unwrap(), Some(lease));
        take("b", "192.0.2.2").unwrap();
        let error = take("c", "").unwrap_err().to_string();
        assert_eq!(error, "TCP port 80 of the node leads to pod shop/a (eth0 of container a) already");
        assert_eq!(leases.list().unwrap().0.len(), 2, "no lease without its host ports");
        give_back(&leases, "a");
        assert!(take("c", "").unwrap_err().to_string().contains("shop/b"));
        give_back(&leases, "b");
        take("c", "").unwrap();
    }

    #[test]
    fn threads_never_share() {
        let (_folder, leases) = leases();
        let pool = pool("10.1.0.0/24");
        let given: Vec<Addresses> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..40)
                .map(|number| {
                    let (leases, pool) = (&leases, &pool);
                    scope.spawn(move || {
                        leases.lock().unwrap().take(pool, holder(&format!("c{number}"))).unwrap().addresses
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 40);
    }

    #[test]
    fn a_folder_put_in_its_place_is_noticed() {
        let (_folder, leases) = leases();
        let first = leases.lock().unwrap();
        std::fs::rename(&leases.folder, leases.folder.with_file_name("old")).unwrap();
        let second = leases.lock().unwrap();
        drop((first, second));
        take(&leases, "a").unwrap();
    }
}
