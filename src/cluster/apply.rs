//! Objects onto the cluster, by server-side apply: first all of them as a dry run, so that what cannot be applied is
//! known before anything is changed.

use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::Status;
use serde::Serialize;
use serde_json::Value;

use super::{Error, MANAGER, absent, code};
use crate::manifest::{Id, NAMESPACE, Object};

/// What became of an object, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there, and otherwise.
    Changed,
    /// It was there, and just so.
    Unchanged,
    /// It could not be tried: its namespace is not there yet, and another may not be used for it.
    Untried,
}

/// An object and its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Which.
    #[serde(flatten)]
    pub id: Id,
    /// What became of it.
    pub result: Outcome,
}

/// How to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Only have the API server say what would become of it.
    pub dry_run: bool,
    /// Take fields over that somebody else owns.
    pub force: bool,
}

/// Applies all of them, in this order.
///
/// # Errors
/// At the first one that is refused. A conflict names who owns which field, and what to do.
pub async fn all(client: &Client, objects: &[Object], mode: Mode) -> Result<Vec<Applied>, Error> {
    let mut applied = Vec::new();
    for object in objects {
        applied.push(one(client, object, mode).await?);
    }
    Ok(applied)
}

async fn one(client: &Client, object: &Object, mode: Mode) -> Result<Applied, Error> {
    let id = object.id();
    let doing = format!("{} {id}", if mode.dry_run { "try" } else { "apply" });
    let api = id.api(client.clone());
    let before = absent(api.get(&id.name).await).map_err(|error| Error::call(format!("get {id}"), error))?;
    let params = PatchParams { dry_run: mode.dry_run, force: mode.force, ..PatchParams::apply(MANAGER) };
    let mut after = api.patch(&id.name, &params, &Patch::Apply(&object.0)).await;
    if mode.dry_run && before.is_none() && after.as_ref().is_err_and(is_without_namespace) {
        after = elsewhere(client, object, &params).await;
        if after.as_ref().is_err_and(is_of_that_place) {
            return Ok(Applied { id, result: Outcome::Untried });
        }
    }
    let after = after.map_err(|error| refused(&id, doing, error, mode))?;
    Ok(Applied { result: outcome(before.as_ref(), &after), id })
}

/// Our own namespace is not there yet while all is only tried. Whether the API server takes an object of that name
/// it can say in another namespace as well.
async fn elsewhere(
    client: &Client,
    object: &Object,
    params: &PatchParams,
) -> Result<DynamicObject, kube::Error> {
    let mut object = object.clone();
    object.0["metadata"]["namespace"] = "default".into();
    let id = object.id();
    let api: Api<DynamicObject> = id.api(client.clone());
    api.patch(&id.name, params, &Patch::Apply(&object.0)).await
}

/// A refusal that says nothing of our own namespace: no rights there, or somebody's object of the same name.
fn is_of_that_place(error: &kube::Error) -> bool {
    matches!(code(error), Some(403 | 409))
}

fn is_without_namespace(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if status.code == 404 && status.message.contains(&format!("namespaces \"{NAMESPACE}\" not found")))
}

fn refused(id: &Id, doing: String, error: kube::Error, mode: Mode) -> Error {
    match &error {
        kube::Error::Api(status) if status.code == 409 && !owners(status).is_empty() => {
            Error::Conflict(conflict(id, &owners(status), mode))
        }
        _ if code(&error) == Some(403) => Error::Call { doing, source: Box::new(error) },
        _ => Error::call(doing, error),
    }
}

/// Fields, and what the API server says of who owns them.
fn owners(status: &Status) -> Vec<(String, String)> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts = causes.filter(|cause| cause.reason == "FieldManagerConflict");
    conflicts.map(|cause| (cause.field.clone(), cause.message.clone())).collect()
}

fn conflict(id: &Id, owners: &[(String, String)], mode: Mode) -> String {
    let mut text = format!("{id} is partly somebody else's:");
    for (field, owner) in owners {
        text += &format!("\n  {field}: {owner}");
    }
    text += match mode.dry_run {
        true => "\nNothing was changed.",
        false => "\nWhat comes before it was applied, and this was not.",
    };
    text + " Have that owner give the fields up or use it for this change, or take them over with \
            --force-conflicts"
}

fn outcome(before: Option<&DynamicObject>, after: &DynamicObject) -> Outcome {
    match before {
        None => Outcome::Created,
        Some(before) if said(before) == said(after) => Outcome::Unchanged,
        Some(_) => Outcome::Changed,
    }
}

/// What an object says, without what the API server and controllers write of it.
fn said(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(field);
        }
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_an_object_says_counts_as_a_change() {
        let with = |version: &str, image: &str, ready: u32| {
            object(json!({
                "apiVersion": "apps/v1", "kind": "DaemonSet",
                "metadata": {"name": "a", "resourceVersion": version, "generation": ready},
                "spec": {"image": image}, "status": {"numberReady": ready},
            }))
        };
        let before = with("1", "x", 1);
        assert_eq!(outcome(None, &before), Outcome::Created);
        assert_eq!(outcome(Some(&before), &with("2", "x", 3)), Outcome::Unchanged);
        assert_eq!(outcome(Some(&before), &with("2", "y", 1)), Outcome::Changed);
    }

    #[test]
    fn a_conflict_names_the_field_its_owner_and_the_way_out() {
        let status: Status = serde_json::from_value(json!({
            "status": "Failure", "message": "Apply failed with 1 conflict", "reason": "Conflict", "code": 409,
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "message": "conflict with \"kubectl\" using apps/v1",
                "field": ".spec.template.spec.containers[name=\"agent\"].image"}]},
        }))
        .unwrap();
        let id = Object(json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "selvedge-agent", "namespace": NAMESPACE}}))
        .id();
        let text = |dry_run| {
            let error = kube::Error::Api(Box::new(status.clone()));
            refused(&id, "apply it".into(), error, Mode { dry_run, force: false }).to_string()
        };
        assert!(text(true).contains("Nothing was changed") && !text(false).contains("Nothing was changed"));
        let text = text(false);
        for part in [
            "DaemonSet selvedge-system/selvedge-agent",
            ".image: conflict with \"kubectl\"",
            "--force-conflicts",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
}
