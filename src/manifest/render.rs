//! Settings into objects.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{AGENT, Distribution, NAMESPACE, Object, TUNNEL, base, hash};
use crate::config::Config;

const CONFIG_MAP: &str = "selvedge-config";
const API_SERVER_MAP: &str = "selvedge-api-server";
/// Variables that tell an agent where the API server is.
pub const SERVER_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// Its port.
pub const SERVER_PORT: &str = "KUBERNETES_SERVICE_PORT";
/// What `deploy/base` says, and a configuration may say otherwise.
const INTERFACE: &str = "selvedge0";
const TAINT: &str = "'selvedge.dev/not-ready'";

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How the cluster was made.
    pub distribution: Distribution,
    /// The text of config.toml.
    pub text: String,
    /// What that text says.
    pub config: Config,
    /// The image of both DaemonSets.
    pub image: String,
    /// Where agents reach the API server before any Service works; without it by its Service.
    pub api_server: Option<ApiServer>,
}

/// An API server's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// An address, or a name that nodes resolve without the cluster.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for ApiServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write it as HOST:PORT, like 192.0.2.10:6443 or [2001:db8::10]:6443".to_owned();
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() > 0
        {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        match port.parse::<u16>() {
            Ok(port) if port > 0 && !host.is_empty() && host.bytes().all(named) => {
                Ok(Self { host: host.to_owned(), port })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Settings {
    /// Every object of Selvedge on the cluster, in the order in which they can be applied.
    #[must_use]
    pub fn objects(&self) -> Vec<Object> {
        let mut objects = base::objects();
        let daemon_sets = objects.split_off(
            objects.iter().position(|object| object.0["kind"] == "DaemonSet").unwrap_or(objects.len()),
        );
        objects.iter_mut().for_each(|object| self.policy(object));
        if self.distribution == Distribution::Managed {
            objects.extend(base::quota());
        }
        let config = config_map(CONFIG_MAP, &json!({"config.toml": self.text}));
        let server = self.api_server.as_ref().map(|server| {
            let port = server.port.to_string();
            let data = json!({SERVER_HOST: server.host, SERVER_PORT: port});
            config_map(API_SERVER_MAP, &data)
        });
        for mut object in daemon_sets {
            if object.is("DaemonSet", AGENT) {
                self.agent(&mut object, &config.id().name, server.as_ref().map(|server| server.id().name));
            } else if object.is("DaemonSet", TUNNEL) {
                self.tunnel(&mut object);
            }
            for container in items(&mut object.pod()["containers"]) {
                container["image"] = json!(self.image);
            }
            objects.push(object);
        }
        let at = objects.iter().position(|object| object.0["kind"] == "DaemonSet").unwrap_or(0);
        objects.splice(at..at, [Some(config), server].into_iter().flatten());
        objects
    }

    /// The policy lets the agent take one taint off, which it knows by its key.
    fn policy(&self, object: &mut Object) {
        if object.0["kind"] == "ValidatingAdmissionPolicy" {
            know_taint(object, &self.config.agent.startup_taint);
        }
    }

    fn tunnel(&self, object: &mut Object) {
        for container in items(&mut object.pod()["containers"]).filter(|it| it["name"] == "tunnel") {
            replace(&mut container["args"], INTERFACE, &self.config.interface);
        }
    }

    fn agent(&self, object: &mut Object, config: &str, server: Option<String>) {
        let pod = object.pod();
        for volume in items(&mut pod["volumes"]) {
            match volume["name"].as_str() {
                Some("config") => volume["configMap"]["name"] = json!(config),
                Some("cni-bin") => volume["hostPath"]["path"] = path(&self.config.cni.bin_dir),
                Some("cni-conf") => volume["hostPath"]["path"] = path(&self.config.cni.conf_dir),
                _ => {}
            }
        }
        let container = &mut pod["containers"][0];
        for mount in items(&mut container["volumeMounts"]) {
            match mount["name"].as_str() {
                Some("cni-bin") => mount["mountPath"] = path(&self.config.cni.bin_dir),
                Some("cni-conf") => mount["mountPath"] = path(&self.config.cni.conf_dir),
                _ => {}
            }
        }
        let metrics = self.config.agent.metrics_address;
        for probe in ["livenessProbe", "readinessProbe"] {
            container[probe]["httpGet"]["host"] = json!(probed(metrics.ip()).to_string());
            container[probe]["httpGet"]["port"] = json!(metrics.port());
        }
        if let Some(name) = server {
            container["envFrom"] = json!([{"configMapRef": {"name": name}}]);
        }
    }
}

/// The kubelet of the same node asks.
fn probed(address: IpAddr) -> IpAddr {
    if address.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { address }
}

fn config_map(name: &str, data: &Value) -> Object {
    let name = hash::named(name, data);
    let metadata = json!({"name": name, "namespace": NAMESPACE});
    Object(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))
}

/// Whether a ConfigMap of this name is one that [`Settings::objects`] makes, of whatever content.
#[must_use]
pub fn is_generated(name: &str) -> bool {
    [CONFIG_MAP, API_SERVER_MAP].into_iter().any(|base| hash::is_named(name, base))
}

/// The admission policy of that name, for agents with this start-up taint; with the shipped one where none is given.
#[must_use]
pub fn admission_policy(name: &str, startup_taint: Option<&str>) -> Option<Object> {
    let mut policy =
        base::objects().into_iter().find(|object| object.is("ValidatingAdmissionPolicy", name))?;
    startup_taint.into_iter().for_each(|taint| know_taint(&mut policy, taint));
    Some(policy)
}

fn know_taint(policy: &mut Object, taint: &str) {
    let taint = format!("'{taint}'");
    if taint != TAINT {
        replace(&mut policy.0["spec"], TAINT, &taint);
    }
}

/// Puts `to` in the place of `from` in every text below `value`.
fn replace(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, from, to)),
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, from, to)),
        _ => {}
    }
}

fn items(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

fn path(path: &Path) -> Value {
    json!(path.to_string_lossy())
}
