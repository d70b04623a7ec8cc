//! What is promised to be on disk is there before anything relies on it, and reading writes nothing: seen in the system
//! calls that are really made.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use selvedge::mesh::Records;
use selvedge::paths::Paths;
use selvedge::pod::file::{Durability, replace, replace_from};
use selvedge_keys::{KeyReader, KeyStore, durable};
use selvedge_lab::trace::{Call, is_folder_synced, is_replaced_durably};
use selvedge_lab::traced;

/// A folder named after the test, of which no `..` or link is part; removed at the end. Both the process that traces and
/// the one that is traced know it by the name.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(fs::canonicalize(std::env::temp_dir()).unwrap().join(format!("selvedge-durability-{name}")))
    }

    /// Empty, for the traced process to begin with.
    fn emptied(&self) -> &Path {
        let _ = fs::remove_dir_all(&self.0);
        fs::create_dir(&self.0).unwrap();
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn now() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

#[test]
fn a_written_file_is_on_disk_under_its_name() {
    let folder = Folder::new("write");
    let path = folder.0.join("file");
    let calls = traced!(|| durable::write(&folder.emptied().join("file"), 0o600, b"content").unwrap());
    is_replaced_durably(&calls, &path).unwrap();
}

#[test]
fn new_keys_are_on_disk_with_all_their_folders_before_they_are_in_use() {
    let folder = Folder::new("keys");
    let store = folder.0.join("state/keys");
    let calls = traced!(|| {
        let store = folder.emptied().join("state/keys");
        KeyStore::open(store).unwrap().ensure(now()).unwrap();
    });
    for path in [store.join("epoch-1"), store.join("current")] {
        is_replaced_durably(&calls, &path).unwrap();
    }
    let place = |call: &Call| calls.iter().position(|other| other == call);
    let synced = |folder: &Path| place(&Call::Sync(folder.into())).unwrap();
    for made in [&store, store.parent().unwrap()] {
        let made_at = calls.iter().rposition(|call| *call == Call::MakeFolder(made.into())).unwrap();
        is_folder_synced(&calls[made_at..], made).unwrap();
    }
    let named = |name: &str| {
        calls.iter().position(|call| matches!(call, Call::Rename(_, to) if *to == store.join(name)))
    };
    assert!(
        named("epoch-1").unwrap() < synced(&store) && synced(&store) < named("current").unwrap(),
        "{calls:#?}"
    );
}

/// A kill between making the folder and syncing it must not leave keys in a folder that is not on disk.
#[test]
fn the_store_s_folder_is_synced_before_the_first_keys_even_if_it_was_there() {
    let folder = Folder::new("folder");
    let store = folder.0.join("keys");
    let calls = traced!(|| {
        let store = folder.emptied().join("keys");
        durable::make_folder(&store, 0o700).unwrap();
        KeyStore::open(store).unwrap().create(1, now()).unwrap();
    });
    let opened = calls.iter().rposition(|call| *call == Call::MakeFolder(store.clone())).unwrap();
    let named = calls.iter().position(|call| matches!(call, Call::Rename(..))).unwrap();
    is_folder_synced(&calls[opened..named], &store).unwrap();
}

#[test]
fn retired_keys_are_overwritten_on_disk_before_they_are_unlinked() {
    let folder = Folder::new("retire");
    let store = folder.0.join("keys");
    let doomed = store.join("epoch-1.retired");
    let calls = traced!(|| {
        let store = KeyStore::open(folder.emptied().join("keys")).unwrap();
        store.ensure(now()).unwrap();
        store.create(2, now()).unwrap();
        store.promote(2).unwrap();
        store.retire(1).unwrap();
    });
    let place =
        |call: &Call| calls.iter().rposition(|other| other == call).unwrap_or_else(|| panic!("no {call:?}"));
    let renamed = place(&Call::Rename(store.join("epoch-1"), doomed.clone()));
    let written = place(&Call::Write(doomed.clone()));
    let synced = place(&Call::Sync(doomed.clone()));
    let removed = place(&Call::Remove(doomed.clone()));
    assert!(renamed < written && written < synced && synced < removed, "{calls:#?}");
    is_folder_synced(&calls[renamed..written], &doomed).unwrap();
    is_folder_synced(&calls[removed..], &doomed).unwrap();
}

#[test]
fn accepted_claims_are_on_disk() {
    let folder = Folder::new("records");
    let path = folder.0.join("records.json");
    let calls = traced!(|| {
        Records::default().save(&folder.emptied().join("records.json")).unwrap();
    });
    is_replaced_durably(&calls, &path).unwrap();
}

#[test]
fn damaged_records_are_moved_aside_on_disk() {
    let folder = Folder::new("aside");
    let path = folder.0.join("records.json");
    let calls = traced!(|| {
        let path = folder.emptied().join("records.json");
        fs::write(&path, "damaged").unwrap();
        assert!(Records::open(&path).unwrap().1.is_some());
    });
    let renamed =
        calls.iter().position(|call| matches!(call, Call::Rename(from, _) if *from == path)).unwrap();
    is_folder_synced(&calls[renamed..], &path).unwrap();
}

#[test]
fn what_the_cni_plugin_reads_after_a_power_cut_is_on_disk() {
    let folder = Folder::new("plugin");
    let [text, program] = ["node.json", "plugin"].map(|name| folder.0.join(name));
    let calls = traced!(|| {
        let folder = folder.emptied();
        replace(&folder.join("node.json"), 0o644, Durability::Disk, b"text").unwrap();
        replace_from(&folder.join("plugin"), 0o755, Durability::Disk, &mut &b"program"[..]).unwrap();
    });
    is_replaced_durably(&calls, &text).unwrap();
    is_replaced_durably(&calls, &program).unwrap();
}

#[test]
fn the_plugin_its_configuration_and_its_node_are_installed_durably() {
    let folder = Folder::new("install");
    let [program, conflist] = ["bin/selvedge", "net.d/10-selvedge.conflist"].map(|name| folder.0.join(name));
    let calls = traced!(|| {
        let folder = folder.emptied();
        let paths = Paths::default();
        selvedge::pod::install::install(&paths, &folder.join("bin"), &folder.join("net.d"), "network")
            .unwrap();
    });
    is_replaced_durably(&calls, &program).unwrap();
    is_replaced_durably(&calls, &conflist).unwrap();
}

#[test]
fn keys_are_read_without_a_write_or_a_sync() {
    let folder = Folder::new("read");
    let store = folder.0.join("keys");
    let calls = traced!(|| {
        let store = folder.emptied().join("keys");
        KeyStore::open(&store).unwrap().ensure(now()).unwrap();
        // From here on: what a tunnel does, and then what an agent does on every start.
        let keys = KeyReader::open(&store).unwrap();
        assert_eq!(keys.load(keys.current().unwrap().unwrap()).unwrap().epoch, 1);
        assert_eq!(KeyStore::open(&store).unwrap().ensure(now()).unwrap().epoch, 1);
    });
    let renamed = calls.iter().rposition(|call| matches!(call, Call::Rename(..))).unwrap();
    let synced = calls[renamed..].iter().position(|call| *call == Call::Sync(store.clone())).unwrap();
    let reading = &calls[renamed + synced + 1..];
    let seen = reading.iter().filter(|call| **call == Call::Open(store.join("epoch-1"))).count();
    assert_eq!(seen, 2, "the detector sees what is read: {reading:#?}");
    let changes = |call: &&Call| !matches!(call, Call::Open(_) | Call::MakeFolder(_));
    let changes: Vec<_> =
        reading.iter().filter(changes).filter(|call| call.path().starts_with(&folder.0)).collect();
    assert!(changes.is_empty(), "{changes:#?}");
}
