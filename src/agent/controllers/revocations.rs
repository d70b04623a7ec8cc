//! Collects what operators have revoked, and keeps it on disk. The mesh believes nobody before it knows.

use std::sync::Arc;

use jiff::Timestamp;
use selvedge_keys::audit::Event;

use crate::agent::context::Context;
use crate::agent::control::{Controller, Outcome, Trigger, Triggers, Unmet};
use crate::agent::view::store::Subscription;
use crate::mesh::revoked::{MOST, Revoked, RevokedEntry};
use crate::resource::key_revocation::Revocation;

pub(in crate::agent) struct Revocations {
    context: Arc<Context>,
    objects: Subscription<Revocation>,
    /// What is on disk; none without a file.
    saved: Option<Revoked>,
}

impl Revocations {
    #[expect(clippy::unnecessary_wraps, reason = "others can fail")]
    pub(in crate::agent) fn new(context: Arc<Context>) -> anyhow::Result<Self> {
        let path = context.paths.revoked();
        let saved = Revoked::open(&path).unwrap_or_else(|error| {
            tracing::error!(
                file = %path.display(), error,
                "the file of revoked keys is damaged: no peer is believed before the API server has listed them"
            );
            None
        });
        let bus = context.bus.clone();
        let wake = move || bus.post(Trigger::KeyRevocations);
        let objects = context.view.key_revocations.subscribe(PartialEq::ne, wake);
        Ok(Self { context, objects, saved })
    }

    fn publish(&self, revoked: Revoked) {
        if self.context.revoked.set(Some(Arc::new(revoked))) {
            self.context.bus.post(Trigger::Revoked);
        }
    }
}

impl Controller for Revocations {
    async fn reconcile(&mut self, _: Triggers) -> Outcome {
        self.objects.take();
        let view = &self.context.view;
        let is_listed = view.key_revocations.is_synced();
        let known = self.saved.clone().unwrap_or_default();
        if !is_listed {
            if self.saved.is_none() && !view.revocations_unserved.get() {
                return Err(Unmet::waiting("waiting for the list of KeyRevocations"));
            }
            self.publish(known);
            return Ok(Vec::new());
        }
        let objects = view.key_revocations.keys().into_iter();
        let shown: Vec<(String, RevokedEntry)> = objects
            .filter_map(|key| Some((key.name.clone(), entry(&view.key_revocations.get(&key)?.value))))
            .collect();
        let is_full = shown.len() > MOST;
        let revoked = known.with(shown);
        if self.saved.as_ref() == Some(&revoked) {
            self.publish(revoked);
            return Ok(Vec::new());
        }
        // In force whether or not that can be written: a full disk must not keep a stolen key alive.
        let written = revoked.save(&self.context.paths.revoked());
        self.publish(revoked.clone());
        written.map_err(Unmet::failed)?;
        let events = events(&known, &revoked);
        let changes: Vec<String> = events.iter().map(text).collect();
        self.context.keys.lock().record(&events, Timestamp::now());
        self.saved = Some(revoked);
        if is_full {
            let what = format!("more than {MOST} KeyRevocations: those beyond are not in force");
            return Err(Unmet::failed(what));
        }
        Ok(changes)
    }
}

fn entry(object: &Revocation) -> RevokedEntry {
    RevokedEntry {
        node: object.node.clone(),
        uid: object.node_uid.clone(),
        keys: object.keys().into_iter().collect(),
        by: object.revoked_by.clone(),
        reason: object.reason.clone(),
        readmitted_by: object.readmitted_by.clone(),
    }
}

/// What is new in `after`.
fn events(before: &Revoked, after: &Revoked) -> Vec<Event> {
    let mut events = Vec::new();
    for (name, entry) in after.entries() {
        let known = before.entries().get(name);
        let is_new = |key: &&selvedge_keys::PublicKey| known.is_none_or(|known| !known.keys.contains(*key));
        let keys: Vec<_> = entry.keys.iter().filter(is_new).copied().collect();
        let (node, uid) = (entry.node.as_str(), entry.uid.as_str());
        if !keys.is_empty() || known.is_none() {
            events.push(Event::KeyRevoked {
                node: node.into(),
                uid: uid.into(),
                public_keys: keys,
                by: entry.by.as_str().into(),
            });
        }
        if let Some(by) = &entry.readmitted_by
            && known.is_none_or(|known| known.readmitted_by.is_none())
        {
            events.push(Event::NodeReadmitted { node: node.into(), uid: uid.into(), by: by.as_str().into() });
        }
    }
    events
}

fn text(event: &Event) -> String {
    match event {
        Event::KeyRevoked { node, by, .. } => format!("keys of node {node} revoked by {by}"),
        Event::NodeReadmitted { node, by, .. } => format!("node {node} readmitted by {by}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_revocation_and_readmission_is_recorded_once() {
        let key = selvedge_keys::PublicKey::from_bytes([7; 32]);
        let object = |readmitted_by: Option<&str>| Revocation {
            node: "n1".into(),
            node_uid: "u1".into(),
            public_keys: vec![key.to_string(), "not a key".into()],
            revoked_by: "alice".into(),
            readmitted_by: readmitted_by.map(str::to_owned),
            ..Revocation::default()
        };
        let shown = |object: &Revocation| [("r".to_owned(), entry(object))];
        let none = Revoked::default();
        let revoked = none.with(shown(&object(None)));
        assert!(matches!(&events(&none, &revoked)[..],
            [Event::KeyRevoked { public_keys, .. }] if *public_keys == [key]));
        assert_eq!(events(&revoked, &revoked), []);
        let readmitted = revoked.with(shown(&object(Some("bob"))));
        assert!(matches!(&events(&revoked, &readmitted)[..], [Event::NodeReadmitted { .. }]));
        assert_eq!(events(&readmitted, &readmitted), []);
        assert_eq!(events(&none, &readmitted).len(), 2, "a node that is new learns both");
    }
}
