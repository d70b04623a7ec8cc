//! An object as the store holds it: immutable, with its JSON text made once for all who ask.

use std::ops::Deref;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::object::META_VERSION;

/// One version of one object.
#[derive(Debug)]
pub struct Object {
    value: Value,
    text: OnceLock<Bytes>,
    metadata: OnceLock<Bytes>,
}

impl Object {
    /// The object as JSON.
    pub(super) fn text(&self) -> &Bytes {
        self.text.get_or_init(|| json(&self.value))
    }

    /// Its `PartialObjectMetadata` as JSON.
    pub(super) fn metadata_text(&self) -> &Bytes {
        self.metadata.get_or_init(|| {
            let metadata = &self.value["metadata"];
            json(&Partial { kind: "PartialObjectMetadata", api_version: META_VERSION, metadata })
        })
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl From<Value> for Object {
    fn from(value: Value) -> Self {
        Self { value, text: OnceLock::new(), metadata: OnceLock::new() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Partial<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: &'a Value,
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value has a JSON text").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_texts_are_the_object() {
        let value = json!({"kind": "Node", "metadata": {"name": "n"}, "status": {"x": [1, "y"]}});
        let object = Object::from(value.clone());
        assert_eq!(serde_json::from_slice::<Value>(object.text()).unwrap(), value);
        let partial: Value = serde_json::from_slice(object.metadata_text()).unwrap();
        assert_eq!(partial["kind"], "PartialObjectMetadata");
        assert_eq!(partial["apiVersion"], "meta.k8s.io/v1");
        assert_eq!(partial["metadata"], value["metadata"]);
        assert_eq!(partial.as_object().unwrap().len(), 3);
    }
}
