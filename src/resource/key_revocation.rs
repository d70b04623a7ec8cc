//! KeyRevocation: no node believes these keys any more, nor the Node object that published them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use selvedge_keys::PublicKey;
use serde::{Deserialize, Serialize};

/// Most keys of one object.
pub const KEYS: usize = 64;

/// Keys that are revoked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRevocation {
    /// `selvedge.dev/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// `KeyRevocation`.
    #[serde(default)]
    pub kind: String,
    /// Its name is of no importance.
    pub metadata: ObjectMeta,
    /// What is revoked.
    pub spec: Revocation,
}

/// What is revoked: by operators alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Name of the Node that published the keys.
    pub node: String,
    /// UID of that Node object, which is barred until [`readmitted_by`](Self::readmitted_by) is set. Empty: none is barred.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_uid: String,
    /// Its keys, base64. They stay revoked for ever.
    pub public_keys: Vec<String>,
    /// The user who revokes; the admission policy makes sure of it.
    pub revoked_by: String,
    /// Why, for the record; at most 256 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The user who let the Node in again, with new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readmitted_by: Option<String>,
}

impl Revocation {
    /// Of this object.
    #[must_use]
    pub fn of(object: &KeyRevocation) -> Self {
        object.spec.clone()
    }

    /// The keys that can be read.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        self.public_keys.iter().filter_map(|key| key.parse().ok()).collect()
    }
}

impl KeyRevocation {
    /// Of that name.
    #[must_use]
    pub fn new(name: &str, spec: Revocation) -> Self {
        Self {
            api_version: <Self as k8s_openapi::Resource>::API_VERSION.into(),
            kind: <Self as k8s_openapi::Resource>::KIND.into(),
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec,
        }
    }
}

impl k8s_openapi::Resource for KeyRevocation {
    const API_VERSION: &'static str = "selvedge.dev/v1alpha1";
    const GROUP: &'static str = super::GROUP;
    const KIND: &'static str = "KeyRevocation";
    const VERSION: &'static str = super::VERSION;
    const URL_PATH_SEGMENT: &'static str = "keyrevocations";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for KeyRevocation {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
