//! KeyRotation: asks the agent of one node to rotate its keys, and shows how far it is.
//!
//! An object has the name of its Node. `spec` is what an operator asks for, `status` is the agent's answer. An operation that
//! concerns many nodes is one object for each of them, with the same `spec.operation`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use selvedge_keys::rotation::{Outcome, Phase};
use serde::{Deserialize, Serialize};

/// The label that names the operation, so that its objects can be listed.
pub const OPERATION: &str = "selvedge.dev/operation";
/// Bounds of a deadline, in seconds.
pub const DEADLINE: std::ops::RangeInclusive<u64> = 1..=24 * 3600;
/// Most bytes of a text.
pub const TEXT: usize = 256;
/// Most peers that a status names.
pub const NAMED: usize = 8;

/// The rotation of one node's keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotation {
    /// `selvedge.dev/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// `KeyRotation`.
    #[serde(default)]
    pub kind: String,
    /// Its name is that of the Node.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: KeyRotationSpec,
    /// How far it is; by the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<KeyRotationStatus>,
}

/// What an operator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotationSpec {
    /// Names the operation. The agent carries each out once.
    pub operation: String,
    /// The user who asks; the admission policy makes sure of it.
    pub requested_by: String,
    /// Why, for the record; at most 256 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// After so many seconds the new key is promoted although some peers have not confirmed it.
    #[serde(default = "default_deadline")]
    pub deadline_seconds: u64,
    /// The agent does not begin while this is set: the operation has not come to this node yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    /// Takes the rotation back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<Abort>,
}

/// Seconds without another wish.
pub const DEFAULT_DEADLINE: u64 = 300;

fn default_deadline() -> u64 {
    DEFAULT_DEADLINE
}

/// What is asked for, and the answer: all that an agent reads of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// What is asked for.
    pub spec: KeyRotationSpec,
    /// The answer, which may be one to an earlier operation.
    pub status: Option<KeyRotationStatus>,
}

impl Asked {
    /// Of this object.
    #[must_use]
    pub fn of(object: &KeyRotation) -> Self {
        Self { spec: object.spec.clone(), status: object.status.clone() }
    }

    /// The answer to what is asked for now.
    #[must_use]
    pub fn answer(&self) -> Option<&KeyRotationStatus> {
        self.status.as_ref().filter(|status| status.operation == self.spec.operation)
    }
}

/// The end of a rotation before its time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// The user who asks.
    pub requested_by: String,
    /// Why, for the record; at most 256 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// How far a rotation is, as the agent last wrote it. What is absent is `null` in JSON, so that a merge patch removes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRotationStatus {
    /// The operation that this is about.
    pub operation: String,
    /// How far it is.
    pub state: KeyRotationState,
    /// Why it waits, was refused or ended.
    #[serde(default)]
    pub message: String,
    /// Epoch of the old key.
    #[serde(default)]
    pub from_epoch: Option<u64>,
    /// Epoch of the new key.
    #[serde(default)]
    pub to_epoch: Option<u64>,
    /// Peers with a session.
    #[serde(default)]
    pub peers: Option<u64>,
    /// Those of them that packets go to by the key that is to stay.
    #[serde(default)]
    pub confirmed: Option<u64>,
    /// The first few of the others.
    #[serde(default)]
    pub waiting_for: Vec<String>,
    /// When it began.
    #[serde(default)]
    pub begun: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
}

/// The states of a rotation: the phases of the machine, and what is before and after them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRotationState {
    /// It cannot begin yet.
    #[default]
    Waiting,
    /// The new key is made, and loaded into the tunnel.
    Preparing,
    /// Peers see the new key, and make sessions on it.
    Confirming,
    /// The new key is in use; the old one waits for its last session.
    Retiring,
    /// The new key is being taken back.
    Aborting,
    /// The new key is in use, and the old one is wiped.
    Rotated,
    /// The old key stays in use.
    Aborted,
    /// It ended because the key store has other keys.
    Superseded,
    /// The agent cannot do it.
    Refused,
}

impl KeyRotationState {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Rotated | Self::Aborted | Self::Superseded | Self::Refused)
    }
}

impl From<Phase> for KeyRotationState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Prepare | Phase::Load => Self::Preparing,
            Phase::Publish | Phase::Confirm => Self::Confirming,
            Phase::Promote | Phase::Announce | Phase::Retire | Phase::Forget => Self::Retiring,
            Phase::Withdraw | Phase::Unpublish | Phase::Drain | Phase::Discard => Self::Aborting,
        }
    }
}

impl From<Outcome> for KeyRotationState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Rotated => Self::Rotated,
            Outcome::Aborted => Self::Aborted,
            Outcome::Superseded => Self::Superseded,
        }
    }
}

impl KeyRotation {
    /// Of the Node of that name.
    #[must_use]
    pub fn new(node: &str, spec: KeyRotationSpec) -> Self {
        let labels = [(OPERATION.to_owned(), spec.operation.clone())].into();
        let metadata =
            ObjectMeta { name: Some(node.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        Self {
            api_version: <Self as k8s_openapi::Resource>::API_VERSION.into(),
            kind: <Self as k8s_openapi::Resource>::KIND.into(),
            metadata,
            spec,
            status: None,
        }
    }

    /// The agent's answer to what is asked for now; none if that is to an earlier operation.
    #[must_use]
    pub fn answer(&self) -> Option<&KeyRotationStatus> {
        self.status.as_ref().filter(|status| status.operation == self.spec.operation)
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.answer().is_some_and(|status| status.state.is_final())
    }
}

impl k8s_openapi::Resource for KeyRotation {
    const API_VERSION: &'static str = "selvedge.dev/v1alpha1";
    const GROUP: &'static str = super::GROUP;
    const KIND: &'static str = "KeyRotation";
    const VERSION: &'static str = super::VERSION;
    const URL_PATH_SEGMENT: &'static str = "keyrotations";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for KeyRotation {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// An operation on a node, with this answer to it.
    pub(crate) fn rotation(operation: &str, hold: bool, state: Option<KeyRotationState>) -> KeyRotation {
        let spec = KeyRotationSpec { operation: operation.into(), hold, ..KeyRotationSpec::default() };
        let status = |state| KeyRotationStatus {
            operation: operation.into(),
            state,
            message: "too old".into(),
            ..KeyRotationStatus::default()
        };
        KeyRotation { status: state.map(status), ..KeyRotation::new("n", spec) }
    }

    #[test]
    fn an_object_reads_back_and_names_its_kind() {
        let spec = KeyRotationSpec {
            operation: "r-1".into(),
            requested_by: "alice".into(),
            deadline_seconds: 300,
            ..KeyRotationSpec::default()
        };
        let object = KeyRotation::new("n1", spec);
        let text = serde_json::to_value(&object).unwrap();
        assert_eq!(
            (&text["apiVersion"], &text["kind"]),
            (&json!("selvedge.dev/v1alpha1"), &json!("KeyRotation"))
        );
        assert_eq!(text["spec"], json!({"operation": "r-1", "requestedBy": "alice", "deadlineSeconds": 300}));
        assert_eq!(serde_json::from_value::<KeyRotation>(text).unwrap(), object);
    }

    #[test]
    fn an_answer_to_an_earlier_operation_does_not_count() {
        let spec =
            |operation: &str| KeyRotationSpec { operation: operation.into(), ..KeyRotationSpec::default() };
        let mut object = KeyRotation::new("n1", spec("r-2"));
        object.status = Some(KeyRotationStatus {
            operation: "r-1".into(),
            state: KeyRotationState::Rotated,
            ..KeyRotationStatus::default()
        });
        assert!(object.answer().is_none() && !object.is_over());
        object.spec = spec("r-1");
        assert!(object.is_over());
    }
}
