//! The files in the folder of leases.

use std::io;
use std::path::Path;

use super::{Error, Lease, Unreadable};
use crate::pod::mapping::HostPort;
use crate::pod::pool::Addresses;

/// What the names in the folder say.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) leases: Vec<Entry>,
    /// Oldest first.
    pub(super) rested: Vec<Rest>,
    pub(super) gone: Vec<Gone>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) addresses: Addresses,
    pub(super) port: String,
}

#[derive(Debug)]
pub(super) struct Rest {
    pub(super) name: String,
    pub(super) addresses: Addresses,
    pub(super) number: u64,
}

/// Since when a lease's pod has been seen to be gone.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) name: String,
    pub(super) port: String,
    /// Seconds since boot.
    pub(super) since: i64,
}

impl Listing {
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
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

    pub(super) fn open(&self, folder: &Path) -> (Vec<Lease>, Vec<Unreadable>) {
        let mut found = (vec![], vec![]);
        for entry in &self.leases {
            match entry.read(folder) {
                Ok(lease) => found.0.push(lease),
                Err(source) => found.1.push(Unreadable { addresses: entry.addresses.clone(), source }),
            }
        }
        found
    }

    pub(super) fn host_ports_are_free(&self, folder: &Path, wanted: &[HostPort]) -> Result<(), Error> {
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
        } else if let Some((port, since)) = name.split_once('!')
            && let Ok(since) = since.parse()
        {
            let port = port.to_owned();
            self.gone.push(Gone { port, since, name });
        }
    }
}

impl Entry {
    pub(super) fn read(&self, folder: &Path) -> Result<Lease, Error> {
        let path = folder.join(&self.name);
        let text =
            std::fs::read(&path).map_err(|source| Error::Io { what: "read", path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| Error::Json { path, source })
    }
}
