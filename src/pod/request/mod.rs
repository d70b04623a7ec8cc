//! What a container runtime asks: environment and standard input, checked. Pure; never panics on foreign bytes.

mod environment;
mod ports;
mod raw;
#[cfg(test)]
mod tests;
mod version;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::attachment::{self, Attachment, PodName};
use super::error::{Code, Error};
use super::mapping::HostPort;
use crate::paths::Paths;
pub use environment::Environment;
use ports::host_ports;
use raw::{OnlyVersion, Raw};
pub use version::{VERSIONS, Version};

/// A request that can be served.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The network's name and our own settings.
    pub config: Config,
    /// What to do.
    pub verb: Verb,
}

/// The verbs of the specification.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Connect a pod.
    Add {
        /// Its container and interface.
        attachment: Attachment,
        /// Its network namespace.
        netns: PathBuf,
        /// Which pod it is, if the runtime says.
        pod: PodName,
        /// Ports of the node that are to lead to it, each once.
        host_ports: Vec<HostPort>,
    },
    /// Disconnect a pod.
    Del {
        /// Its container and interface.
        attachment: Attachment,
    },
    /// Compare with what ADD made.
    Check {
        /// Its container and interface.
        attachment: Attachment,
        /// Its network namespace.
        netns: PathBuf,
        /// What ADD answered.
        previous: Previous,
    },
    /// Free what belongs to none of these.
    Gc {
        /// The interfaces that the runtime knows.
        valid: BTreeSet<Attachment>,
    },
    /// Tell whether ADD would work.
    Status,
    /// Tell the versions.
    Version,
}

/// What of the network configuration matters to us.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Name of the network.
    pub network: String,
    /// Folder to use in place of /var/lib/selvedge.
    pub state_dir: Option<PathBuf>,
    /// Folder to use in place of /run/selvedge.
    pub run_dir: Option<PathBuf>,
    /// File to use in place of /etc/selvedge/config.toml.
    pub config: Option<PathBuf>,
    /// Handed on in the result.
    pub dns: Option<Value>,
}

impl Config {
    /// `paths` with what the network configuration sets.
    #[must_use]
    pub fn paths(&self, paths: Paths) -> Paths {
        Paths {
            config: self.config.clone().unwrap_or(paths.config),
            state: self.state_dir.clone().unwrap_or(paths.state),
            run: self.run_dir.clone().unwrap_or(paths.run),
            ..paths
        }
    }
}

/// What of ADD's answer CHECK compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Previous {
    /// The pod's addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Reads a request. The version is the one to answer in, whatever is wrong with the rest.
pub fn parse(environment: &Environment, input: &[u8]) -> (Version, Result<Request, Error>) {
    let asked = serde_json::from_slice::<OnlyVersion>(input).ok().and_then(|only| only.version);
    let known = asked.as_deref().and_then(Version::parse);
    (known.unwrap_or(Version::CURRENT), request(environment, input, known))
}

fn request(environment: &Environment, input: &[u8], known: Option<Version>) -> Result<Request, Error> {
    if environment.command == "VERSION" {
        return version(input);
    }
    let raw: Raw = serde_json::from_slice(input).map_err(|error| {
        Error::new(Code::Undecodable, "the network configuration on standard input can't be read", error)
    })?;
    let asked = required(raw.cni_version.as_deref(), "cniVersion")?;
    let version = known.ok_or_else(|| incompatible(asked, VERSIONS[0]))?;
    let network = required(raw.name.as_deref(), "name")?;
    attachment::identifier(network)
        .map_err(|error| Error::new(Code::InvalidConfig, "the network's name is not allowed", error))?;
    required(raw.kind.as_deref(), "type")?;
    let verb = verb(environment, version, asked, &raw)?;
    let Raw { name, state_dir, run_dir, config, dns, .. } = raw;
    Ok(Request {
        config: Config { network: name.unwrap_or_default(), state_dir, run_dir, config, dns },
        verb,
    })
}

/// VERSION needs no more than JSON; older runtimes send nothing at all.
fn version(input: &[u8]) -> Result<Request, Error> {
    if !input.trim_ascii().is_empty() {
        serde_json::from_slice::<OnlyVersion>(input)
            .map_err(|error| Error::new(Code::Undecodable, "standard input can't be read", error))?;
    }
    Ok(Request { config: Config::default(), verb: Verb::Version })
}

fn verb(environment: &Environment, version: Version, asked: &str, raw: &Raw) -> Result<Verb, Error> {
    match environment.command.as_str() {
        "ADD" => Ok(Verb::Add {
            attachment: environment.attachment()?,
            netns: environment.netns()?,
            pod: environment.pod_name()?,
            host_ports: host_ports(raw.runtime_config.port_mappings.as_deref().unwrap_or_default())?,
        }),
        "DEL" => Ok(Verb::Del { attachment: environment.attachment()? }),
        "CHECK" => Ok(Verb::Check {
            attachment: environment.attachment()?,
            netns: environment.netns()?,
            previous: previous(raw)?,
        }),
        "GC" | "STATUS" if version < Version::V1_1_0 => Err(incompatible(asked, Version::V1_1_0)),
        "GC" => Ok(Verb::Gc { valid: valid(raw)? }),
        "STATUS" => Ok(Verb::Status),
        other => Err(Error::new(
            Code::InvalidEnvironment,
            "CNI_COMMAND is none of ADD, DEL, CHECK, GC, STATUS and VERSION",
            format!("it is `{}`", other.escape_debug().take(64).collect::<String>()),
        )),
    }
}

fn incompatible(asked: &str, least: Version) -> Error {
    let can: Vec<&str> = VERSIONS.into_iter().filter(|known| *known >= least).map(Version::text).collect();
    let asked: String = asked.escape_debug().take(64).collect();
    Error::new(
        Code::IncompatibleVersion,
        format!("cniVersion `{asked}` can't be served"),
        format!("this takes {}", can.join(", ")),
    )
}

fn required<'a>(value: Option<&'a str>, field: &str) -> Result<&'a str, Error> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| {
        Error::new(Code::InvalidConfig, format!("the network configuration has no `{field}`"), "")
    })
}

fn previous(raw: &Raw) -> Result<Previous, Error> {
    let result = raw.prev_result.as_ref().ok_or_else(|| {
        Error::new(Code::InvalidConfig, "the network configuration has no `prevResult`", "CHECK needs it")
    })?;
    Ok(Previous { addresses: result.ips.iter().map(|ip| ip.address.addr()).collect() })
}

/// A missing list is no empty list: it would free everything.
fn valid(raw: &Raw) -> Result<BTreeSet<Attachment>, Error> {
    let list = raw.valid.as_ref().or(raw.attachments.as_ref()).ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            "the network configuration has no `cni.dev/valid-attachments`",
            "GC needs it",
        )
    })?;
    Ok(list.iter().cloned().collect())
}
