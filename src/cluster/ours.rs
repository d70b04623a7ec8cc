//! Which objects are Selvedge's: all that it makes carry one label.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt as _;

use crate::manifest::{AGENT, NAMESPACE, TUNNEL};

const KEY: &str = "app.kubernetes.io/name";
const VALUE: &str = "selvedge";
/// Selects all of ours.
pub(super) const SELECTOR: &str = "app.kubernetes.io/name=selvedge";

/// Whether an object with these labels is.
pub(super) fn is_ours(labels: &BTreeMap<String, String>) -> bool {
    labels.get(KEY).is_some_and(|value| value == VALUE)
}

/// Why nothing may be done here: it runs in another namespace, and what belongs to the cluster is that one's.
pub(super) fn elsewhere(sets: &[DaemonSet]) -> Option<String> {
    let is_other = |set: &&DaemonSet| {
        is_ours(set.labels())
            && [AGENT, TUNNEL].contains(&&*set.name_any())
            && set.namespace().as_deref() != Some(NAMESPACE)
    };
    sets.iter().find(is_other).map(|set| {
        let namespace = set.namespace().unwrap_or_default();
        format!(
            "Selvedge runs in another namespace here: DaemonSet {namespace}/{}. Take it off first with what put it \
             there (Helm: helm uninstall RELEASE --namespace {namespace})",
            set.name_any()
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ours_in_another_namespace_is_in_the_way() {
        let set = |namespace: &str, name: &str, label: &str| -> DaemonSet {
            let metadata = json!({"name": name, "namespace": namespace, "labels": {KEY: label}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        let harmless = [
            set(NAMESPACE, AGENT, VALUE),
            set("networking", AGENT, "other"),
            set("networking", "selvedge-dashboard", VALUE),
        ];
        assert_eq!(elsewhere(&harmless), None);
        let why = elsewhere(&[set("networking", TUNNEL, VALUE)]).unwrap();
        assert!(why.contains("networking/selvedge-tunnel") && why.contains("helm uninstall"), "{why}");
    }
}
