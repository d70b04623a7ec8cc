//! The objects of one kind, and who wants to know of which change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What names an object in its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Key {
    /// Its namespace; empty for kinds without.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    /// Of an object of a kind without namespaces.
    pub(crate) fn name(name: impl Into<String>) -> Self {
        Self { namespace: String::new(), name: name.into() }
    }
}

/// Objects by key, as last seen.
#[derive(Debug)]
pub(crate) struct Store<V> {
    inner: Mutex<Inner<V>>,
}

#[derive(Debug)]
struct Inner<V> {
    objects: BTreeMap<Key, Object<V>>,
    /// What a list lacked, although nothing reported it as deleted.
    missing: BTreeSet<Key>,
    synced: bool,
    subscribers: Vec<Arc<Subscriber<V>>>,
}

/// What is kept of one object.
#[derive(Debug)]
pub(crate) struct Object<V> {
    /// Its resource version. A change of it alone wakes nobody.
    pub(crate) version: String,
    /// The fields that somebody reads.
    pub(crate) value: Arc<V>,
}

impl<V> Clone for Object<V> {
    fn clone(&self) -> Self {
        Self { version: self.version.clone(), value: Arc::clone(&self.value) }
    }
}

struct Subscriber<V> {
    differs: fn(&V, &V) -> bool,
    wake: Box<dyn Fn() + Send + Sync>,
    dirty: Mutex<BTreeSet<Key>>,
}

impl<V> std::fmt::Debug for Subscriber<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").finish_non_exhaustive()
    }
}

/// One reader's place: what changed since it last looked.
#[derive(Debug)]
pub(crate) struct Subscription<V> {
    store: Arc<Store<V>>,
    subscriber: Arc<Subscriber<V>>,
}

impl<V> Default for Store<V> {
    fn default() -> Self {
        let inner = Inner {
            objects: BTreeMap::new(),
            missing: BTreeSet::new(),
            synced: false,
            subscribers: Vec::new(),
        };
        Self { inner: Mutex::new(inner) }
    }
}

impl<V: PartialEq> Store<V> {
    /// Adds or replaces one object.
    pub(crate) fn apply(&self, key: &Key, version: String, value: V) {
        let mut inner = self.inner();
        if let Some(object) = inner.objects.get_mut(key)
            && *object.value == value
        {
            object.version = version;
            return;
        }
        inner.missing.remove(key);
        let value = Arc::new(value);
        let before = inner.objects.insert(key.clone(), Object { version, value: Arc::clone(&value) });
        let before = before.map(|object| object.value);
        let woken = inner.note(key, before.as_deref(), Some(&value));
        drop(inner);
        wake(&woken);
    }

    /// Removes one object, which is known to be deleted.
    pub(crate) fn delete(&self, key: &Key) {
        let mut inner = self.inner();
        let before = inner.objects.remove(key);
        let woken = match (inner.missing.remove(key), before) {
            (_, Some(before)) => inner.note(key, Some(&before.value), None),
            (true, None) => inner.note_all(key),
            (false, None) => return,
        };
        drop(inner);
        wake(&woken);
    }

    /// A missing object is known to be deleted now. One that is back by now stays.
    pub(crate) fn confirm_deletion(&self, key: &Key) {
        let mut inner = self.inner();
        if inner.missing.remove(key) {
            let woken = inner.note_all(key);
            drop(inner);
            wake(&woken);
        }
    }

    /// Takes a complete list: what is not in it is missing. A list alone does not tell whether it was deleted.
    pub(crate) fn replace(&self, list: BTreeMap<Key, (String, V)>) {
        let mut inner = self.inner();
        let mut before = std::mem::take(&mut inner.objects);
        let first = !std::mem::replace(&mut inner.synced, true);
        let mut woken = Vec::new();
        for (key, (version, value)) in list {
            inner.missing.remove(&key);
            let old = before.remove(&key).map(|object| object.value);
            let value = match &old {
                Some(old) if **old == value => Arc::clone(old),
                _ => Arc::new(value),
            };
            woken.extend(inner.note(&key, old.as_deref(), Some(&value)));
            inner.objects.insert(key, Object { version, value });
        }
        for (key, object) in before {
            woken.extend(inner.note(&key, Some(&object.value), None));
            inner.missing.insert(key);
        }
        // An empty first list is news, too.
        if first {
            woken.extend(inner.subscribers.iter().cloned());
        }
        drop(inner);
        wake(&woken);
    }

    /// From now on what is missing does not exist.
    pub(crate) fn set_synced(&self) {
        let mut inner = self.inner();
        if !std::mem::replace(&mut inner.synced, true) {
            let woken = inner.subscribers.clone();
            drop(inner);
            wake(&woken);
        }
    }
}

impl<V> Store<V> {
    /// Whether a complete list has been seen.
    pub(crate) fn is_synced(&self) -> bool {
        self.inner().synced
    }

    /// Whether a list lacked the object, and nothing has reported it as deleted since.
    pub(crate) fn is_missing(&self, key: &Key) -> bool {
        self.inner().missing.contains(key)
    }

    /// The keys of all objects, ascending.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.inner().objects.keys().cloned().collect()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.inner().objects.len()
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Object<V>> {
        self.inner().objects.get(key).cloned()
    }

    /// Subscribes to changes in which `differs` says so, and to objects that come and go. `wake` is called after each, and must
    /// not block. All that is there counts as changed.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        differs: fn(&V, &V) -> bool,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Subscription<V> {
        let mut inner = self.inner();
        let dirty = inner.objects.keys().cloned().collect();
        let subscriber = Arc::new(Subscriber { differs, wake: Box::new(wake), dirty: Mutex::new(dirty) });
        inner.subscribers.push(Arc::clone(&subscriber));
        Subscription { store: Arc::clone(self), subscriber }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Inner<V> {
    /// Notes a change for everybody.
    fn note_all(&self, key: &Key) -> Vec<Arc<Subscriber<V>>> {
        for subscriber in &self.subscribers {
            subscriber.dirty().insert(key.clone());
        }
        self.subscribers.clone()
    }

    /// Notes a change for those who asked for such; returns them.
    fn note(&self, key: &Key, before: Option<&V>, after: Option<&V>) -> Vec<Arc<Subscriber<V>>> {
        let differs = |subscriber: &&Arc<Subscriber<V>>| match (before, after) {
            (Some(before), Some(after)) => (subscriber.differs)(before, after),
            (before, after) => before.is_some() != after.is_some(),
        };
        let concerned: Vec<_> = self.subscribers.iter().filter(differs).cloned().collect();
        for subscriber in &concerned {
            subscriber.dirty().insert(key.clone());
        }
        concerned
    }
}

impl<V> Subscriber<V> {
    fn dirty(&self) -> MutexGuard<'_, BTreeSet<Key>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls each subscriber once, with no lock held.
fn wake<V>(subscribers: &[Arc<Subscriber<V>>]) {
    let mut called: Vec<*const Subscriber<V>> = Vec::new();
    for subscriber in subscribers {
        if !called.contains(&Arc::as_ptr(subscriber)) {
            called.push(Arc::as_ptr(subscriber));
            (subscriber.wake)();
        }
    }
}

impl<V> Subscription<V> {
    /// The objects that changed since the last call, as they are now; none for those that are gone.
    pub(crate) fn take(&self) -> Vec<(Key, Option<Object<V>>)> {
        let inner = self.store.inner();
        let dirty = std::mem::take(&mut *self.subscriber.dirty());
        dirty
            .into_iter()
            .map(|key| (inner.objects.get(&key).cloned(), key))
            .map(|(now, key)| (key, now))
            .collect()
    }
}

impl<V> Drop for Subscription<V> {
    fn drop(&mut self) {
        self.store.inner().subscribers.retain(|other| !Arc::ptr_eq(other, &self.subscriber));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    fn counted(store: &Arc<Store<(u8, u8)>>) -> (Subscription<(u8, u8)>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let wake = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        (store.subscribe(|one, other| one.0 != other.0, wake), count)
    }

    #[test]
    fn what_is_outside_of_the_projection_wakes_nobody() {
        let store: Arc<Store<(u8, u8)>> = Arc::default();
        let (subscription, woken) = counted(&store);
        let apply = |version: &str, value| store.apply(&Key::name("a"), version.into(), value);
        apply("1", (1, 1));
        assert_eq!((woken.load(Ordering::Relaxed), subscription.take().len()), (1, 1));
        apply("2", (1, 1));
        apply("3", (1, 2));
        assert_eq!((woken.load(Ordering::Relaxed), subscription.take().len()), (1, 0));
        assert_eq!(store.get(&Key::name("a")).unwrap().version, "3");
        apply("4", (2, 2));
        store.delete(&Key::name("a"));
        let changes = subscription.take();
        assert!(matches!(&changes[..], [(_, None)]) && woken.load(Ordering::Relaxed) == 3);
    }

    #[test]
    fn a_list_wakes_once_and_an_empty_first_one_too() {
        let store: Arc<Store<(u8, u8)>> = Arc::default();
        let (subscription, woken) = counted(&store);
        store.replace(BTreeMap::new());
        assert!(store.is_synced() && woken.load(Ordering::Relaxed) == 1);
        let list =
            |names: &[&str]| names.iter().map(|name| (Key::name(*name), ("1".to_owned(), (1, 1)))).collect();
        store.replace(list(&["a", "b"]));
        assert_eq!((woken.load(Ordering::Relaxed), subscription.take().len()), (2, 2));
        store.replace(list(&["b"]));
        assert_eq!((woken.load(Ordering::Relaxed), subscription.take().len()), (3, 1));
        store.replace(list(&["b"]));
        assert_eq!(woken.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_a_list_lacks_is_missing_until_it_is_back_or_deleted() {
        let store: Arc<Store<(u8, u8)>> = Arc::default();
        let (subscription, woken) = counted(&store);
        let keys = ["a", "b", "c"].map(Key::name);
        let list =
            |names: &[&str]| names.iter().map(|name| (Key::name(*name), (String::new(), (1, 1)))).collect();
        store.replace(list(&["a", "b", "c"]));
        store.delete(&keys[2]);
        store.replace(list(&[]));
        assert_eq!(keys.clone().map(|key| store.is_missing(&key)), [true, true, false]);
        subscription.take();
        let before = woken.load(Ordering::Relaxed);
        store.delete(&keys[0]);
        assert_eq!(
            (subscription.take().len(), woken.load(Ordering::Relaxed)),
            (1, before + 1),
            "a deletion is news"
        );
        store.apply(&keys[1], String::new(), (1, 1));
        assert!(!store.is_missing(&keys[0]) && !store.is_missing(&keys[1]));
        store.delete(&keys[0]);
        assert_eq!(woken.load(Ordering::Relaxed), before + 2, "deleted again, it is not");
    }

    proptest! {
        /// A reader that applies what it is told has what the store has.
        #[test]
        fn deltas_add_up(steps in proptest::collection::vec((0u8..4, 0u8..6, 0u8..3), 1..40)) {
            let store: Arc<Store<(u8, u8)>> = Arc::default();
            let (subscription, _) = counted(&store);
            let mut copy: BTreeMap<Key, u8> = BTreeMap::new();
            for (step, name, value) in steps {
                let key = Key::name(name.to_string());
                match step {
                    0 => store.delete(&key),
                    1 => store.replace([(key, (String::new(), (value, 0)))].into()),
                    _ => store.apply(&key, String::new(), (value, 0)),
                }
                if value == 0 { continue }
                for (key, object) in subscription.take() {
                    match object {
                        Some(object) => copy.insert(key, object.value.0),
                        None => copy.remove(&key),
                    };
                }
                let there: BTreeMap<Key, u8> =
                    store.inner().objects.iter().map(|(key, object)| (key.clone(), object.value.0)).collect();
                prop_assert_eq!(&copy, &there);
            }
        }
    }
}
