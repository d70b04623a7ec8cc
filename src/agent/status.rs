//! What the agent tells the command line: shapes of its local API, HTTP/1.1 and JSON on `Paths::agent_socket`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/config` | [`Config`](crate::config::Config) that the agent runs with |
//! | `GET /v1/status` | [`AgentStatus`] |
//! | `GET /v1/services` | [`ServiceList`](crate::service::show::ServiceList): all Services that this node serves |
//! | `GET /v1/services/NAMES` | the same of some, as `namespace/name` with commas between |
//! | `GET /v1/services/trace/SOURCE/TARGET` | [`Trace`](crate::service::trace::Trace): what becomes of a packet |
//! | `GET /v1/keys` | [`KeysStatus`]: this node's keys, and their rotation |
//! | `POST /v1/keys/rotate` with a [`RotateRequest`] | [`KeysStatus`]: a rotation has begun |
//! | `POST /v1/keys/abort` with an [`AbortRequest`] | [`KeysStatus`]: the rotation goes back |
//! | `POST /v1/pods/admit` with an [`AdmitRequest`](crate::pod::admission::AdmitRequest) | [`Admitted`](crate::pod::admission::Admitted): the pod may start |

use ipnet::IpNet;
use jiff::Timestamp;
use selvedge_keys::PublicKey;
use selvedge_keys::rotation::{Outcome, Phase};
use serde::{Deserialize, Serialize};

use crate::tunnel::api::DeviceStatus;

/// State of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Name of this node.
    pub node: String,
    /// True when pods may start here.
    pub ready: bool,
    /// What has not reached its desired state, a line for each controller; all are retried.
    pub problems: Vec<String>,
    /// The key that peers use now.
    pub public_key: PublicKey,
    /// Its epoch.
    pub key_epoch: u64,
    /// This node's pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<IpNet>,
    /// Nodes whose claims are refused.
    pub refused: Vec<Refused>,
    /// The tunnel's own report; none when it does not answer.
    pub tunnel: Option<DeviceStatus>,
    /// How each controller is doing.
    #[serde(default)]
    pub controllers: Vec<ControllerStatus>,
}

/// This node's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeysStatus {
    /// Name of this node.
    pub node: String,
    /// The key that peers use now.
    pub public_key: PublicKey,
    /// Its epoch.
    pub key_epoch: u64,
    /// When it was made.
    pub key_created: Timestamp,
    /// Why the last event could not be written to the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_problem: Option<String>,
    /// The rotation that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationStatus>,
    /// The rotation that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRotation>,
}

/// A rotation that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationStatus {
    /// Its name.
    pub id: String,
    /// Who asked for it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// How far it is.
    pub phase: Phase,
    /// Epoch of the old key.
    pub from: u64,
    /// Epoch of the new key.
    pub to: u64,
    /// When it began.
    pub begun: Timestamp,
    /// When the new key is promoted although some peers have not confirmed it.
    pub deadline: Timestamp,
    /// Peers with a confirmed session.
    pub live: usize,
    /// Those of them that packets go to by the key that is to stay.
    pub confirmed: usize,
    /// The first few of the others.
    pub waiting_for: Vec<String>,
    /// Why it is aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aborted: Option<String>,
}

/// A rotation that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRotation {
    /// Its name.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Epoch of the old key.
    pub from: u64,
    /// Epoch of the new key.
    pub to: u64,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
}

/// Asks for a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RotateRequest {
    /// Who asks; at most 512 bytes.
    #[serde(default)]
    pub by: String,
    /// Why; at most 256 bytes.
    #[serde(default)]
    pub reason: String,
    /// After so many seconds the new key is promoted although some peers have not confirmed it; up to a day.
    pub deadline_seconds: u64,
}

/// Takes a rotation back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AbortRequest {
    /// Name of the rotation.
    pub id: String,
    /// Who asks; at most 512 bytes.
    #[serde(default)]
    pub by: String,
    /// Why; at most 256 bytes.
    #[serde(default)]
    pub reason: String,
}

/// A node whose claims are refused: no traffic goes to it or is taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Name of the node.
    pub node: String,
    /// A word out of a fixed set, as in the metric.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How one controller is doing, for `selvedge status --output json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerStatus {
    /// Its name.
    pub name: String,
    /// Number of the desired state: one more with each change that concerns it.
    pub wanted: u64,
    /// Number of the desired state that the last successful run applied; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Runs since the agent started.
    pub runs: u64,
    /// Why the desired state is not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}
