//! What the agent tells the command line: shapes of its local API, HTTP/1.1 and JSON on `Paths::agent_socket`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/config` | [`Config`](crate::config::Config) that the agent runs with |
//! | `GET /v1/status` | [`AgentStatus`] |
//! | `GET /v1/services` | [`ServiceList`](crate::service::show::ServiceList): all Services that this node serves |
//! | `GET /v1/services/NAMES` | the same of some, as `namespace/name` with commas between |
//! | `GET /v1/services/trace/SOURCE/TARGET` | [`Trace`](crate::service::trace::Trace): what becomes of a packet |
//! | `POST /v1/pods/admit` with an [`AdmitRequest`](crate::pod::admission::AdmitRequest) | [`Admitted`](crate::pod::admission::Admitted): the pod may start |

use ipnet::IpNet;
use selvedge_keys::PublicKey;
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
