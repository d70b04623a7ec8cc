//! The network configuration as it is written.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::pod::attachment::Attachment;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Raw {
    pub(super) cni_version: Option<String>,
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    pub(super) dns: Option<Value>,
    #[serde(default)]
    pub(super) runtime_config: RawRuntime,
    pub(super) prev_result: Option<RawResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(super) valid: Option<Vec<Attachment>>,
    /// The name that the specification first had; libcni sends both.
    #[serde(rename = "cni.dev/attachments")]
    pub(super) attachments: Option<Vec<Attachment>>,
}

/// What the runtime adds for our `capabilities` (CNI conventions, "Dynamic plugin specific fields").
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawRuntime {
    #[serde(default)]
    pub(super) port_mappings: Option<Vec<RawPort>>,
}

/// The conventions write the names with a small letter, containerd's go-cni with a capital one; decoders in Go take both.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPort {
    #[serde(alias = "HostPort")]
    pub(super) host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub(super) container_port: u16,
    #[serde(default, alias = "Protocol")]
    pub(super) protocol: String,
    #[serde(rename = "hostIP", default, alias = "HostIP")]
    pub(super) host_ip: String,
}

#[derive(Deserialize)]
pub(super) struct RawResult {
    #[serde(default)]
    pub(super) ips: Vec<RawIp>,
}

#[derive(Deserialize)]
pub(super) struct RawIp {
    pub(super) address: IpNet,
}

#[derive(Deserialize)]
pub(super) struct OnlyVersion {
    #[serde(rename = "cniVersion")]
    pub(super) version: Option<String>,
}
