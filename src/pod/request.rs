//! What a container runtime asks: environment and standard input, checked. Pure; never panics on foreign bytes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attachment::{self, Attachment, PodName};
use super::error::{Code, Error};
use super::mapping::{HostPort, Protocol};
use crate::paths::Paths;

/// The versions of the specification whose requests are taken, oldest first.
pub const VERSIONS: [Version; 3] = [Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Version {
    /// 0.4.0
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// 1.0.0
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// 1.1.0
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// The newest that we speak.
    pub const CURRENT: Self = Self::V1_1_0;

    fn parse(text: &str) -> Option<Self> {
        VERSIONS.into_iter().find(|version| version.text() == text)
    }

    fn text(self) -> &'static str {
        match self {
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

/// The `CNI_*` variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container: Option<String>,
    /// `CNI_NETNS`
    pub netns: Option<String>,
    /// `CNI_IFNAME`
    pub interface: Option<String>,
    /// `CNI_ARGS`
    pub args: Option<String>,
}

impl Environment {
    /// The variables of this process. An empty one counts as missing.
    #[must_use]
    pub fn of_process() -> Self {
        let read = |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let set = |name| read(name).filter(|value| !value.is_empty());
        Self {
            command: read("CNI_COMMAND").unwrap_or_default(),
            container: set("CNI_CONTAINERID"),
            netns: set("CNI_NETNS"),
            interface: set("CNI_IFNAME"),
            args: set("CNI_ARGS"),
        }
    }
}

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    cni_version: Option<String>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    config: Option<PathBuf>,
    dns: Option<Value>,
    #[serde(default)]
    runtime_config: RawRuntime,
    prev_result: Option<RawResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
    /// The name that the specification first had; libcni sends both.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

/// What the runtime adds for our `capabilities` (CNI conventions, "Dynamic plugin specific fields").
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    #[serde(default)]
    port_mappings: Option<Vec<RawPort>>,
}

/// The conventions write the names with a small letter, containerd's go-cni with a capital one; decoders in Go take both.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(default, alias = "Protocol")]
    protocol: String,
    #[serde(rename = "hostIP", default, alias = "HostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct RawResult {
    #[serde(default)]
    ips: Vec<RawIp>,
}

#[derive(Deserialize)]
struct RawIp {
    address: IpNet,
}

#[derive(Deserialize)]
struct OnlyVersion {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
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
            attachment: attachment_of(environment)?,
            netns: netns(environment)?,
            pod: pod_name(environment.args.as_deref().unwrap_or_default())?,
            host_ports: host_ports(raw.runtime_config.port_mappings.as_deref().unwrap_or_default())?,
        }),
        "DEL" => Ok(Verb::Del { attachment: attachment_of(environment)? }),
        "CHECK" => Ok(Verb::Check {
            attachment: attachment_of(environment)?,
            netns: netns(environment)?,
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

fn variable<'a>(value: Option<&'a String>, name: &str) -> Result<&'a str, Error> {
    value
        .map(String::as_str)
        .ok_or_else(|| Error::new(Code::InvalidEnvironment, format!("{name} is not set"), ""))
}

fn attachment_of(environment: &Environment) -> Result<Attachment, Error> {
    let container = variable(environment.container.as_ref(), "CNI_CONTAINERID")?;
    let interface = variable(environment.interface.as_ref(), "CNI_IFNAME")?;
    Ok(Attachment::new(container, interface)?)
}

fn netns(environment: &Environment) -> Result<PathBuf, Error> {
    variable(environment.netns.as_ref(), "CNI_NETNS").map(PathBuf::from)
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

/// Sorted, each once. A packet must not be for two of them that lead to different ports.
fn host_ports(raw: &[RawPort]) -> Result<Vec<HostPort>, Error> {
    let mut ports = raw.iter().map(host_port).collect::<Result<Vec<_>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    let same =
        |one: &HostPort, other: &HostPort| one.keys().any(|key| other.keys().any(|other| key == other));
    for (number, port) in ports.iter().enumerate() {
        if let Some(other) = ports[number + 1..].iter().find(|other| same(port, other)) {
            let (one, two) = (port.container_port, other.container_port);
            return Err(bad_port(format!("{port} is to lead to the pod's port {one} and to its port {two}")));
        }
    }
    Ok(ports)
}

fn host_port(raw: &RawPort) -> Result<HostPort, Error> {
    let host_ip = match raw.host_ip.as_str() {
        "" => None,
        text => {
            let wrong = |_| bad_port(format!("hostIP `{}` is no address", shown(text)));
            Some(text.parse::<IpAddr>().map_err(wrong)?.to_canonical())
        }
    };
    let protocol = Protocol::parse(&raw.protocol).ok_or_else(|| {
        bad_port(format!("protocol `{}` is none of tcp, udp and sctp", shown(&raw.protocol)))
    })?;
    if raw.host_port == 0 || raw.container_port == 0 {
        return Err(bad_port("hostPort and containerPort can't be 0".to_owned()));
    }
    Ok(HostPort { host_ip, host_port: raw.host_port, protocol, container_port: raw.container_port })
}

fn bad_port(reason: String) -> Error {
    Error::new(Code::InvalidConfig, "the runtime's portMappings can't be used", reason)
}

fn shown(text: &str) -> String {
    text.escape_debug().take(64).collect()
}

/// `KEY=value;KEY=value`; keys of others are left alone.
fn pod_name(args: &str) -> Result<PodName, Error> {
    let mut pod = PodName::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::new(Code::InvalidEnvironment, "CNI_ARGS is not KEY=value;KEY=value", ""))?;
        match key {
            "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut pod.name),
            "K8S_POD_UID" => value.clone_into(&mut pod.uid),
            _ => {}
        }
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn environment(command: &str) -> Environment {
        let some = |text: &str| Some(text.to_owned());
        Environment {
            command: command.to_owned(),
            container: some("abc"),
            netns: some("/run/netns/abc"),
            interface: some("eth0"),
            args: some("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=1-2;X=a=b"),
        }
    }

    fn config() -> Value {
        json!({"cniVersion": "1.1.0", "name": "pods", "type": "selvedge"})
    }

    fn with(mut config: Value, key: &str, value: Value) -> Value {
        config[key] = value;
        config
    }

    fn run(command: &str, config: &Value) -> Result<Request, Error> {
        parse(&environment(command), config.to_string().as_bytes()).1
    }

    fn code(command: &str, config: &Value) -> Code {
        run(command, config).unwrap_err().code
    }

    #[test]
    fn add_has_all_it_needs() {
        let config =
            with(with(config(), "runDir", json!("/r")), "dns", json!({"nameservers": ["10.96.0.10"]}));
        let request = run("ADD", &config).unwrap();
        assert_eq!(request.config.network, "pods");
        assert_eq!(request.config.paths(Paths::default()).run, PathBuf::from("/r"));
        assert_eq!(request.config.paths(Paths::default()).state, PathBuf::from("/var/lib/selvedge"));
        let Verb::Add { attachment, netns, pod, host_ports } = request.verb else { panic!("{request:?}") };
        assert_eq!(host_ports, []);
        assert_eq!(attachment, Attachment::new("abc", "eth0").unwrap());
        assert_eq!(netns, PathBuf::from("/run/netns/abc"));
        assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("ns", "web", "1-2"));
    }

    fn ports(mappings: &Value) -> Result<Vec<HostPort>, Error> {
        let Verb::Add { host_ports, .. } =
            run("ADD", &with(config(), "runtimeConfig", json!({"portMappings": mappings})))?.verb
        else {
            panic!()
        };
        Ok(host_ports)
    }

    #[test]
    fn host_ports_as_runtimes_write_them() {
        let one =
            json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::ffff:192.0.2.1"});
        let two = json!({"HostPort": 53, "ContainerPort": 53, "Protocol": "UDP", "HostIP": ""});
        let found = ports(&json!([one, two, one])).unwrap();
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["UDP port 53 of the node", "TCP 192.0.2.1:8080"]);
        assert_eq!(ports(&Value::Null).unwrap(), []);
        let everywhere = json!({"hostPort": 8080, "containerPort": 81, "protocol": "tcp", "hostIP": ""});
        assert_eq!(ports(&json!([one, everywhere])).unwrap().len(), 2, "the more special one wins");
    }

    #[test]
    fn host_ports_that_make_no_sense() {
        let two = json!([{"hostPort": 1, "containerPort": 2}, {"hostPort": 1, "containerPort": 3}]);
        for (mappings, words) in [
            (json!([{"hostPort": 0, "containerPort": 80}]), "can't be 0"),
            (json!([{"hostPort": 80, "containerPort": 0}]), "can't be 0"),
            (json!([{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]), "`icmp`"),
            (json!([{"hostPort": 80, "containerPort": 80, "hostIP": "here"}]), "`here`"),
            (two, "port 2 and to its port 3"),
        ] {
            let error = ports(&mappings).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.details.contains(words), "{error}");
        }
        assert_eq!(
            ports(&json!([{"hostPort": 70000, "containerPort": 1}])).unwrap_err().code,
            Code::Undecodable
        );
    }

    #[test]
    fn versions() {
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            assert!(run("ADD", &with(config(), "cniVersion", json!(version))).is_ok(), "{version}");
        }
        for version in ["0.3.1", "1.2.0", "x", "1.1.0 "] {
            let error = run("ADD", &with(config(), "cniVersion", json!(version))).unwrap_err();
            assert_eq!(error.code, Code::IncompatibleVersion, "{version}");
            assert!(error.details.contains("0.4.0, 1.0.0, 1.1.0"), "{error}");
        }
        for (version, fits) in [("0.4.0", false), ("1.0.0", false), ("1.1.0", true)] {
            let config = with(config(), "cniVersion", json!(version));
            assert_eq!(run("STATUS", &config).is_ok(), fits);
            assert_eq!(run("GC", &with(config, "cni.dev/valid-attachments", json!([]))).is_ok(), fits);
        }
        let (version, result) = parse(&environment("ADD"), br#"{"cniVersion": "0.4.0"}"#);
        assert_eq!((version, result.unwrap_err().code), (Version::V0_4_0, Code::InvalidConfig));
    }

    #[test]
    fn what_is_missing_is_named() {
        for field in ["cniVersion", "name", "type"] {
            let mut config = config();
            config.as_object_mut().unwrap().remove(field);
            let error = run("ADD", &config).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfig);
            assert!(error.msg.contains(field), "{error}");
        }
        assert_eq!(code("CHECK", &config()), Code::InvalidConfig);
        assert_eq!(code("GC", &config()), Code::InvalidConfig);
        let input = config().to_string();
        let parsed = |change: fn(&mut Environment)| {
            let mut environment = environment("ADD");
            change(&mut environment);
            parse(&environment, input.as_bytes()).1.unwrap_err()
        };
        for (name, error) in [
            ("CNI_CONTAINERID", parsed(|e| e.container = None)),
            ("CNI_IFNAME", parsed(|e| e.interface = None)),
            ("CNI_NETNS", parsed(|e| e.netns = None)),
            ("CNI_COMMAND", parsed(|e| e.command = "FROB".to_owned())),
            ("CNI_ARGS", parsed(|e| e.args = Some("x".to_owned()))),
            ("a name", parsed(|e| e.container = Some("../x".to_owned()))),
        ] {
            assert_eq!(error.code, Code::InvalidEnvironment, "{name}");
            assert!(error.msg.contains(name), "{error}");
        }
    }

    #[test]
    fn del_needs_no_namespace_and_version_needs_nothing() {
        let mut del = environment("DEL");
        del.netns = None;
        assert!(parse(&del, config().to_string().as_bytes()).1.is_ok());
        let version = Environment { command: "VERSION".to_owned(), ..Environment::default() };
        assert!(parse(&version, b"").1.is_ok());
        assert!(parse(&version, br#"{"cniVersion": "9.9.9"}"#).1.is_ok());
        assert_eq!(parse(&version, b"{").1.unwrap_err().code, Code::Undecodable);
    }

    #[test]
    fn values_of_other_types_are_undecodable() {
        for (key, value) in [
            ("name", json!(1)),
            ("stateDir", json!([])),
            ("prevResult", json!({"ips": [{"address": "10.1"}]})),
            ("cni.dev/valid-attachments", json!([{"containerID": 1}])),
        ] {
            assert_eq!(code("CHECK", &with(config(), key, value)), Code::Undecodable, "{key}");
        }
        assert_eq!(parse(&environment("ADD"), b"\xff\xfe").1.unwrap_err().code, Code::Undecodable);
    }

    #[test]
    fn gc_knows_both_names_of_its_list() {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let list = json!([{"containerID": "abc", "ifname": "eth0"}]);
            let Verb::Gc { valid } = run("GC", &with(config(), key, list)).unwrap().verb else { panic!() };
            assert!(valid.contains(&Attachment::new("abc", "eth0").unwrap()));
        }
        let both =
            with(with(config(), "cni.dev/valid-attachments", json!([])), "cni.dev/attachments", json!([]));
        assert!(run("GC", &both).is_ok(), "libcni sends both");
    }

    /// The inputs of the fuzz target: five lines of environment, then standard input.
    #[test]
    fn the_fuzzing_corpus_holds() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/cni");
        let mut taken = std::collections::BTreeMap::new();
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let mut parts = bytes.splitn(6, |byte| *byte == b'\n');
            let mut line = || parts.next().map(|line| String::from_utf8_lossy(line).into_owned());
            let command = line().unwrap_or_default();
            let environment =
                Environment { command, container: line(), netns: line(), interface: line(), args: line() };
            let (_, request) = parse(&environment, parts.next().unwrap_or_default());
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            taken.insert(name, request.map_err(|error| error.code));
        }
        for name in [
            "add",
            "add-old",
            "add-host-ports",
            "del",
            "check",
            "gc",
            "gc-both-lists",
            "status",
            "version",
            "version-empty",
        ] {
            assert!(taken[name].is_ok(), "{name}: {:?}", taken[name]);
        }
        assert_eq!(taken["unknown-version"], Err(Code::IncompatibleVersion));
        assert_eq!(taken["no-name"], Err(Code::InvalidConfig));
        assert_eq!(taken["traversal"], Err(Code::InvalidEnvironment));
        assert_eq!(taken["odd-args"], Err(Code::InvalidEnvironment));
        for name in ["wrong-types", "not-utf8", "deep", "half"] {
            assert_eq!(taken[name], Err(Code::Undecodable), "{name}");
        }
    }

    /// JSON that is near enough to a network configuration to get deep into the parser.
    fn near() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof![Just("1.1.0"), Just("0.4.0"), Just("10.1.2.3/24"), Just("pods"), Just("")]
                .prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        let keys = prop_oneof![
            Just("cniVersion"),
            Just("name"),
            Just("type"),
            Just("prevResult"),
            Just("ips"),
            Just("address"),
            Just("cni.dev/valid-attachments"),
            Just("cni.dev/attachments"),
            Just("containerID"),
            Just("ifname"),
            Just("dns"),
            Just("runDir"),
            Just("runtimeConfig"),
            Just("portMappings"),
            Just("hostPort"),
            Just("containerPort"),
            Just("protocol"),
            Just("hostIP"),
        ];
        leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..8).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(command in "ADD|DEL|CHECK|GC|STATUS|VERSION|.{0,8}", container in ".{0,9}",
                        interface in ".{0,20}", args in ".{0,40}", bytes in any::<Vec<u8>>(), json in near()) {
            let environment = Environment {
                command, container: Some(container), netns: None, interface: Some(interface), args: Some(args),
            };
            let _ = parse(&environment, &bytes);
            let _ = parse(&environment, json.to_string().as_bytes());
        }

        #[test]
        fn what_is_taken_has_safe_names(container in ".{1,20}", interface in ".{1,20}") {
            let environment = Environment {
                container: Some(container), interface: Some(interface), ..environment("ADD")
            };
            let text = config().to_string();
            if let Ok(Request { verb: Verb::Add { attachment, .. }, .. }) = parse(&environment, text.as_bytes()).1 {
                prop_assert!(!attachment.interface.contains('/') && attachment.interface.len() <= 15);
                prop_assert!(attachment.container.is_ascii() && !attachment.container.starts_with('.'));
            }
        }
    }
}
