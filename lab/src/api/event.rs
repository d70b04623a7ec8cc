//! Events are stored once, in the core form; `events.k8s.io` shows the same ones under other names.

use serde_json::Value;

use super::resource::{EVENTS, NEW_EVENTS, Resource};
use super::{failure::Failure, object};

/// Field names in core/v1 and in events.k8s.io/v1.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Whether clients of this resource see objects as they are stored.
pub(super) fn is_shown_as_stored(resource: &Resource) -> bool {
    resource != &NEW_EVENTS
}

/// A stored object as clients of this resource see it.
pub(super) fn shown(resource: &Resource, stored: &Value) -> Value {
    let mut shown = stored.clone();
    if resource == &NEW_EVENTS {
        rename(&mut shown, resource, |(core, new)| (core, new));
    }
    shown
}

/// A client's object as it is stored.
pub(super) fn stored(resource: &Resource, mut shown: Value) -> Value {
    if resource == &NEW_EVENTS {
        rename(&mut shown, &EVENTS, |(core, new)| (new, core));
    }
    shown
}

fn rename(
    event: &mut Value,
    to: &Resource,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(fields) = event.as_object_mut() else { return };
    fields.insert("apiVersion".to_owned(), to.api_version().into());
    for (from, to) in NAMES.map(direction) {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// What the real server checks of a new event, given in the form of `resource`.
pub(super) fn check(resource: &Resource, event: &Value) -> Result<(), Failure> {
    let invalid = |why: &str| Err(Failure::invalid(resource, object::meta(event, "name"), why));
    let about = if resource == &NEW_EVENTS { "regarding" } else { "involvedObject" };
    let (namespace, of) =
        (object::meta(event, "namespace"), object::field(event, &format!("{about}.namespace")));
    if of != namespace && !(of.is_empty() && matches!(namespace, "default" | "kube-system")) {
        return invalid(&format!("{about}.namespace: does not match event.namespace"));
    }
    if resource != &NEW_EVENTS {
        return Ok(());
    }
    for (field, longest) in
        [("reportingController", 128), ("reportingInstance", 128), ("action", 128), ("reason", 128)]
    {
        let length = object::field(event, field).len();
        if length == 0 || length > longest {
            return invalid(&format!("{field}: must have 1 to {longest} bytes, has {length}"));
        }
    }
    if object::field(event, "note").len() > 1024 {
        return invalid("note: can have at most 1024 bytes");
    }
    if !matches!(object::field(event, "type").as_str(), "Normal" | "Warning") {
        return invalid("type: must be Normal or Warning");
    }
    if object::field(event, "eventTime").is_empty() {
        return invalid("eventTime: Required value");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_of_an_event_are_the_same_event() {
        let new = json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "regarding": {"name": "n"}, "note": "x"});
        let core = stored(&NEW_EVENTS, new.clone());
        assert_eq!(
            core,
            json!({"kind": "Event", "apiVersion": "v1", "involvedObject": {"name": "n"}, "message": "x"})
        );
        assert_eq!(shown(&NEW_EVENTS, &core), new);
        assert_eq!(shown(&EVENTS, &core), core);
    }

    #[test]
    fn events_that_the_real_server_refuses_are_refused() {
        let good = json!({"metadata": {"name": "e", "namespace": "default"}, "regarding": {"kind": "Node"},
            "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Warning",
            "eventTime": "2026-01-01T00:00:00.000000Z"});
        check(&NEW_EVENTS, &good).unwrap();
        for (field, value) in
            [("note", "x".repeat(1025)), ("reason", String::new()), ("type", "Bad".to_owned())]
        {
            let mut bad = good.clone();
            bad[field] = value.into();
            assert_eq!(check(&NEW_EVENTS, &bad).unwrap_err().code, 422, "{field}");
        }
        let mut elsewhere = good;
        elsewhere["metadata"]["namespace"] = "other".into();
        assert_eq!(check(&NEW_EVENTS, &elsewhere).unwrap_err().code, 422);
    }
}
