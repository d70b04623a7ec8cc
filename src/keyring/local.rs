//! The files of one node: who may read its key store and its audit log, and whether they are intact.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use selvedge_keys::audit::{Verified, verify};
use selvedge_keys::rotation::Rotation;
use selvedge_keys::{AuditError, AuditReader, KeyReader, StoreError};

use super::check::{CLOCKS, LONGEST_ROTATION};
use super::policy::KeyringPolicy;
use crate::config::LONGEST_CRYPTOPERIOD;
use crate::doctor::finding::Finding;
use crate::duration;
use crate::paths::Paths;

const STORE: &str = "key-store";
const AUDIT: &str = "audit-log";
const AGE: &str = "key-age";
const CREATED: &str = "key-created";
const NEXT: &str = "next-key";

/// What the files have.
#[derive(Debug)]
pub struct Facts {
    /// Epoch and age of the key in use; none before the first start of the agent.
    store: Result<Option<(u64, Timestamp)>, StoreError>,
    /// None where there is no log.
    audit: Option<Result<Verified, String>>,
    /// The rotation that runs.
    rotation: Option<Rotation>,
    /// Whether this process may read what the agent may.
    root: bool,
}

impl Facts {
    /// Reads the files, and writes nothing.
    #[must_use]
    pub fn gather(paths: &Paths) -> Self {
        let audit = paths.audit();
        let rotation = std::fs::read(paths.rotation()).ok();
        Self {
            store: store(&paths.keys()),
            audit: audit.symlink_metadata().is_ok().then(|| read_audit(&audit)),
            rotation: rotation.and_then(|text| serde_json::from_slice(&text).ok()),
            root: nix::unistd::geteuid().is_root(),
        }
    }

    /// Whether something could not be read because this user may not.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        !self.root && self.store.is_err()
    }

    /// What is wrong.
    #[must_use]
    pub fn check(&self, policy: &KeyringPolicy, now: Timestamp) -> Vec<Finding> {
        let mut findings = vec![self.store(), self.audit()];
        if let Ok(Some((epoch, created))) = self.store {
            findings.push(age(epoch, now.duration_since(created), policy));
            findings.push(created_in_time(created, now));
        }
        findings.push(self.next(now));
        findings
    }

    fn store(&self) -> Finding {
        match &self.store {
            Ok(Some((epoch, _))) => {
                Finding::ok(STORE, format!("epoch {epoch} is in use; folder and files are the agent's alone"))
            }
            Ok(None) => Finding::ok(STORE, "no key yet: the agent makes it on its first start"),
            Err(error) if !self.root => Finding::skipped(STORE, format!("{error} (run it as root)")),
            Err(error) => {
                Finding::problem(STORE, error.to_string(), "do what it says, then restart the agent")
            }
        }
    }

    fn audit(&self) -> Finding {
        match &self.audit {
            None => Finding::warning(AUDIT, "there is no audit log", "restart the agent, which begins one"),
            Some(Ok(Verified { entries, damaged: 0, .. })) => {
                Finding::ok(AUDIT, format!("{entries} entries; folder and files are the agent's alone"))
            }
            Some(Ok(Verified { damaged, .. })) => Finding::warning(
                AUDIT,
                format!("{damaged} breaks are recorded in it"),
                "see selvedge audit verify",
            ),
            Some(Err(error)) if !self.root => Finding::skipped(AUDIT, format!("{error} (run it as root)")),
            Some(Err(error)) => Finding::problem(AUDIT, error.as_str(), "see selvedge audit verify"),
        }
    }

    fn next(&self, now: Timestamp) -> Finding {
        let published = self.rotation.as_ref().filter(|rotation| rotation.wanted().next.is_some());
        match published {
            Some(rotation) if now.duration_since(rotation.begun) > LONGEST_ROTATION => Finding::warning(
                NEXT,
                format!("rotation {} has published a next key for more than a day", rotation.id),
                "see selvedge keys status",
            ),
            _ => Finding::ok(NEXT, "no next key has been published for more than a day"),
        }
    }
}

fn store(folder: &Path) -> Result<Option<(u64, Timestamp)>, StoreError> {
    let store = KeyReader::open(folder)?;
    // All of them are read: one that may not be used has a wrong owner or mode all the same.
    let keys = store.epochs()?.into_iter().map(|epoch| store.load(epoch)).collect::<Result<Vec<_>, _>>()?;
    let current = store.current()?;
    let keys = keys.iter().find(|keys| Some(keys.epoch) == current);
    Ok(keys.map(|keys| (keys.epoch, keys.created)))
}

/// The verification reads files of any owner and mode, as an auditor has copies of them.
fn read_audit(folder: &Path) -> Result<Verified, String> {
    let open = || -> Result<(), AuditError> {
        let refused = |entry: &Result<_, AuditError>| matches!(entry, Err(AuditError::Access(_)));
        let refused = AuditReader::open(folder)?.entries()?.find(refused);
        refused.map_or(Ok(()), |entry| entry.map(drop))
    };
    open().map_err(|error| error.to_string())?;
    verify(folder, None).map_err(|error| error.to_string())
}

fn age(epoch: u64, age: SignedDuration, policy: &KeyringPolicy) -> Finding {
    let longer = |limit| SignedDuration::try_from(limit).is_ok_and(|limit| age > limit);
    let remedy = "rotate it: selvedge keys rotate";
    let seen = |limit| format!("the key of epoch {epoch} is older than {}", duration::show(limit));
    if longer(LONGEST_CRYPTOPERIOD) {
        Finding::problem(AGE, seen(LONGEST_CRYPTOPERIOD), remedy)
    } else if longer(policy.cryptoperiod) {
        Finding::warning(AGE, seen(policy.cryptoperiod), remedy)
    } else {
        Finding::ok(
            AGE,
            format!("the key of epoch {epoch} is not older than {}", duration::show(policy.cryptoperiod)),
        )
    }
}

fn created_in_time(created: Timestamp, now: Timestamp) -> Finding {
    match created.duration_since(now) > CLOCKS {
        true => Finding::problem(
            CREATED,
            format!("the key in use was made in the future, at {created:.0}"),
            "set the clock of this node, then rotate the key",
        ),
        false => Finding::ok(CREATED, format!("the key in use was made at {created:.0}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use selvedge_keys::KeyStore;
    use selvedge_keys::audit::{AuditLog, Event, Limits};
    use selvedge_keys::rotation::Phase;
    use serde_json::json;

    use super::super::inventory::tests::policy;
    use super::*;
    use crate::doctor::finding::Severity;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    /// A node whose key was made at the beginning of 1970.
    fn node() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { state: folder.path().into(), ..Paths::default() };
        KeyStore::open(paths.keys()).unwrap().ensure(Timestamp::UNIX_EPOCH).unwrap();
        let mut log = AuditLog::open(paths.audit(), Limits::default(), Timestamp::UNIX_EPOCH).unwrap();
        log.append(&Event::AgentStarted { version: "0".into() }, Timestamp::UNIX_EPOCH).unwrap();
        (folder, paths)
    }

    /// What is not as it should be on the day `day` of the key, for root.
    fn found(paths: &Paths, day: i32) -> Vec<(&'static str, Severity)> {
        let facts = Facts { root: true, ..Facts::gather(paths) };
        let findings = facts.check(&policy(90), Timestamp::UNIX_EPOCH + DAY * day);
        let bad = findings.iter().filter(|finding| finding.severity != Severity::Ok);
        bad.map(|finding| (finding.check, finding.severity)).collect()
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn modes_of_folders_and_files_are_problems() {
        let (_folder, paths) = node();
        assert_eq!(found(&paths, 1), []);
        let (store, audit) = (paths.keys(), paths.audit());
        let segment = std::fs::read_dir(&audit).unwrap().map(|entry| entry.unwrap().path());
        let segment = segment.into_iter().find(|path| path.is_file()).unwrap();
        let key = store.join("epoch-1");
        for (path, good, bad, check) in [
            (&store, 0o700, 0o750, STORE),
            (&key, 0o600, 0o604, STORE),
            (&audit, 0o700, 0o701, AUDIT),
            (&segment, 0o600, 0o640, AUDIT),
        ] {
            chmod(path, bad);
            assert_eq!(found(&paths, 1), [(check, Severity::Problem)], "{}", path.display());
            chmod(path, good);
        }
        std::fs::remove_dir_all(&audit).unwrap();
        assert_eq!(found(&paths, 1), [(AUDIT, Severity::Warning)]);
        chmod(&store, 0o755);
        let facts = Facts { root: false, ..Facts::gather(&paths) };
        assert!(facts.is_hidden());
        assert_eq!(facts.check(&policy(90), Timestamp::UNIX_EPOCH)[0].severity, Severity::Skipped);
    }

    #[test]
    fn the_age_of_the_key_is_compared_with_the_policy() {
        let (_folder, paths) = node();
        assert_eq!(found(&paths, 90), []);
        assert_eq!(found(&paths, 91), [(AGE, Severity::Warning)]);
        assert_eq!(found(&paths, 366), [(AGE, Severity::Problem)]);
        assert_eq!(found(&paths, -1), [(CREATED, Severity::Problem)]);
    }

    #[test]
    fn a_rotation_that_does_not_end_is_found() {
        let (_folder, paths) = node();
        let write = |phase: Phase| {
            let at = Timestamp::UNIX_EPOCH;
            let rotation =
                json!({"id": "r", "from": 1, "to": 2, "phase": phase, "begun": at, "deadline": at});
            std::fs::write(paths.rotation(), rotation.to_string()).unwrap();
        };
        write(Phase::Confirm);
        assert_eq!(found(&paths, 1), []);
        assert_eq!(found(&paths, 2), [(NEXT, Severity::Warning)]);
        // The old key may wait for its last session for a day, when the new one is in use.
        write(Phase::Retire);
        assert_eq!(found(&paths, 2), []);
    }
}
