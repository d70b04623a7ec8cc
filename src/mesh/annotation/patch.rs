//! The merge patch (RFC 7396) that brings a Node's annotations to the wanted ones.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::NAMES;

/// The patch for the Node `uid` at `resource_version`, which makes the API server refuse it when the Node was
/// changed or replaced since; None when there is nothing to change. Own annotations that are no longer wanted
/// are set to null; all others are left alone.
#[must_use]
pub fn merge_patch(
    current: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    uid: &str,
    resource_version: &str,
) -> Option<Value> {
    let mut changes = Map::new();
    for name in NAMES {
        if current.get(name) != wanted.get(name) {
            changes.insert(name.to_owned(), wanted.get(name).map_or(Value::Null, |text| json!(text)));
        }
    }
    let metadata = json!({ "uid": uid, "resourceVersion": resource_version, "annotations": changes });
    (!changes.is_empty()).then(|| json!({ "metadata": metadata }))
}
