//! The objects, their versions and a bounded history of changes, from which watches are served.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::resource::{NAMESPACES, Resource};
use super::stored::Object;
use super::{failure::Failure, object, patch};

/// All objects of the cluster. Cheap to share; every call is atomic.
///
/// `namespace` is empty for resources of the whole cluster. Objects are complete JSON values; events are kept in the
/// form of core/v1 alone.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The version that the whole store had after it.
    pub version: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The object after it; for a deletion, its last state.
    pub object: Arc<Object>,
    /// The object before it.
    pub before: Option<Arc<Object>>,
    plural: &'static str,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Created.
    Added,
    /// Changed.
    Modified,
    /// Gone.
    Deleted,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Only an object with this UID.
    pub uid: Option<String>,
    /// Only an object of this version.
    pub resource_version: Option<String>,
    /// Seconds that the object stays, marked as to be deleted, until it is deleted again with 0.
    pub grace: u64,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub enum Removed {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// The object is marked, and goes when its finalizers are gone or it is deleted without grace.
    Marked(Arc<Object>),
}

/// The changes asked for are no longer in the history: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history no longer reaches back to version {0}")]
pub struct Expired(pub u64);

type Key = (&'static str, String, String);

#[derive(Debug)]
struct Inner {
    version: u64,
    objects: BTreeMap<Key, Arc<Object>>,
    history: VecDeque<Change>,
    /// The newest version that the history has forgotten.
    forgotten: u64,
    keep: usize,
}

impl Store {
    /// A store with the namespaces that every cluster has, which remembers the last `keep` changes.
    #[must_use]
    pub fn new(keep: usize) -> Arc<Self> {
        let inner =
            Inner { version: 1, objects: BTreeMap::new(), history: VecDeque::new(), forgotten: 0, keep };
        let store = Self { inner: Mutex::new(inner), version: watch::Sender::new(1) };
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            let labels = json!({ "kubernetes.io/metadata.name": name });
            let namespace =
                json!({"metadata": {"name": name, "labels": labels}, "status": {"phase": "Active"}});
            store.create(&NAMESPACES, namespace).expect("a new store has no objects in the way");
        }
        Arc::new(store)
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Stores a new object; gives it UID, version and time, and a name where it has only `generateName`.
    ///
    /// # Errors
    /// The object is malformed, exists already, or its namespace does not exist.
    pub fn create(&self, resource: &'static Resource, mut object: Value) -> Result<Arc<Object>, Failure> {
        object::check(resource, &mut object)?;
        let meta = object::meta_mut(&mut object);
        if !resource.namespaced {
            meta.remove("namespace");
        } else if meta.get("namespace").is_none_or(|namespace| namespace == "") {
            meta.insert("namespace".to_owned(), "default".into());
        }
        let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or_default();
        if !prefix.is_empty() && meta.get("name").is_none_or(|name| name == "") {
            meta.insert("name".to_owned(), format!("{prefix}{}", object::new_suffix()).into());
        }
        meta.insert("uid".to_owned(), object::new_uid().into());
        meta.insert("creationTimestamp".to_owned(), object::time(Timestamp::now()).into());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            meta.remove(field);
        }
        self.insert(resource, object)
    }

    fn insert(&self, resource: &'static Resource, object: Value) -> Result<Arc<Object>, Failure> {
        let key = key(resource, object::meta(&object, "namespace"), object::meta(&object, "name"));
        if key.2.is_empty() {
            return Err(Failure::invalid(resource, "", "name or generateName is required"));
        }
        let mut inner = self.lock();
        if resource.namespaced
            && !inner.objects.contains_key(&(NAMESPACES.plural, String::new(), key.1.clone()))
        {
            return Err(Failure::not_found(&NAMESPACES, &key.1));
        }
        if inner.objects.contains_key(&key) {
            return Err(Failure::already_exists(resource, &key.2));
        }
        Ok(self.commit(&mut inner, ChangeKind::Added, key, object))
    }

    /// The object.
    ///
    /// # Errors
    /// There is none.
    pub fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Failure> {
        let inner = self.lock();
        inner.get(resource, &key(resource, namespace, name)).cloned()
    }

    /// The objects of one namespace, or of all of them, by namespace and name, and the version of this list.
    #[must_use]
    pub fn list(&self, resource: &'static Resource, namespace: Option<&str>) -> (u64, Vec<Arc<Object>>) {
        let inner = self.lock();
        (inner.version, inner.all(resource, namespace).map(|(_, object)| Arc::clone(object)).collect())
    }

    /// As [`list`](Self::list), but as it was at an earlier version, which must have been one of this store.
    ///
    /// # Errors
    /// The history no longer reaches back so far.
    pub fn list_at(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Object>>, Expired> {
        let inner = self.lock();
        if version < inner.forgotten {
            return Err(Expired(version));
        }
        let now = inner.all(resource, namespace).map(|(key, object)| ((&*key.1, &*key.2), object));
        let mut objects: BTreeMap<_, _> = now.collect();
        let later = inner.history.iter().rev().take_while(|change| change.version > version);
        for change in later.filter(|change| change.is_of(resource, namespace)) {
            let place = object::place(&change.object);
            match &change.before {
                Some(before) => objects.insert(place, before),
                None => objects.remove(&place),
            };
        }
        Ok(objects.into_values().cloned().collect())
    }

    /// Makes the JSON texts of all objects of a resource, which otherwise the first request for each has to wait for.
    pub fn make_texts(&self, resource: &'static Resource) {
        for object in self.list(resource, None).1 {
            object.text();
            object.metadata_text();
        }
    }

    /// Puts what `change` makes of the object in its place. UID or version in the result must be those of the object.
    ///
    /// `change` runs while the store is locked and must not call it.
    ///
    /// # Errors
    /// There is no such object, the result is malformed or for another UID or version, or `change` failed.
    pub fn modify(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&Value) -> Result<Value, Failure>,
    ) -> Result<Arc<Object>, Failure> {
        let key = key(resource, namespace, name);
        let mut inner = self.lock();
        let before = Arc::clone(inner.get(resource, &key)?);
        let mut after = change(&before)?;
        object::check(resource, &mut after)?;
        keep_identity(resource, &before, &mut after)?;
        if after == **before {
            return Ok(before);
        }
        let gone = object::is_marked(&after) && !object::is_held(&after);
        let kind = if gone { ChangeKind::Deleted } else { ChangeKind::Modified };
        Ok(self.commit(&mut inner, kind, key, after))
    }

    /// Applies a merge patch (RFC 7396), to `status` too.
    ///
    /// # Errors
    /// As for [`modify`](Self::modify).
    pub fn patch(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        merge: &Value,
    ) -> Result<Arc<Object>, Failure> {
        self.modify(resource, namespace, name, |before| Ok(patch::merged(before, merge)))
    }

    /// As [`patch`](Self::patch), with a strategic merge patch: lists are merged by key, and other conditions stay.
    ///
    /// # Errors
    /// There is no such object, or the patch is not valid.
    pub fn patch_strategic(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        body: &Value,
    ) -> Result<Arc<Object>, Failure> {
        self.modify(resource, namespace, name, |before| patch::Patch::Strategic.apply(before, body))
    }

    /// Deletes the object, or marks it where finalizers or a grace period hold it. A namespace takes its objects along.
    ///
    /// # Errors
    /// There is no such object, or it is not the one meant.
    pub fn delete(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        how: &Deletion,
    ) -> Result<Removed, Failure> {
        let key = key(resource, namespace, name);
        let mut inner = self.lock();
        let mut object = Value::clone(inner.get(resource, &key)?);
        for (field, wanted) in [("uid", &how.uid), ("resourceVersion", &how.resource_version)] {
            let found = object::meta(&object, field);
            if let Some(wanted) = wanted.as_deref().filter(|&wanted| wanted != found) {
                let why =
                    format!("the {field} in the precondition ({wanted}) is not that of the object ({found})");
                return Err(Failure::conflict(resource, name, &why));
            }
        }
        if how.grace > 0 || object::has_finalizers(&object) || object::is_marked(&object) {
            mark(&mut object, how.grace);
        }
        if object::is_held(&object) {
            let now = inner.get(resource, &key)?;
            if object == ***now {
                return Ok(Removed::Marked(Arc::clone(now)));
            }
            return Ok(Removed::Marked(self.commit(&mut inner, ChangeKind::Modified, key, object)));
        }
        if resource == &NAMESPACES {
            self.empty(&mut inner, name);
        }
        Ok(Removed::Gone(self.commit(&mut inner, ChangeKind::Deleted, key, object)))
    }

    fn empty(&self, inner: &mut Inner, namespace: &str) {
        let inside = inner.objects.iter().filter(|(key, _)| key.1 == namespace);
        let inside: Vec<_> = inside.map(|(key, object)| (key.clone(), Value::clone(object))).collect();
        for (key, object) in inside {
            self.commit(inner, ChangeKind::Deleted, key, object);
        }
    }

    /// The changes of a resource after a version, as they come.
    #[must_use]
    pub fn watch(self: &Arc<Self>, resource: &'static Resource, after: u64) -> Watch {
        Watch {
            store: Arc::clone(self),
            resource,
            seen: after,
            pending: VecDeque::new(),
            wake: self.version.subscribe(),
        }
    }

    /// Forgets the history: a watch from any version but the present one has expired.
    pub fn expire_history(&self) {
        let mut inner = self.lock();
        inner.history.clear();
        inner.forgotten = inner.version;
    }

    /// Loses an object, as a storage that was restored from an old backup does: nothing reports a deletion, the history is
    /// gone, and every watch has to begin with a list.
    ///
    /// # Errors
    /// When the object does not exist.
    pub fn lose(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Failure> {
        let key = key(resource, namespace, name);
        let mut inner = self.lock();
        let lost = Arc::clone(inner.get(resource, &key)?);
        inner.objects.remove(&key);
        inner.version += 1;
        inner.history.clear();
        inner.forgotten = inner.version;
        self.version.send_replace(inner.version);
        Ok(lost)
    }

    fn commit(&self, inner: &mut Inner, kind: ChangeKind, key: Key, mut object: Value) -> Arc<Object> {
        inner.version += 1;
        let version = inner.version;
        object::meta_mut(&mut object).insert("resourceVersion".to_owned(), version.to_string().into());
        let object = Arc::new(Object::from(object));
        let plural = key.0;
        let before = match kind {
            ChangeKind::Deleted => inner.objects.remove(&key),
            _ => inner.objects.insert(key, Arc::clone(&object)),
        };
        inner.history.push_back(Change { version, kind, object: Arc::clone(&object), before, plural });
        while inner.history.len() > inner.keep {
            inner.forgotten = inner.history.pop_front().map_or(inner.forgotten, |change| change.version);
        }
        self.version.send_replace(version);
        object
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    fn is_of(&self, resource: &Resource, namespace: Option<&str>) -> bool {
        let own = object::meta(&self.object, "namespace");
        self.plural == resource.plural && namespace.is_none_or(|namespace| own == namespace)
    }
}

impl Inner {
    /// The objects of one namespace, or of all of them.
    fn all<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Object>)> + use<'a> {
        let plural = resource.plural;
        let all = self.objects.range(key(resource, "", "")..).take_while(move |(key, _)| key.0 == plural);
        all.filter(move |(key, _)| namespace.is_none_or(|namespace| key.1 == namespace))
    }

    fn get(&self, resource: &Resource, key: &Key) -> Result<&Arc<Object>, Failure> {
        self.objects.get(key).ok_or_else(|| Failure::not_found(resource, &key.2))
    }
}

/// The changes of one resource, in order. See [`Store::watch`].
#[derive(Debug)]
pub struct Watch {
    store: Arc<Store>,
    resource: &'static Resource,
    seen: u64,
    pending: VecDeque<Change>,
    wake: watch::Receiver<u64>,
}

impl Watch {
    /// The next change; waits for it. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The history no longer has it.
    pub async fn next(&mut self) -> Result<Change, Expired> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(change);
            }
            self.pending = self.batch().await?.into();
        }
    }

    /// All changes there are, and at least one.
    pub(super) async fn batch(&mut self) -> Result<Vec<Change>, Expired> {
        loop {
            self.wake.borrow_and_update();
            let changes = self.read()?;
            if !changes.is_empty() {
                return Ok(changes);
            }
            if self.wake.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// No change up to this version is still to come from [`batch`](Self::batch).
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    fn read(&mut self) -> Result<Vec<Change>, Expired> {
        let inner = self.store.lock();
        if self.seen < inner.forgotten {
            return Err(Expired(self.seen));
        }
        let start = inner.history.partition_point(|change| change.version <= self.seen);
        let new = inner.history.range(start..).filter(|change| change.is_of(self.resource, None));
        let new = new.cloned().collect();
        self.seen = self.seen.max(inner.version);
        Ok(new)
    }
}

fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    let namespace = if resource.namespaced { namespace } else { "" };
    (resource.plural, namespace.to_owned(), name.to_owned())
}

/// Marks the object as to be deleted, at the latest in `grace` seconds; an earlier end that was set already stays.
fn mark(object: &mut Value, grace: u64) {
    let meta = object::meta_mut(object);
    let left = meta.get("deletionGracePeriodSeconds").and_then(Value::as_u64);
    if left.is_none_or(|left| grace < left) {
        let time = SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX));
        let end = Timestamp::now().checked_add(time).unwrap_or(Timestamp::MAX);
        meta.insert("deletionTimestamp".to_owned(), object::time(end).into());
        meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
}

/// Refuses a change meant for another object or version, and keeps what no change may touch.
fn keep_identity(resource: &Resource, before: &Value, after: &mut Value) -> Result<(), Failure> {
    let name = object::meta(before, "name");
    for (field, why) in [
        ("uid", "Precondition failed: the UID in the precondition is not that of the object"),
        ("resourceVersion", "the object has been modified; please apply your changes to the latest version"),
    ] {
        let wanted = object::meta(after, field);
        if !wanted.is_empty() && wanted != object::meta(before, field) {
            return Err(Failure::conflict(resource, name, why));
        }
    }
    for field in ["name", "namespace"] {
        let wanted = object::meta(after, field);
        if !wanted.is_empty() && wanted != object::meta(before, field) {
            return Err(Failure::bad_request(format!("metadata.{field} of an object cannot be changed")));
        }
    }
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generateName"];
    let meta = object::meta_mut(after);
    for field in kept.into_iter().chain(["deletionTimestamp", "deletionGracePeriodSeconds"]) {
        match &before["metadata"][field] {
            Value::Null => meta.remove(field),
            value => meta.insert(field.to_owned(), value.clone()),
        };
    }
    Ok(())
}
