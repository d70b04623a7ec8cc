//! This node's annotations: the merge patch that brings them to what they should be. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::own::OwnNode;

/// The merge patch (RFC 7386) from what `own` carries to `wanted`; none when nothing differs.
///
/// It carries UID and resource version, so that the API server refuses it when the Node was changed or replaced
/// in between. Of the annotations in `ours`, those that are not wanted are removed; all others stay.
#[must_use]
pub fn patch(own: &OwnNode, wanted: &BTreeMap<String, String>, ours: &[&str]) -> Option<Value> {
    let mut changes = Map::new();
    for (name, value) in wanted {
        if own.annotations.get(name) != Some(value) {
            changes.insert(name.clone(), Value::from(value.as_str()));
        }
    }
    for name in ours {
        if own.annotations.contains_key(*name) && !wanted.contains_key(*name) {
            changes.insert((*name).to_owned(), Value::Null);
        }
    }
    if changes.is_empty() {
        return None;
    }
    Some(json!({"metadata": {
        "uid": own.uid,
        "resourceVersion": own.resource_version,
        "annotations": changes,
    }}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_written_and_only_ours_removed() {
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let own = OwnNode {
            uid: "u".into(),
            resource_version: "7".into(),
            annotations: text(&[("s/a", "1"), ("s/b", "2"), ("s/operator", "x"), ("other", "y")]),
            ..OwnNode::default()
        };
        let ours = ["s/a", "s/b", "s/c"];
        let wanted = text(&[("s/a", "1"), ("s/c", "3")]);
        let expected = json!({"metadata": {"uid": "u", "resourceVersion": "7",
            "annotations": {"s/b": null, "s/c": "3"}}});
        assert_eq!(patch(&own, &wanted, &ours), Some(expected));
        assert_eq!(patch(&own, &text(&[("s/a", "1"), ("s/b", "2")]), &ours), None);
    }
}
