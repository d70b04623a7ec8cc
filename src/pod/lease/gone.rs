//! Leases whose pods are gone: since when that has been seen, and what follows.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

use super::listing::{Entry, Gone, Listing};
use super::{Error, Lease, Leases, Locked};

/// How long a pod has to be gone before its lease is released: longer than an ADD, a DEL or a GC lasts, so that whoever
/// works on it has ended.
pub const GRACE: Duration = Duration::from_secs(120);

/// What becomes of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It stays as it is.
    Keep,
    /// Its pod is seen to be gone for the first time.
    Note,
    /// Its pod is there after all.
    Forget,
    /// It is given back.
    Release,
}

/// `gone` now, and `since` when according to the note that there is; both times in seconds since boot.
fn judge(gone: bool, since: Option<i64>, now: i64) -> Verdict {
    match (gone, since) {
        (false, None) => Verdict::Keep,
        (false, Some(_)) => Verdict::Forget,
        (true, Some(since)) if since <= now => {
            let lasted = now.abs_diff(since);
            if lasted >= GRACE.as_secs() { Verdict::Release } else { Verdict::Keep }
        }
        // Without a note, or with one of the future, which nobody has made.
        (true, _) => Verdict::Note,
    }
}

impl Leases {
    /// Whether [`Locked::expire`] may have something to do: a pod is gone, or was. Without the lock, and without reading
    /// more than the leases whose ports are missing.
    pub fn may_expire(
        &self,
        is_missing: impl Fn(&str) -> bool,
        is_gone: impl Fn(&Lease) -> bool,
    ) -> Result<bool, Error> {
        let listing = Listing::read(&self.folder)?;
        let mut missing = listing.leases.iter().filter(|entry| is_missing(&entry.port));
        let gone = |entry: &Entry| entry.read(&self.folder).is_ok_and(|lease| is_gone(&lease));
        Ok(!listing.gone.is_empty() || missing.any(gone))
    }
}

impl Locked {
    /// The leases whose pods have been gone for [`GRACE`] at `now` (time since boot), and the number of those that have been
    /// for less. `gone` are the ports of all whose pods are gone now. Notes what has changed.
    pub fn expire(&self, gone: &BTreeSet<String>, now: Duration) -> Result<(Vec<Lease>, usize), Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let listing = Listing::read(&self.folder)?;
        // Somebody may have removed a lease by hand.
        let has_lease = |note: &&Gone| listing.leases.iter().any(|entry| entry.port == note.port);
        listing.gone.iter().filter(|note| !has_lease(note)).try_for_each(|note| self.remove(&note.name))?;
        let (mut expired, mut waiting) = (vec![], 0);
        for lease in listing.open(&self.folder).0 {
            let port = lease.attachment.port().name;
            let since = listing.gone.iter().filter(|note| note.port == port).map(|note| note.since).min();
            match judge(gone.contains(&port), since, now) {
                Verdict::Keep => waiting += usize::from(since.is_some()),
                Verdict::Forget => self.forget_gone(&listing, &port)?,
                Verdict::Release => expired.push(lease),
                Verdict::Note => {
                    self.forget_gone(&listing, &port)?;
                    self.note_gone(&port, now)?;
                    waiting += 1;
                }
            }
        }
        Ok((expired, waiting))
    }

    fn note_gone(&self, port: &str, now: i64) -> Result<(), Error> {
        let path = self.folder.join(format!("{port}!{now}"));
        File::create(&path).map(drop).map_err(|source| Error::Io { what: "write", path, source })
    }

    pub(super) fn forget_gone(&self, listing: &Listing, port: &str) -> Result<(), Error> {
        listing.gone.iter().filter(|note| note.port == port).try_for_each(|note| self.remove(&note.name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::lease::tests::{holder, leases, pool};

    const LONG: i64 = GRACE.as_secs().cast_signed();

    proptest! {
        /// A pod is looked at now and then. Its lease is released when, and only when, it was gone at every look for the time of
        /// grace.
        #[test]
        fn only_what_is_gone_for_long_is_released(looks in prop::collection::vec((any::<bool>(), 0..LONG), 1..60)) {
            let (mut since, mut now, mut first_gone) = (None, 1000, None);
            for (gone, pause) in looks {
                now += pause;
                first_gone = if gone { first_gone.or(Some(now)) } else { None };
                let verdict = judge(gone, since, now);
                let due = first_gone.is_some_and(|first| now - first >= LONG);
                prop_assert_eq!(verdict == Verdict::Release, due);
                match verdict {
                    Verdict::Keep => {}
                    Verdict::Note => since = Some(now),
                    Verdict::Forget | Verdict::Release => (since, first_gone) = (None, None),
                }
            }
        }

        /// The same with a folder, and with pods that are added and deleted in between.
        #[test]
        fn leases_of_pods_that_are_there_stay(
            steps in prop::collection::vec((0..4usize, prop::sample::select(vec!["add", "del", "vanish", "look"]), 0..LONG), 1..60),
        ) {
            let (_folder, leases) = leases();
            let names = ["a", "b", "c", "d"];
            let port = |name: &str| holder(name).attachment.port().name;
            // Whether a pod is there, and since when a look has found it gone.
            let mut pods = std::collections::BTreeMap::<&str, Option<i64>>::new();
            let mut there = BTreeSet::new();
            let mut now = 1000;
            for (which, what, pause) in steps {
                now += pause;
                let name = names[which];
                let locked = leases.lock().unwrap();
                match what {
                    "add" => {
                        let taken = locked.take(&pool("10.1.0.0/24"), holder(name));
                        prop_assert_eq!(taken.is_ok(), !pods.contains_key(name));
                        if pods.insert(name, pods.get(name).copied().flatten()).is_none() {
                            there.insert(name);
                        }
                    }
                    "del" => {
                        locked.give_back(&holder(name).attachment).unwrap();
                        pods.remove(name);
                        there.remove(name);
                    }
                    "vanish" => drop(there.remove(name)),
                    _ => {
                        let gone = names.iter().filter(|name| !there.contains(*name)).map(|name| port(name));
                        let at = Duration::from_secs(now.cast_unsigned());
                        let (expired, waiting) = locked.expire(&gone.collect(), at).unwrap();
                        let mut expected = vec![];
                        pods.retain(|name, since| {
                            if there.contains(name) {
                                *since = None;
                                return true;
                            }
                            let since = *since.get_or_insert(now);
                            if now - since >= LONG {
                                expected.push(*name);
                            }
                            now - since < LONG
                        });
                        let found: Vec<_> = expired.iter().map(|lease| lease.attachment.container.as_str()).collect();
                        let (found, expected) = (BTreeSet::from_iter(found), BTreeSet::from_iter(expected));
                        prop_assert_eq!(found, expected);
                        prop_assert_eq!(waiting, pods.len() - there.len());
                        for lease in expired {
                            locked.give_back(&lease.attachment).unwrap();
                        }
                    }
                }
                let listing = Listing::read(&leases.folder).unwrap();
                prop_assert_eq!(listing.leases.len(), pods.len());
                prop_assert!(listing.gone.iter().all(|note| pods.keys().any(|name| port(name) == note.port)));
            }
        }
    }

    #[test]
    fn a_note_without_a_lease_goes() {
        let (_folder, leases) = leases();
        let lease = leases.lock().unwrap().take(&pool("10.1.0.0/24"), holder("a")).unwrap();
        let port = lease.attachment.port().name;
        let expire = || leases.lock().unwrap().expire(&BTreeSet::from([port.clone()]), GRACE).unwrap();
        assert_eq!(expire(), (vec![], 1));
        std::fs::remove_file(leases.folder.join(format!("{}@{port}", lease.addresses))).unwrap();
        assert!(leases.may_expire(|_| false, |_| false).unwrap());
        assert_eq!(expire(), (vec![], 0));
        assert!(!leases.may_expire(|_| false, |_| false).unwrap());
    }

    #[test]
    fn a_note_of_the_future_is_made_again() {
        assert_eq!(judge(true, Some(11), 10), Verdict::Note);
        assert_eq!(judge(true, Some(i64::MIN), i64::MAX), Verdict::Release);
    }
}
