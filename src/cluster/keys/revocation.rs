//! Keys that no node is to believe any more, and the way back for their Node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PostParams};
use kube::{Client, ResourceExt as _};
use selvedge_keys::PublicKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::operation::{MANAGER, params};
use crate::cluster::{Error, absent, code};
use crate::mesh::annotation;
use crate::resource::KeyRevocation;
use crate::resource::key_revocation::{KEYS, Revocation};

/// How often the same keys of a Node can be revoked after they were readmitted.
const REPEATED: u8 = 16;

/// What a Node publishes, and would lose the trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// UID of the Node object.
    pub uid: String,
    /// Every key that its annotations hold, whatever else they hold.
    pub keys: BTreeSet<PublicKey>,
}

/// The keys that the Node publishes now; none without such a Node.
///
/// # Errors
/// When the API server does not answer.
pub async fn published(client: &Client, node: &str) -> Result<Option<Published>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let found = absent(api.get_metadata(node).await);
    let found = found.map_err(|error| Error::call(format!("get Node {node}"), error))?;
    Ok(found.map(|object| Published {
        uid: object.uid().unwrap_or_default(),
        keys: annotation::public_keys(object.annotations()),
    }))
}

/// All revocations, by name.
///
/// # Errors
/// When the API server does not answer, refuses, or has no KeyRevocations.
pub async fn list(client: &Client) -> Result<Vec<KeyRevocation>, Error> {
    let api: Api<KeyRevocation> = Api::all(client.clone());
    let listed = absent(api.list(&ListParams::default()).await);
    let listed = listed.map_err(|error| Error::call("list the KeyRevocations", error))?;
    let missing =
        "this cluster has no KeyRevocations: apply deploy/base/resources.yaml, or run `selvedge install`";
    listed.map(|list| list.items).ok_or_else(|| Error::Config(missing.into()))
}

/// Writes a revocation. The same one is written once. Returns its name.
///
/// # Errors
/// When there is no key, there are too many, or the API server refuses.
pub async fn revoke(client: &Client, spec: &Revocation) -> Result<String, Error> {
    if spec.public_keys.is_empty() || spec.public_keys.len() > KEYS {
        let count = spec.public_keys.len();
        return Err(Error::Config(format!("a revocation has from 1 to {KEYS} keys, and not {count}")));
    }
    let api: Api<KeyRevocation> = Api::all(client.clone());
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    for repeated in 0..REPEATED {
        let name = name(spec, repeated);
        let failed = |error| Error::call(format!("write KeyRevocation {name}"), error);
        match api.create(&params, &KeyRevocation::new(&name, spec.clone())).await {
            Ok(_) => return Ok(name),
            Err(error) if code(&error) == Some(409) => {}
            Err(error) => return Err(failed(error)),
        }
        let there = absent(api.get(&name).await).map_err(failed)?;
        if there.is_some_and(|there| there.spec.readmitted_by.is_none()) {
            return Ok(name);
        }
    }
    Err(Error::Conflict(format!("these keys were revoked and readmitted {REPEATED} times already")))
}

/// The same Node object and keys have the same name, unless they were readmitted in between.
fn name(spec: &Revocation, repeated: u8) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&spec.node_uid).chain(&spec.public_keys) {
        hash.update(part);
        hash.update([0]);
    }
    hash.update([repeated]);
    let hex: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("revoked-{hex}")
}

/// Lets the Node of this name in again, with new keys. Returns the names of the revocations that barred it.
///
/// # Errors
/// At the first one that the API server refuses.
pub async fn readmit(client: &Client, node: &str, by: &str) -> Result<Vec<String>, Error> {
    let api: Api<KeyRevocation> = Api::all(client.clone());
    let mut names = Vec::new();
    for object in list(client).await? {
        if object.spec.node != node || object.spec.readmitted_by.is_some() {
            continue;
        }
        let name = object.name_any();
        let patch = json!({"spec": {"readmittedBy": by}});
        let patched = api.patch(&name, &params(), &Patch::Merge(&patch)).await;
        patched.map_err(|error| Error::call(format!("change KeyRevocation {name}"), error))?;
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_has_a_name_of_its_content() {
        let spec = |uid: &str, keys: &[&str]| Revocation {
            node_uid: uid.into(),
            public_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            ..Revocation::default()
        };
        let one = name(&spec("u", &["a", "b"]), 0);
        assert_eq!(one, name(&spec("u", &["a", "b"]), 0));
        assert_ne!(one, name(&spec("u", &["a", "b"]), 1));
        assert_eq!(one.len(), "revoked-".len() + 16);
        for other in [spec("v", &["a", "b"]), spec("u", &["a"]), spec("u", &["ab"]), spec("ua", &["b"])] {
            assert_ne!(one, name(&other, 0));
        }
    }
}
