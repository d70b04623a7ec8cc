//! The ranges of cluster IPs that are in force, for all who go by them. Those that ServiceCIDR objects have added are on disk: the
//! guard has to know them before the API server is reached.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use ipnet::IpNet;
use selvedge_keys::durable;

use super::cell::Cell;
use super::facts::KernelFacts;
use crate::config::Config;
use crate::service::ranges::{Apart, MOST, Ranges, Refused};

/// What a file of that many ranges has at most, in bytes.
const LARGEST: u64 = 64 * 1024;

/// The ranges of cluster IPs. One writer, the controller of that name.
#[derive(Debug, Default)]
pub(super) struct ServiceRanges {
    file: PathBuf,
    ranges: Cell<Ranges>,
    /// All of them.
    all: Cell<Arc<[IpNet]>>,
    /// The content of the file; none without a file.
    saved: Cell<Option<BTreeSet<IpNet>>>,
    /// The API server has said that it serves no ServiceCIDRs, or not to this agent. Does not count once it has.
    is_unserved: AtomicBool,
    /// The ranges of all objects have been in force, now or in an earlier life of the agent.
    is_known: AtomicBool,
}

impl ServiceRanges {
    /// Loads what earlier agents have found. Where the file is damaged, `fallback` has the ranges that were in force last.
    pub(super) fn open(
        file: PathBuf,
        configured: Vec<IpNet>,
        apart: &Apart,
        fallback: impl FnOnce() -> Vec<IpNet>,
    ) -> Self {
        let (remembered, saved) = match read(&file) {
            Ok(Some(found)) => (found.clone(), Some(found)),
            Ok(None) => (BTreeSet::new(), None),
            Err(error) => {
                tracing::warn!(file = %file.display(), error, "the ranges of Services that were found are damaged");
                (fallback().into_iter().collect(), None)
            }
        };
        let ranges = Ranges::new(configured, remembered, apart);
        let all = Cell::new(ranges.all().into());
        let is_known = saved.is_some().into();
        Self { file, all, is_known, saved: Cell::new(saved), ranges: Cell::new(ranges), ..Self::default() }
    }

    /// All ranges in force, the configured ones first.
    pub(super) fn get(&self) -> Arc<[IpNet]> {
        self.all.get()
    }

    /// Whether nothing in force is missing: the ranges of all objects have been seen, or there are no such objects.
    pub(super) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Notes that the API server does not serve ServiceCIDRs.
    pub(super) fn set_unserved(&self) {
        self.is_unserved.store(true, Ordering::Relaxed);
    }

    /// Whether the API server does not serve ServiceCIDRs.
    pub(super) fn is_unserved(&self) -> bool {
        self.is_unserved.load(Ordering::Relaxed)
    }

    /// Takes the ranges of all objects that are there. Returns those that come into force, and those that are refused.
    pub(super) fn take<'a>(
        &self,
        objects: impl IntoIterator<Item = (&'a str, &'a [String])>,
        apart: &Apart,
    ) -> (Vec<IpNet>, Vec<Refused>) {
        let (now, refused) = {
            let mut ranges = self.ranges.lock();
            let refused = ranges.take(objects, apart);
            (ranges.all(), refused)
        };
        let before = self.get();
        let new = now.iter().filter(|range| !before.contains(range)).copied().collect();
        self.all.set(now.into());
        (new, refused)
    }

    /// Saves what the next agent has to know. See [`Ranges::to_remember`].
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let ranges = self.ranges.lock().to_remember().clone();
        if self.saved.lock().as_ref() == Some(&ranges) {
            return Ok(());
        }
        let text = serde_json::to_vec(&ranges).context("write the ranges of Services as JSON")?;
        let written = durable::write(&self.file, 0o600, &text);
        written.with_context(|| format!("cannot write {}", self.file.display()))?;
        self.saved.set(Some(ranges));
        Ok(())
    }

    /// Notes that the ranges of all objects are in force.
    pub(super) fn set_known(&self) -> bool {
        !self.is_known.swap(true, Ordering::Relaxed)
    }
}

/// None without a file.
fn read(file: &std::path::Path) -> Result<Option<BTreeSet<IpNet>>, String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Ok(it) if it.len() > LARGEST => return Err(format!("{} bytes", it.len())),
        Ok(_) => {}
        Err(error) => return Err(error.to_string()),
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let ranges: BTreeSet<IpNet> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if ranges.len() > MOST || ranges.iter().any(|range| range.trunc() != *range) {
        return Err("not a list of ranges".to_owned());
    }
    Ok(Some(ranges))
}

/// What no range can have, as far as it is known without the API server. `servers` are the API servers.
pub(super) fn apart(
    config: &Config,
    facts: &KernelFacts,
    servers: impl IntoIterator<Item = std::net::IpAddr>,
) -> Apart {
    let outside = config.trusted_sources.iter().chain(&config.non_masquerade_cidrs);
    Apart {
        pods: config.cluster_pod_cidrs.clone(),
        outside: outside.copied().collect(),
        hosts: facts.host_addresses().chain(servers).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_was_found_is_in_force_before_the_api_server_answers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("service-cidrs.json");
        let open = || {
            let fallback = || nets(&["10.96.0.0/16", "10.99.0.0/24"]);
            ServiceRanges::open(file.clone(), nets(&["10.96.0.0/16"]), &Apart::default(), fallback)
        };
        let first = open();
        assert!(
            !first.is_known() && *first.get() == nets(&["10.96.0.0/16"]),
            "a missing file is not a damaged one"
        );
        let texts = ["10.97.0.0/24".to_owned()];
        let (new, refused) = first.take([("more", &texts[..])], &Apart::default());
        assert_eq!((new, refused), (nets(&["10.97.0.0/24"]), Vec::new()));
        first.save().unwrap();
        let joined = nets(&["10.96.0.0/16", "10.97.0.0/24"]);
        let second = open();
        assert!(second.is_known() && *second.get() == joined);
        // The list does not have it any more: in force until the next start.
        assert_eq!(second.take([], &Apart::default()), (Vec::new(), Vec::new()));
        second.save().unwrap();
        assert_eq!(*second.get(), joined);
        assert_eq!(*open().get(), nets(&["10.96.0.0/16"]));
        for damage in ["[\"10.97", "[\"10.97.0.1/24\"]", "{}"] {
            std::fs::write(&file, damage).unwrap();
            let damaged = open();
            assert!(!damaged.is_known());
            assert_eq!(*damaged.get(), nets(&["10.96.0.0/16", "10.99.0.0/24"]), "{damage}");
        }
    }
}
