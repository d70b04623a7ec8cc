//! The files of `deploy/`, as they were when this program was built.

use serde_json::Value;

use super::Object;

/// In the order in which they can be applied.
const FILES: [&str; 6] = [
    include_str!("../../deploy/base/namespace.yaml"),
    include_str!("../../deploy/base/resources.yaml"),
    include_str!("../../deploy/base/rbac.yaml"),
    include_str!("../../deploy/base/admission.yaml"),
    include_str!("../../deploy/base/tunnel.yaml"),
    include_str!("../../deploy/base/agent.yaml"),
];
const QUOTA: &str = include_str!("../../deploy/overlays/managed/quota.yaml");

/// The objects of `deploy/base`, without the configuration.
pub(super) fn objects() -> Vec<Object> {
    FILES.into_iter().flat_map(parse).collect()
}

/// What clouds want before they admit pods of critical priority.
pub(super) fn quota() -> Vec<Object> {
    parse(QUOTA)
}

fn parse(text: &str) -> Vec<Object> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).expect("the tests have parsed what is built in");
    documents.into_iter().filter(|document| !document.is_null()).map(Object).collect()
}
