//! Runs CNI plugins as a container runtime does (CNI specification 1.1.0): configuration lists, environment,
//! results. In a node's namespaces, with the node's own folders.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::space::Space;

/// A configuration list as a runtime finds it, and where its plugins are.
#[derive(Debug, Clone)]
pub struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    folder: PathBuf,
    env: Vec<(String, String)>,
}

/// The container that a plugin is run for.
#[derive(Debug, Clone)]
pub struct Container {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_NETNS`, as a path in the node's mounts.
    pub netns: PathBuf,
    /// The pod's namespace and name, for `CNI_ARGS`.
    pub pod: (String, String),
    /// Its host ports, as `portMappings` has them.
    pub port_mappings: Vec<Value>,
}

/// What a plugin answered.
#[derive(Debug, Clone)]
pub struct Added {
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// The whole result, for later calls.
    pub result: Value,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no configuration.
    #[error("no CNI configuration in {0}: the agent has not installed it yet")]
    None(PathBuf),
    /// A file cannot be read or used.
    #[error("CNI configuration {file}: {why}")]
    Configuration {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// A plugin cannot be run.
    #[error("run CNI plugin {plugin} ({command}): {source}")]
    Run {
        /// Which.
        plugin: String,
        /// For what.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A plugin failed.
    #[error("CNI plugin {plugin} ({command}) failed with code {code}: {message}")]
    Plugin {
        /// Which.
        plugin: String,
        /// For what.
        command: String,
        /// Its error code, 0 when it gave none.
        code: u64,
        /// Its message and details.
        message: String,
    },
    /// A plugin answered what is no result.
    #[error("CNI plugin {plugin} ({command}) answered what is no result: {text}")]
    Answer {
        /// Which.
        plugin: String,
        /// For what.
        command: String,
        /// The answer's beginning.
        text: String,
    },
}

impl Network {
    /// Reads the first configuration list of `configuration`, a folder as the lab sees it. The plugins are in
    /// `folder`, as the node sees it; `env` is added to their environment.
    pub fn load(configuration: &Path, folder: &Path, env: Vec<(String, String)>) -> Result<Self, Error> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(configuration)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.retain(|file| file.extension().is_some_and(|kind| kind == "conflist"));
        files.sort();
        let file = files.into_iter().next().ok_or_else(|| Error::None(configuration.to_owned()))?;
        let wrong = |why: String| Error::Configuration { file: file.clone(), why };
        let text = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
        let list: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let field = |name: &str| list[name].as_str().map(str::to_owned);
        Ok(Self {
            name: field("name").ok_or_else(|| wrong("has no name".into()))?,
            version: version(&list).ok_or_else(|| wrong("has no cniVersion".into()))?,
            plugins: list["plugins"].as_array().cloned().ok_or_else(|| wrong("has no plugins".into()))?,
            folder: folder.to_owned(),
            env,
        })
    }

    /// Wires a container: ADD of each plugin, in order.
    pub fn add(&self, space: &Space, container: &Container) -> Result<Added, Error> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            result = self.call(space, plugin, "ADD", Some(container), &result)?;
        }
        let ips = result["ips"].as_array().into_iter().flatten();
        let nets = ips.filter_map(|ip| ip["address"].as_str()?.parse::<IpNet>().ok());
        Ok(Added { addresses: nets.map(|net| net.addr()).collect(), result })
    }

    /// Takes a container's wiring away: DEL of each plugin, in reverse order. All are called; the first error is given.
    pub fn delete(&self, space: &Space, container: &Container, result: &Value) -> Result<(), Error> {
        let calls = self.plugins.iter().rev();
        let outcomes: Vec<_> =
            calls.map(|plugin| self.call(space, plugin, "DEL", Some(container), result).map(drop)).collect();
        outcomes.into_iter().collect()
    }

    /// CHECK of each plugin.
    pub fn check(&self, space: &Space, container: &Container, result: &Value) -> Result<(), Error> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.call(space, plugin, "CHECK", Some(container), result).map(drop))
    }

    /// STATUS of each plugin: whether pods can be wired now.
    pub fn status(&self, space: &Space) -> Result<(), Error> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.call(space, plugin, "STATUS", None, &Value::Null).map(drop))
    }

    fn call(
        &self,
        space: &Space,
        plugin: &Value,
        verb: &str,
        container: Option<&Container>,
        result: &Value,
    ) -> Result<Value, Error> {
        let name = plugin["type"].as_str().unwrap_or("(without type)").to_owned();
        let mut command = Command::new(self.folder.join(&name));
        command.env("CNI_COMMAND", verb).env("CNI_PATH", &self.folder).envs(self.env.iter().cloned());
        if let Some(container) = container {
            let (namespace, pod) = &container.pod;
            command.env("CNI_CONTAINERID", &container.id).env("CNI_NETNS", &container.netns);
            command.env("CNI_IFNAME", "eth0");
            command
                .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}"));
        }
        let output = run(space, command, &self.input(plugin, container, result))
            .map_err(|source| Error::Run { plugin: name.clone(), command: verb.into(), source })?;
        answer(name, verb, &output)
    }

    fn input(&self, plugin: &Value, container: Option<&Container>, result: &Value) -> Vec<u8> {
        let mut input = plugin.clone();
        let mappings = container.map(|container| &container.port_mappings).filter(|all| !all.is_empty());
        if let (Some(mappings), true) = (mappings, plugin["capabilities"]["portMappings"] == true) {
            input["runtimeConfig"] = json!({"portMappings": mappings});
        }
        if let Some(fields) = input.as_object_mut() {
            fields.insert("name".into(), self.name.clone().into());
            fields.insert("cniVersion".into(), self.version.clone().into());
            fields.remove("capabilities");
            if !result.is_null() {
                fields.insert("prevResult".into(), result.clone());
            }
        }
        input.to_string().into_bytes()
    }
}

/// The newest of `cniVersions` and `cniVersion`, as runtimes choose it. Every number in them has one digit.
fn version(list: &Value) -> Option<String> {
    let all = list["cniVersions"].as_array().into_iter().flatten().chain([&list["cniVersion"]]);
    all.filter_map(Value::as_str).max().map(str::to_owned)
}

fn run(space: &Space, mut command: Command, input: &[u8]) -> io::Result<std::process::Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    let mut child = space.place(&mut command).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that ends without reading has said why on its output.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

fn answer(plugin: String, verb: &str, output: &std::process::Output) -> Result<Value, Error> {
    let command = verb.to_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed: Result<Value, _> = serde_json::from_str(text.trim());
    if output.status.success() {
        return match (parsed, text.trim().is_empty()) {
            (Ok(value), _) => Ok(value),
            (Err(_), true) => Ok(Value::Null),
            (Err(_), false) => Err(Error::Answer { plugin, command, text: text.chars().take(300).collect() }),
        };
    }
    let error = parsed.unwrap_or(json!({}));
    let said = [error["msg"].as_str(), error["details"].as_str()].into_iter().flatten();
    let mut message = said.collect::<Vec<_>>().join(": ");
    if message.is_empty() {
        message = format!("{}; {}{}", output.status, text, String::from_utf8_lossy(&output.stderr));
    }
    Err(Error::Plugin { plugin, command, code: error["code"].as_u64().unwrap_or(0), message })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SCRIPT: &str = r#"#!/bin/sh
input=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $input" >> /run/node/calls
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.244.1.2/32"},{"address":"fd00::2/128"}]}' ;;
STATUS) echo '{"cniVersion":"1.1.0","code":50,"msg":"not ready","details":"no agent"}'; exit 1 ;;
esac
"#;

    #[test]
    fn plugins_are_called_as_a_runtime_calls_them() {
        crate::isolated!(|| {
            let disk = Path::new("/run/disk");
            std::fs::create_dir_all(disk.join("net.d")).unwrap();
            std::fs::create_dir_all(disk.join("bin")).unwrap();
            let plugin = disk.join("bin/fake");
            std::fs::write(&plugin, SCRIPT).unwrap();
            std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
            let load = || Network::load(&disk.join("net.d"), Path::new("/run/node/bin"), Vec::new());
            assert!(matches!(load(), Err(Error::None(_))));
            let list = json!({"cniVersion": "1.1.0", "name": "fabric", "plugins": [{"type": "fake", "mtu": 1420, "capabilities": {"portMappings": true}}]});
            std::fs::write(disk.join("net.d/10-fabric.conflist"), list.to_string()).unwrap();
            let network = load().unwrap();
            let space = Space::create("n1", disk).unwrap();
            let pod = ("default".to_owned(), "a".to_owned());
            let container = Container {
                id: "c1".into(),
                netns: "/run/netns/c1".into(),
                pod,
                port_mappings: vec![json!({"hostPort": 1})],
            };
            let added = network.add(&space, &container).unwrap();
            assert_eq!(
                added.addresses,
                ["10.244.1.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]
            );
            network.delete(&space, &container, &added.result).unwrap();
            let error = network.status(&space).unwrap_err();
            assert!(matches!(&error, Error::Plugin { code: 50, .. }), "{error}");
            assert!(error.to_string().ends_with("not ready: no agent"), "{error}");
            let calls = std::fs::read_to_string(disk.join("calls")).unwrap();
            let calls: Vec<&str> = calls.lines().collect();
            assert!(calls[0].starts_with("ADD c1 /run/netns/c1 eth0 {"), "{calls:?}");
            assert!(calls[0].contains(r#""name":"fabric""#) && !calls[0].contains("prevResult"), "{calls:?}");
            assert!(calls[0].contains(r#""runtimeConfig":{"portMappings":[{"hostPort":1}]}"#), "{calls:?}");
            assert!(calls[1].starts_with("DEL c1") && calls[1].contains(r#""prevResult":{"#), "{calls:?}");
            assert!(calls[2].starts_with("STATUS   "), "{calls:?}");
        });
    }
}
