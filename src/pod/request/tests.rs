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
    let config = with(with(config(), "runDir", json!("/r")), "dns", json!({"nameservers": ["10.96.0.10"]}));
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
    let one = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::ffff:192.0.2.1"});
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
    assert_eq!(ports(&json!([{"hostPort": 70000, "containerPort": 1}])).unwrap_err().code, Code::Undecodable);
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
    let both = with(with(config(), "cni.dev/valid-attachments", json!([])), "cni.dev/attachments", json!([]));
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
