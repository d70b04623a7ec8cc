//! What every object has: metadata, checked before it is stored.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{failure::Failure, resource::Resource};

/// As in the real server: 256 KiB for all annotations of one object.
const MAX_ANNOTATIONS: usize = 256 << 10;

/// `apiVersion` of the forms that any object can be answered in.
pub(super) const META_VERSION: &str = "meta.k8s.io/v1";

/// A string field of the metadata; empty if absent.
pub(super) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The text at a dotted path such as `spec.nodeName`; empty if absent.
pub(super) fn field(object: &Value, path: &str) -> String {
    match path.split('.').fold(object, |value, part| &value[part]) {
        Value::String(text) => text.clone(),
        Value::Null | Value::Object(_) | Value::Array(_) => String::new(),
        other => other.to_string(),
    }
}

/// Its namespace and name, by which lists are ordered.
pub(super) fn place(object: &Value) -> (&str, &str) {
    (meta(object, "namespace"), meta(object, "name"))
}

/// Whether its deletion was asked for.
pub(super) fn is_marked(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Whether, once its deletion is asked for, something holds the object back.
pub(super) fn is_held(object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
    grace > 0 || has_finalizers(object)
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// The metadata to write to. Only for objects that [`check`] has accepted.
pub(super) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().expect("metadata was made an object just now")
}

/// Sets kind and version, and checks what every object must be: maps where maps belong, a proper name, annotations
/// that are not too long.
pub(super) fn check(resource: &Resource, object: &mut Value) -> Result<(), Failure> {
    let Some(fields) = object.as_object_mut() else {
        return Err(Failure::bad_request("the body is not a JSON object"));
    };
    for (field, expected) in [("kind", resource.kind.to_owned()), ("apiVersion", resource.api_version())] {
        let found = fields.entry(field).or_insert_with(|| expected.clone().into());
        if *found != expected {
            return Err(Failure::bad_request(format!("{field} is {found}, the path is for {expected}")));
        }
    }
    for field in ["metadata", "spec", "status"] {
        if fields.get(field).is_some_and(|value| !value.is_object() && !value.is_null()) {
            return Err(Failure::bad_request(format!("{field} is not a JSON object")));
        }
    }
    let name = meta(object, "name");
    let invalid = |why: &str| Failure::invalid(resource, name, why);
    if !name.is_empty() && !is_name(name) {
        return Err(invalid("metadata.name: must be a lowercase RFC 1123 subdomain"));
    }
    for field in ["labels", "annotations"] {
        check_strings(&object["metadata"][field])
            .map_err(|why| Failure::bad_request(format!("metadata.{field}: {why}")))?;
    }
    let annotations = object["metadata"]["annotations"].as_object();
    let length = annotations.into_iter().flatten().map(|(key, value)| key.len() + text_length(value));
    if length.sum::<usize>() > MAX_ANNOTATIONS {
        return Err(invalid("metadata.annotations: Too long: may not be more than 262144 bytes"));
    }
    Ok(())
}

fn text_length(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}

fn check_strings(map: &Value) -> Result<(), String> {
    match map {
        Value::Null => Ok(()),
        Value::Object(map) => match map.iter().find(|(_, value)| !value.is_string()) {
            Some((key, value)) => Err(format!("{key} is {value}, not a string")),
            None => Ok(()),
        },
        _ => Err("not a JSON object".to_owned()),
    }
}

fn is_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().copied().is_some_and(inner)
                && bytes.last().copied().is_some_and(inner)
                && bytes.iter().all(|&c| inner(c) || c == b'-')
        })
}

/// The time as objects carry it: whole seconds, UTC.
pub(super) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random UUID (RFC 9562, version 4).
pub(super) fn new_uid() -> String {
    let mut bytes: [u8; 16] = random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The five letters and digits that `generateName` appends.
pub(super) fn new_suffix() -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random::<5>().iter().map(|&byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

/// A bearer token nobody can guess.
pub(super) fn new_token() -> String {
    hex(&random::<16>())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource::NODES;

    #[test]
    fn what_no_object_may_be_is_refused() {
        let codes = [
            json!([]),
            json!({"kind": "Pod"}),
            json!({"metadata": "x"}),
            json!({"metadata": {"name": "Upper"}}),
            json!({"metadata": {"name": "a", "annotations": {"k": 1}}}),
            json!({"metadata": {"name": "a", "annotations": {"k": "x".repeat(MAX_ANNOTATIONS)}}}),
        ]
        .map(|mut object| check(&NODES, &mut object).unwrap_err().code);
        assert_eq!(codes, [400, 400, 400, 422, 400, 422]);
        assert!(check(&NODES, &mut json!({"metadata": {"name": "node-1.example"}})).is_ok());
    }

    #[test]
    fn uids_are_uuids() {
        let uid = new_uid();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"), "{uid}");
    }
}
