//! ConfigMaps of older configurations, which nothing uses any more.
//!
//! Their names end in a hash of what they say, so each change makes a new one. One that a ControllerRevision names is
//! kept: `kubectl rollout undo` goes back to it.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt as _};
use serde::Serialize;

use super::{Error, MANAGER, absent};
use crate::manifest::{NAMESPACE, is_generated};

/// Deletes them, and gives their names.
///
/// # Errors
/// When the API server does not tell, or refuses.
pub async fn old_maps(client: &Client) -> Result<Vec<String>, Error> {
    let all = ListParams::default();
    let failed = |doing: &'static str| move |error| Error::call(doing, error);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let found = maps.list_metadata(&all).await.map_err(failed("list our ConfigMaps"))?.items;
    let revisions = Api::<ControllerRevision>::namespaced(client.clone(), NAMESPACE).list(&all).await;
    let revisions = revisions.map_err(failed("list our ControllerRevisions"))?.items;
    let sets = Api::<DaemonSet>::namespaced(client.clone(), NAMESPACE).list(&all).await;
    let sets = sets.map_err(failed("list our DaemonSets"))?.items;
    let users = text(&revisions) + &text(&sets);
    let mut gone = Vec::new();
    for map in found.iter().filter(|map| is_old(&map.metadata, &users)) {
        delete(&maps, map).await?;
        gone.push(map.name_any());
    }
    Ok(gone)
}

async fn delete(maps: &Api<ConfigMap>, map: &PartialObjectMeta<ConfigMap>) -> Result<(), Error> {
    let preconditions = Preconditions { uid: map.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    let deleted = absent(maps.delete(&map.name_any(), &params).await);
    deleted.map(drop).map_err(|error| Error::call(format!("delete ConfigMap {}", map.name_any()), error))
}

/// Names with a hash in them stand in a text only where they are meant.
fn text(objects: &impl Serialize) -> String {
    serde_json::to_string(objects).expect("objects of Kubernetes have only text keys")
}

/// Whether it was made by us, only by us, and nothing of `users` names it.
fn is_old(map: &ObjectMeta, users: &str) -> bool {
    let Some(name) = &map.name else { return false };
    let mut managers = map.managed_fields.iter().flatten().peekable();
    let only_ours =
        managers.peek().is_some() && managers.all(|fields| fields.manager.as_deref() == Some(MANAGER));
    is_generated(name) && only_ours && !users.contains(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_ours_alone_and_in_no_use_goes() {
        let map = |name: &str, managers: &[&str]| -> ObjectMeta {
            let fields: Vec<_> = managers.iter().map(|manager| json!({"manager": manager})).collect();
            serde_json::from_value(json!({"name": name, "managedFields": fields})).unwrap()
        };
        let users =
            text(&json!([{"data": {"volumes": [{"configMap": {"name": "selvedge-config-4799478bfb"}}]}}]));
        let old = |name: &str, managers: &[&str]| is_old(&map(name, managers), &users);
        assert!(old("selvedge-config-5m7kf9hhg2", &[MANAGER]));
        assert!(old("selvedge-api-server-5m7kf9hhg2", &[MANAGER, MANAGER]));
        assert!(!old("selvedge-config-4799478bfb", &[MANAGER]), "in use");
        assert!(!old("selvedge-config-5m7kf9hhg2", &[MANAGER, "kubectl-edit"]));
        assert!(!old("selvedge-config-5m7kf9hhg2", &[]));
        for other in
            ["selvedge-config", "selvedge-config-mine", "selvedge-config-5m7kf9hhg2-mine", "kube-root-ca.crt"]
        {
            assert!(!old(other, &[MANAGER]), "{other}");
        }
    }
}
