//! What Nodes publish of their keys.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::Value;

use crate::cluster::{Error, code};
use crate::mesh::annotation::{NEXT_PUBLIC_KEY, PREFIX};

/// Nodes in a page of a list: some 2 MB of JSON, as their metadata alone is asked for.
const PAGE: u32 = 500;
/// How often a list is begun again whose next page the API server no longer has.
const ATTEMPTS: usize = 3;

/// What one Node publishes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// The Node.
    pub node: String,
    /// Its annotations of Selvedge.
    pub annotations: BTreeMap<String, String>,
    /// When whoever wrote `next-public-key` last wrote to the Node: the annotation has been there since then at least. None without
    /// that annotation, or where the API server does not say.
    pub next_since: Option<Timestamp>,
}

impl Publication {
    /// What this metadata of a Node has.
    #[must_use]
    pub fn of(metadata: ObjectMeta) -> Self {
        let managers = metadata.managed_fields.iter().flatten().filter(|entry| wrote_next(entry));
        let next_since = managers.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|name, _| name.starts_with(PREFIX));
        let next_since = next_since.filter(|_| annotations.contains_key(NEXT_PUBLIC_KEY));
        Self { node: metadata.name.unwrap_or_default(), annotations, next_since }
    }
}

fn wrote_next(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
    let annotations = fields.and_then(|fields| fields.get("f:metadata")?.get("f:annotations"));
    let name = format!("f:{NEXT_PUBLIC_KEY}");
    annotations.and_then(Value::as_object).is_some_and(|annotations| annotations.contains_key(&name))
}

/// Those of all Nodes, by name. Their metadata alone is asked for, in pages.
///
/// # Errors
/// When the API server does not answer, or refuses.
pub async fn fetch(client: &Client) -> Result<Vec<Publication>, Error> {
    let mut attempts = 1;
    loop {
        match list(client).await {
            // The API server has compacted its history since the first page.
            Err(error) if code(&error) == Some(410) && attempts < ATTEMPTS => attempts += 1,
            listed => return listed.map_err(|error| Error::call("list the Nodes", error)),
        }
    }
}

async fn list(client: &Client) -> Result<Vec<Publication>, kube::Error> {
    let nodes = Api::<Node>::all(client.clone());
    let (mut all, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = nodes.list_metadata(&page).await?;
        all.extend(list.items.into_iter().map(|node| Publication::of(node.metadata)));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    all.sort_unstable_by(|a, b| a.node.cmp(&b.node));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn publication(next: bool, managers: &Value) -> Publication {
        let mut annotations = json!({"selvedge.dev/public-key": "k", "example.com/other": "x"});
        if next {
            annotations[NEXT_PUBLIC_KEY] = "n".into();
        }
        let metadata = json!({"name": "a", "annotations": annotations, "managedFields": managers});
        Publication::of(serde_json::from_value(metadata).unwrap())
    }

    fn manager(time: &str, annotation: &str) -> Value {
        let fields = json!({"f:metadata": {"f:annotations": {format!("f:{annotation}"): {}}}});
        json!({"manager": "m", "operation": "Update", "time": time, "fieldsV1": fields})
    }

    #[test]
    fn the_next_key_is_as_old_as_the_last_write_of_its_manager() {
        let early = manager("2026-01-01T00:00:00Z", NEXT_PUBLIC_KEY);
        let late = manager("2026-01-02T00:00:00Z", NEXT_PUBLIC_KEY);
        let other = manager("2026-01-03T00:00:00Z", "selvedge.dev/public-key");
        let all = publication(true, &json!([late, early, other]));
        assert_eq!(
            all.next_since,
            Some("2026-01-02T00:00:00Z".parse().unwrap()),
            "not that of another field"
        );
        assert_eq!(all.annotations.len(), 2, "{all:?}");
        assert_eq!(publication(true, &json!([other])).next_since, None);
        assert_eq!(publication(true, &Value::Null).next_since, None);
        assert_eq!(publication(false, &json!([early])).next_since, None, "it is gone since");
    }
}
