//! The kinds of PATCH.

use serde_json::{Map, Value};

use super::failure::Failure;

/// How the body of a PATCH is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patch {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, with lists merged by key and `$` directives.
    Strategic,
    /// Server-side apply, here a strategic merge that may create: without field ownership.
    Apply,
}

impl Patch {
    pub(super) fn of(content_type: &str) -> Result<Self, Failure> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => {
                let message = format!("a patch of content type \"{other}\" is not supported");
                Err(Failure::new(415, "UnsupportedMediaType", message))
            }
        }
    }

    pub(super) fn apply(self, before: &Value, body: &Value) -> Result<Value, Failure> {
        let mut after = before.clone();
        match self {
            Self::Merge if body.is_object() => json_patch::merge(&mut after, body),
            Self::Strategic if body.is_object() => strategic(&mut after, body),
            Self::Apply if body.is_object() => strategic(&mut after, &without_managed_fields(body)),
            Self::Json => json(&mut after, body)?,
            _ => return Err(Failure::bad_request("the patch is not a JSON object")),
        }
        Ok(after)
    }
}

/// `before` with a merge patch applied.
pub(super) fn merged(before: &Value, merge: &Value) -> Value {
    let mut after = before.clone();
    json_patch::merge(&mut after, merge);
    after
}

fn json(object: &mut Value, body: &Value) -> Result<(), Failure> {
    let steps: json_patch::Patch = serde_json::from_value(body.clone())
        .map_err(|error| Failure::bad_request(format!("not a JSON patch: {error}")))?;
    json_patch::patch(object, &steps).map_err(|error| Failure::new(422, "Invalid", error.to_string()))
}

fn without_managed_fields(body: &Value) -> Value {
    let mut body = body.clone();
    if let Some(meta) = body["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    body
}

fn strategic(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if directive(patch) == "replace" || !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    if let Some(retained) = patch.get("$retainKeys").and_then(Value::as_array) {
        fields.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            remove_items(fields.get_mut(list), value);
        } else if name.starts_with('$') {
            // Orders of elements matter to people only; the other directives are handled above.
        } else if value.is_null() || value.as_object().is_some_and(|value| directive(value) == "delete") {
            fields.remove(name);
        } else if let Value::Array(items) = value {
            merge_list(name, fields.entry(name).or_insert(Value::Null), items);
        } else {
            strategic(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn merge_list(field: &str, target: &mut Value, items: &[Value]) {
    let Some(present) = target.as_array_mut().filter(|_| merges(field, items)) else {
        *target = items.to_vec().into();
        return;
    };
    for item in items {
        let same = |other: &Value| match merge_key(field, item) {
            Some(key) => other[key] == item[key],
            None => other == item,
        };
        match (item.as_object().map(directive), present.iter().position(same)) {
            (Some("delete"), found) => drop(found.map(|index| present.remove(index))),
            (_, Some(index)) => strategic(&mut present[index], item),
            (_, None) => present.push(item.clone()),
        }
    }
}

fn merges(field: &str, items: &[Value]) -> bool {
    let replaced = items.iter().filter_map(Value::as_object).any(|item| directive(item) == "replace");
    let by_value = matches!(field, "finalizers" | "podCIDRs");
    !replaced && (by_value || items.iter().all(|item| merge_key(field, item).is_some()))
}

/// The field by which a list of that name merges, from the Go types of the API.
fn merge_key(field: &str, item: &Value) -> Option<&'static str> {
    let key = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => "name",
        "volumeMounts" => "mountPath",
        "conditions" | "addresses" => "type",
        "ports" if item.get("containerPort").is_some() => "containerPort",
        "ports" => "port",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" | "hostIPs" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    };
    item.get(key).map(|_| key)
}

fn remove_items(list: Option<&mut Value>, items: &Value) {
    if let (Some(list), Some(items)) = (list.and_then(Value::as_array_mut), items.as_array()) {
        list.retain(|item| !items.contains(item));
    }
}

fn directive(object: &Map<String, Value>) -> &str {
    object.get("$patch").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strategic_patches_merge_lists_by_key() {
        let before = json!({"metadata": {"finalizers": ["a"], "labels": {"x": "1", "y": "2"}},
            "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk"}]},
            "spec": {"taints": [{"key": "a"}]}});
        let patch = json!({"metadata": {"finalizers": ["b"], "labels": {"x": null}},
            "status": {"$setElementOrder/conditions": [], "conditions":
                [{"type": "Ready", "status": "True"}, {"type": "Disk", "$patch": "delete"}, {"type": "New"}]},
            "spec": {"taints": [{"key": "b"}]}});
        let after = Patch::Strategic.apply(&before, &patch).unwrap();
        let expected = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"y": "2"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New"}]},
            "spec": {"taints": [{"key": "b"}]}});
        assert_eq!(after, expected);
    }

    #[test]
    fn directives_replace_retain_and_remove() {
        let before = json!({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "finalizers": ["p", "q"], "c": {}});
        let patch = json!({"a": {"$patch": "replace", "z": 3}, "b": {"$retainKeys": ["y"]},
            "$deleteFromPrimitiveList/finalizers": ["p"], "c": {"$patch": "delete"}});
        let after = Patch::Strategic.apply(&before, &patch).unwrap();
        assert_eq!(after, json!({"a": {"z": 3}, "b": {"y": 2}, "finalizers": ["q"]}));
    }

    #[test]
    fn a_patch_that_is_none_is_refused() {
        assert_eq!(Patch::of("application/json").unwrap_err().code, 415);
        assert_eq!(Patch::Merge.apply(&json!({}), &json!([])).unwrap_err().code, 400);
        let test = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert_eq!(Patch::Json.apply(&json!({"a": 1}), &test).unwrap_err().code, 422);
    }
}
