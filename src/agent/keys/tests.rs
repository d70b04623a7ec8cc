use super::*;
use crate::mesh::annotation::{KEY_EPOCH, PUBLIC_KEY};

fn paths(folder: &tempfile::TempDir) -> Paths {
    Paths::default().below(folder.path())
}

fn open(folder: &tempfile::TempDir) -> Keys {
    Keys::open(&paths(folder)).unwrap()
}

fn request(id: &str) -> NewRotation {
    let (by, reason) = ("operator".into(), "planned".into());
    NewRotation { id: id.into(), by, reason, deadline: Duration::from_secs(60) }
}

#[test]
fn keys_follow_those_on_the_node_object_as_long_as_an_epoch_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(&folder);
    let other = NodeKeys::generate(1, 0, Timestamp::now()).unwrap().private_key.public_key();
    let shown = |epoch: u64| -> BTreeMap<String, String> {
        [(PUBLIC_KEY, other.to_string()), (KEY_EPOCH, epoch.to_string())]
            .map(|(name, text)| (name.to_owned(), text))
            .into()
    };
    assert!(matches!(keys.keep_ahead(&shown(MAX_EPOCH), |_| false), Err(KeysError::LastEpoch)));
    assert_eq!(keys.current().0, 1, "the store is as before");
    keys.keep_ahead(&shown(MAX_EPOCH - 1), |_| false).unwrap();
    assert_eq!(keys.current().0, MAX_EPOCH);
    let (published, epoch, ..) = keys.published();
    let texts = shown(epoch).into_iter().chain([(PUBLIC_KEY.to_owned(), published.public_key.to_string())]);
    assert!(annotation::parse(&texts.collect()).unwrap().is_some(), "others read the last one, too");
    assert!(matches!(keys.rotate(request("r"), Timestamp::now()), Err(KeysError::LastEpoch)));
}

/// A node whose Node object and tunnel follow at once, and whose agent is started again before every step.
struct Restarted {
    folder: tempfile::TempDir,
    keys: Keys,
    uptime: Duration,
}

/// The names of the events in the audit log.
fn recorded(folder: &tempfile::TempDir) -> Vec<String> {
    let dir = Paths::default().below(folder.path()).audit();
    selvedge_keys::audit::verify(&dir, None).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let text: String = names.iter().map(|name| std::fs::read_to_string(name).unwrap()).collect();
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].clone();
    text.lines().map(|line| event(line).as_str().unwrap().to_owned()).collect()
}

impl Restarted {
    /// One agent ends, and another starts.
    fn restart(&mut self) {
        self.keys.audit = Audit::new("/nonexistent".into());
        self.keys = open(&self.folder);
    }

    fn step(&mut self) -> Option<String> {
        let (keys, epoch, created, next) = self.keys.published();
        let shown = NodeAnnotations {
            keys,
            next_keys: next,
            key_epoch: epoch,
            key_created: Some(created),
            endpoints: Vec::new(),
            pod_cidrs: Vec::new(),
            node_addresses: Vec::new(),
            location: None,
            features: Vec::new(),
        };
        let identities: Vec<u64> = self.keys.identities().iter().map(|own| own.epoch).collect();
        for identity in &identities {
            self.keys.store.load(*identity).expect("the tunnel finds every key");
        }
        let peers = [("n2".to_owned(), PeerSessions { old: true, new: true, sending: 2 })].into();
        let tunnel = TunnelKeys { life: 1, identities, peers };
        self.keys.step(Timestamp::now(), self.uptime, Some(&shown), Some(&tunnel)).unwrap()
    }
}

#[test]
fn a_rotation_goes_on_wherever_the_agent_is_started_again() {
    for every_step in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let keys = open(&folder);
        let mut node = Restarted { folder, keys, uptime: Duration::ZERO };
        let first = node.keys.current().1;
        node.keys.rotate(request("r1"), Timestamp::now()).unwrap();
        let running = node.keys.rotate(request("r2"), Timestamp::now()).unwrap_err().to_string();
        assert!(running.contains("rotation r1"), "{running}");
        let mut done = Vec::new();
        for _ in 0..500 {
            if node.keys.rotation().is_none() {
                break;
            }
            match node.step() {
                Some(step) => {
                    done.push(step);
                    if every_step {
                        node.restart();
                    }
                }
                None => node.uptime += Duration::from_secs(1),
            }
        }
        assert!(node.keys.rotation().is_none(), "{done:?}");
        let (epoch, second) = node.keys.current();
        assert_eq!((epoch, first == second), (2, false), "{done:?}");
        assert_eq!((node.keys.store.epochs().unwrap(), node.keys.all()), (vec![2], vec![second]));
        assert!(!paths(&node.folder).rotation().exists());
        let Restarted { folder, keys, .. } = node;
        drop(keys); // there is one writer of the audit log
        assert_eq!(open(&folder).current(), (2, second));
        assert_eq!(recorded(&folder).last(), Some(&"agentStarted".to_owned()));
        let log = recorded(&folder);
        let order = [
            "rotationRequested",
            "keyPublished",
            "peerConfirmed",
            "keyPromoted",
            "keyRetired",
            "rotationEnded",
        ];
        let places: Vec<_> = order.iter().map(|name| log.iter().position(|event| event == name)).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{log:?}");
    }
}

#[test]
fn an_abort_names_the_rotation_and_leaves_the_key_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let keys = open(&folder);
    let mut node = Restarted { folder, keys, uptime: Duration::ZERO };
    let first = node.keys.current();
    assert!(matches!(node.keys.abort("r1", "alice", "none"), Err(KeysError::NotRunning(_))));
    node.keys.rotate(request("r1"), Timestamp::now()).unwrap();
    node.step().unwrap();
    assert!(matches!(node.keys.abort("r2", "alice", "another"), Err(KeysError::NotRunning(_))));
    node.keys.abort("r1", "alice", "tried").unwrap();
    while node.keys.rotation().is_some() {
        node.step();
    }
    let last = |keys: &Keys| keys.last().map(|ended| (ended.rotation.id.clone(), ended.outcome));
    let aborted = Some(("r1".to_owned(), Outcome::Aborted));
    assert_eq!(last(&node.keys), aborted);
    node.restart();
    assert_eq!(last(&node.keys), aborted, "the next agent knows it, too");
    assert_eq!((node.keys.current(), node.keys.store.epochs().unwrap()), (first, vec![1]));
}

#[test]
fn a_damaged_file_ends_the_rotation_and_what_it_left_is_wiped() {
    let folder = tempfile::tempdir().unwrap();
    let keys = open(&folder);
    let mut node = Restarted { folder, keys, uptime: Duration::ZERO };
    let first = node.keys.current();
    node.keys.rotate(request("r1"), Timestamp::now()).unwrap();
    node.step().unwrap();
    std::fs::write(paths(&node.folder).rotation(), "{").unwrap();
    node.restart();
    assert!(node.keys.rotation().is_none() && node.keys.has_leftovers());
    assert!(matches!(node.keys.rotate(request("r2"), Timestamp::now()), Err(KeysError::Leftovers)));
    assert_eq!(node.step().as_deref(), Some("keys of epoch 2 wiped"));
    assert_eq!((node.keys.current(), node.step()), (first, None));
}

#[test]
fn a_revoked_key_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = open(&folder);
    let (epoch, key) = keys.current();
    assert_eq!(keys.keep_ahead(&BTreeMap::new(), |_| false).unwrap(), Vec::<String>::new());
    keys.rotate(request("r"), Timestamp::now()).unwrap();
    keys.keep_ahead(&BTreeMap::new(), |revoked| *revoked == key).unwrap();
    let (now, new) = keys.current();
    assert!(now > epoch && new != key);
    assert_eq!(keys.keep_ahead(&BTreeMap::new(), |revoked| *revoked == key).unwrap(), Vec::<String>::new());
}
