use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::durable::fault::killed_after;

fn now() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn store() -> (tempfile::TempDir, KeyStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = KeyStore::open(folder.path().join("state/keys")).unwrap();
    (folder, store)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_first_start_makes_epoch_one_and_the_second_finds_it() {
    let (_folder, store) = store();
    assert_eq!(store.current().unwrap(), None);
    let keys = store.ensure(now()).unwrap();
    assert_eq!((keys.epoch, keys.created), (1, now()));
    let again = KeyStore::open(store.dir()).unwrap().ensure("2027-01-01T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(again, keys);
    assert_eq!(mode(store.dir()), 0o700);
    for entry in fs::read_dir(store.dir()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn a_rotation_goes_create_promote_retire() {
    let (_folder, store) = store();
    let old = store.ensure(now()).unwrap();
    let new = store.create(2, now()).unwrap();
    assert_ne!(old.private_key, new.private_key);
    assert_eq!((store.current().unwrap(), store.epochs().unwrap()), (Some(1), vec![1, 2]));
    assert!(matches!(store.retire(1), Err(StoreError::InUse { epoch: 1, .. })));
    store.promote(2).unwrap();
    store.promote(2).unwrap();
    assert!(matches!(store.promote(1), Err(StoreError::Backward { .. })));
    store.retire(1).unwrap();
    store.retire(1).unwrap();
    assert_eq!(store.epochs().unwrap(), vec![2]);
    assert_eq!(store.ensure(now()).unwrap(), new);
    assert!(matches!(store.load(1), Err(StoreError::Missing { epoch: 1, .. })));
    assert!(matches!(store.create(2, now()), Err(StoreError::Exists { .. })));
    assert!(matches!(store.create(1, now()), Err(StoreError::Backward { .. })));
    assert!(matches!(store.promote(9), Err(StoreError::Missing { epoch: 9, .. })));
}

#[test]
fn a_lost_store_gets_an_epoch_above_the_known_one() {
    let (_folder, store) = store();
    assert_eq!(store.supersede(5, now()).unwrap().epoch, 6);
    assert_eq!(store.supersede(2, now()).unwrap().epoch, 7);
    assert_eq!(store.current().unwrap(), Some(7));
    assert!(matches!(store.supersede(u64::MAX, now()), Err(StoreError::Backward { .. })));
    assert_eq!(store.current().unwrap(), Some(7));
}

#[test]
fn a_folder_that_lets_others_in_is_refused_with_a_remedy() {
    let (_folder, store) = store();
    for wide in [0o750, 0o701, 0o777] {
        chmod(store.dir(), wide);
        let error = KeyStore::open(store.dir()).unwrap_err().to_string();
        assert!(error.contains("chmod 0700 /"), "{error}");
        assert!(error.contains(&format!("{wide:04o}")), "{error}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let (_folder, store) = store();
    store.ensure(now()).unwrap();
    chmod(&store.path(1), 0o640);
    let error = store.ensure(now()).unwrap_err().to_string();
    assert!(error.contains("chmod 0600 /") && error.contains("epoch-1"), "{error}");
}

#[test]
fn symbolic_links_are_not_followed() {
    let (folder, store) = store();
    store.ensure(now()).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(store.dir(), &link).unwrap();
    assert!(matches!(KeyStore::open(&link), Err(StoreError::Io { action: "open folder", .. })));
    std::os::unix::fs::symlink(store.path(1), store.path(2)).unwrap();
    assert!(matches!(store.load(2), Err(StoreError::Io { action: "open", .. })));
}

#[test]
fn damage_is_named_and_never_repaired_by_new_keys() {
    let (_folder, store) = store();
    store.ensure(now()).unwrap();
    for name in ["epoch-1", "current"] {
        let path = store.dir().join(name);
        let good = fs::read(&path).unwrap();
        for bad in [&good[..0], &good[..good.len() / 2], b"\xff\xfe"] {
            fs::write(&path, bad).unwrap();
            let error = store.ensure(now()).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad, "left as it was");
        }
        fs::write(&path, good).unwrap();
    }
    fs::remove_file(store.path(1)).unwrap();
    assert!(matches!(store.ensure(now()), Err(StoreError::Missing { epoch: 1, .. })));
}

#[test]
fn several_epochs_without_a_current_one_are_not_guessed_at() {
    let (_folder, store) = store();
    store.ensure(now()).unwrap();
    store.create(2, now()).unwrap();
    fs::remove_file(store.dir().join("current")).unwrap();
    let error = store.ensure(now()).unwrap_err();
    assert!(matches!(error, StoreError::NoCurrent { .. }), "{error}");
    assert!(error.to_string().contains("[1, 2]"), "{error}");
}

#[test]
fn many_first_starts_at_once_agree() {
    let (_folder, store) = store();
    let keys: Vec<NodeKeys> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| store.ensure(now()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn leftovers_are_cleared_away() {
    let (_folder, store) = store();
    for name in ["epoch-1.tmp", "epoch-7.retired", "current.tmp"] {
        fs::write(store.dir().join(name), "half a secret").unwrap();
    }
    store.ensure(now()).unwrap();
    let mut names = store.names().unwrap();
    names.sort();
    assert_eq!(names, ["current", "epoch-1"]);
}

/// One call on the store.
#[derive(Debug, Clone, Copy)]
enum Call {
    Ensure,
    Create(u64),
    Promote(u64),
    Retire(u64),
    Supersede(u64),
}

fn run(store: &KeyStore, call: Call) -> Result<(), StoreError> {
    match call {
        Call::Ensure => store.ensure(now()).map(drop),
        Call::Create(epoch) => store.create(epoch, now()).map(drop),
        Call::Promote(epoch) => store.promote(epoch),
        Call::Retire(epoch) => store.retire(epoch),
        Call::Supersede(floor) => store.supersede(floor, now()).map(drop),
    }
}

/// What a caller can see: the epoch in use and all readable keys.
fn view(store: &KeyStore) -> (Option<u64>, Vec<NodeKeys>) {
    let keys = store.epochs().unwrap().into_iter().map(|epoch| store.load(epoch).unwrap()).collect();
    (store.current().unwrap(), keys)
}

#[test]
fn a_kill_at_any_step_of_a_rotation_loses_no_key_in_use_and_can_be_resumed() {
    let calls = [Call::Ensure, Call::Create(2), Call::Promote(2), Call::Retire(1)];
    for kill_in in 0..calls.len() {
        let mut steps = 0;
        loop {
            let (_folder, store) = store();
            calls[..kill_in].iter().for_each(|call| run(&store, *call).unwrap());
            let before = view(&store);
            if killed_after(steps, || run(&store, calls[kill_in])).is_none() {
                break;
            }
            let (current, keys) = view(&store);
            assert!(current >= before.0, "{steps} steps into {:?}", calls[kill_in]);
            assert!(current.is_none() || keys.iter().any(|keys| Some(keys.epoch) == current));
            for call in &calls[kill_in..] {
                match run(&store, *call) {
                    Ok(()) | Err(StoreError::Exists { .. }) => {}
                    Err(error) => {
                        panic!("{call:?} after a kill {steps} steps into {:?}: {error}", calls[kill_in])
                    }
                }
            }
            let (current, keys) = view(&store);
            assert_eq!((current, keys.len(), keys[0].epoch), (Some(2), 1, 2));
            assert_eq!(store.names().unwrap().len(), 2, "nothing is left over");
            steps += 1;
        }
        assert!(steps >= 4, "only {steps} kills were tried in {:?}", calls[kill_in]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is called and killed wherever: every epoch listed can be read, the one in use is there, and it
    /// never goes back.
    #[test]
    fn any_calls_with_kills_keep_the_store_sound(
        calls in proptest::collection::vec((call(), proptest::option::of(0u32..12)), 1..12)
    ) {
        let (_folder, store) = store();
        let mut last = None;
        for (call, kill) in calls {
            match kill {
                Some(steps) => drop(killed_after(steps, || run(&store, call))),
                None => drop(run(&store, call)),
            }
            let (current, keys) = view(&store);
            prop_assert!(current >= last, "{current:?} after {last:?}");
            prop_assert!(current.is_none() || keys.iter().any(|keys| Some(keys.epoch) == current));
            last = current;
        }
    }
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        Just(Call::Ensure),
        (1u64..5).prop_map(Call::Create),
        (1u64..5).prop_map(Call::Promote),
        (1u64..5).prop_map(Call::Retire),
        (0u64..5).prop_map(Call::Supersede),
    ]
}
