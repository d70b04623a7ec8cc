use super::*;

const GOOD: &str = "clusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\"]\n";

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("config.toml"), text, &Overrides::default())
}

/// The only problem of `text`, as a person sees it.
fn problem(text: &str) -> String {
    let error = load(text).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].to_string()
}

#[test]
fn the_example_in_deploy_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/config.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let config = Config::load(&path, &Overrides::default()).unwrap();
    // Every key that it shows as a comment is valid too, and shows the default where there is one.
    let shown: String =
        text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
    let shown = Config::parse(&path, &shown, &Overrides::default()).unwrap();
    assert_eq!(shown.cni, config.cni);
    assert_eq!(shown.listen_port, config.listen_port);
    assert_eq!(shown.agent.metrics_address, config.agent.metrics_address);
    assert_eq!(shown.interface, config.interface);
    assert_eq!(shown.agent.missing_node_grace, config.agent.missing_node_grace);
    assert_eq!(shown.persistent_keepalive, config.persistent_keepalive);
    assert_eq!(shown.iptables_forward_rules, config.iptables_forward_rules);
    assert_eq!(shown.remove_kube_proxy_rules, config.remove_kube_proxy_rules);
    assert_eq!(KeyPolicy { custodian: String::new(), ..shown.keys }, config.keys);
}

/// `clusterPodCIDRs` in words: cluster, pod, cidrs.
fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (index, letter) in key.replace("CIDRs", "Cidrs").char_indices() {
        if letter.is_uppercase() && index > 0 {
            words.push(String::new());
        }
        words.last_mut().unwrap().extend(letter.to_lowercase());
    }
    words
}

#[test]
fn every_key_of_the_example_is_a_flag_and_a_variable_too() {
    let command = <Overrides as clap::Args>::augment_args(clap::Command::new("x"));
    let given: Vec<(String, String)> = command
        .get_arguments()
        .map(|flag| {
            let (long, env) = (flag.get_long().unwrap(), flag.get_env().unwrap().to_str().unwrap());
            (long.to_owned(), env.to_owned())
        })
        .collect();
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/base/config.toml"));
    let (text, mut table, mut documented) = (text.unwrap(), "", Vec::new());
    for line in text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line)) {
        match (line.split_once(" = "), line.strip_prefix('[')) {
            (Some((key, _)), _) if !line.starts_with('#') => {
                let prefixed = ["cni", "conntrack", "keys"].contains(&table);
                let prefix = if prefixed { vec![table.to_owned()] } else { vec![] };
                let words = [prefix, words(key)].concat();
                documented.push((words.join("-"), format!("SELVEDGE_{}", words.join("_").to_uppercase())));
            }
            (None, Some(name)) => table = name.trim_end_matches(']'),
            _ => {}
        }
    }
    let sorted = |mut list: Vec<_>| {
        list.sort();
        list
    };
    assert_eq!(sorted(given), sorted(documented));
}

#[test]
fn defaults_are_as_documented() {
    let config = load(&format!("nodeName = \"n1\"\n{GOOD}")).unwrap();
    assert_eq!(config.node_name, "n1");
    assert_eq!(config.cluster_pod_cidrs, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(config.interface, "selvedge0");
    assert_eq!((config.listen_port, config.mtu), (51830, None));
    assert_eq!((config.persistent_keepalive, config.firewall_mark), (None, None));
    assert_eq!(config.cni.bin_dir, Path::new("/opt/cni/bin"));
    assert_eq!(config.cni.conf_dir, Path::new("/etc/cni/net.d"));
    assert_eq!(config.agent.metrics_address, "127.0.0.1:51831".parse().unwrap());
    assert_eq!(config.agent.missing_node_grace, 600);
}

#[test]
fn the_grace_of_missing_nodes_is_bounded() {
    let with = |seconds: i64| format!("{GOOD}[agent]\nmissingNodeGrace = {seconds}\n");
    assert_eq!(load(&with(0)).unwrap().agent.missing_node_grace, 0);
    assert_eq!(load(&with(30)).unwrap().agent.missing_node_grace, 30);
    assert_eq!(problem(&with(-1)), "line 4: agent.missingNodeGrace: -1 is out of range; write 0 to 604800");
}

/// As `[keys]` with these lines has it.
fn keys(lines: &str) -> KeyPolicy {
    load(&format!("{GOOD}[keys]\n{lines}\n")).unwrap().keys
}

#[test]
fn a_cryptoperiod_always_exists_and_the_other_defaults_fit_it() {
    let days = |days: u64| std::time::Duration::from_secs(days * 86_400);
    let policy = load(GOOD).unwrap().keys;
    assert_eq!(policy, KeyPolicy::default());
    assert_eq!((policy.cryptoperiod, policy.rotate), (days(90), Rotate::Manual));
    assert_eq!((policy.minimum_interval, policy.warn_before), (days(1), days(14)));
    assert_eq!(policy.custodian, "");
    let short = keys("cryptoperiod = \"1d\"");
    assert_eq!((short.minimum_interval, short.warn_before), (days(1) / 2, days(1) / 4));
    let auto = keys("cryptoperiod = \"200d\"\nrotate = \"auto\"");
    assert_eq!((auto.rotate, auto.warn_before), (Rotate::Auto, days(2)));
    let all = keys(
        "cryptoperiod = \"48h\"\nrotate = \"auto\"\ncustodian = \"Zoë, Ops\"\nminimumInterval = \"2d\"\n\
         warnBefore = \"1h\"",
    );
    let (cryptoperiod, warn_before) = (days(2), days(1) / 24);
    let custodian = "Zoë, Ops".into();
    let minimum_interval = cryptoperiod;
    assert_eq!(
        all,
        KeyPolicy { cryptoperiod, rotate: Rotate::Auto, custodian, minimum_interval, warn_before }
    );
    let json = serde_json::to_value(&all).unwrap();
    assert_eq!(
        (&json["cryptoperiod"], &json["rotate"], &json["warnBefore"]),
        (&"2d".into(), &"auto".into(), &"1h".into())
    );
    assert_eq!(serde_json::from_value::<KeyPolicy>(json).unwrap(), all);
}

#[test]
fn a_key_policy_that_cannot_be_is_named_with_its_line() {
    let wrong = |line: &str| problem(&format!("{GOOD}[keys]\n{line}\n"));
    for (line, expected) in [
        ("cryptoperiod = \"23h\"", "line 4: keys.cryptoperiod: 23h is out of range; write 1d to 365d"),
        ("cryptoperiod = \"366d\"", "line 4: keys.cryptoperiod: 366d is out of range; write 1d to 365d"),
        ("cryptoperiod = \"90\"", "line 4: keys.cryptoperiod: 90s is out of range; write 1d to 365d"),
        ("cryptoperiod = \"3 months\"", "`3 months` is not a duration; write it like 90s, 5m, 1h or 30d"),
        ("cryptoperiod = 90", "line 4: cryptoperiod: invalid type"),
        ("rotate = \"never\"", "`never` is not a way to rotate keys; write \"manual\" or \"auto\""),
        ("custodian = \"a\\nb\"", "line 4: keys.custodian: it cannot be the name of a custodian"),
        ("minimumInterval = \"0s\"", "0s is out of range; write 1s to 90d, the cryptoperiod"),
        (
            "cryptoperiod = \"30d\"\nminimumInterval = \"31d\"",
            "line 5: keys.minimumInterval: 31d is out of range",
        ),
        ("warnBefore = \"91d\"", "keys.warnBefore: 91d is out of range; write 0s to 90d, the cryptoperiod"),
        ("cryptoperiode = \"1d\"", "unknown key; did you mean `cryptoperiod`?"),
    ] {
        let text = wrong(line);
        assert!(text.contains(expected), "{line} gives {text}");
    }
    let long = format!("custodian = \"{}\"", "x".repeat(257));
    assert!(wrong(&long).contains("write at most 256 bytes"), "{}", wrong(&long));
}

#[test]
fn a_boolean_is_off_unless_file_or_flag_say_otherwise() {
    let with = |lines: &str, flag: Option<&str>| {
        let overrides = Overrides { iptables_forward_rules: flag.map(str::to_owned), ..Overrides::default() };
        Config::parse(Path::new("config.toml"), &format!("nodeName = \"n1\"\n{GOOD}{lines}"), &overrides)
    };
    let on = "iptablesForwardRules = true\n";
    for (lines, flag, expected) in [
        ("", None, false),
        (on, None, true),
        (on, Some("false"), false),
        ("", Some("true"), true),
        (on, Some(""), true),
    ] {
        assert_eq!(with(lines, flag).unwrap().iptables_forward_rules, expected, "{lines:?} {flag:?}");
    }
    let error = with("", Some("yes")).unwrap_err().to_string();
    assert!(error.contains("iptablesForwardRules") && error.contains("write true or false"), "{error}");
    assert!(problem(&format!("{GOOD}iptablesForwardRules = 1\n")).contains("invalid type"));
}

#[test]
fn an_endpoint_without_port_gets_the_listen_port() {
    let text =
        format!("listenPort = 4000\nendpoints = [\"192.0.2.1\", \"2001:db8::1\", \"192.0.2.1:5\"]\n{GOOD}");
    let endpoints = load(&text).unwrap().endpoints;
    let expected = ["192.0.2.1:4000", "[2001:db8::1]:4000", "192.0.2.1:5"].map(|text| text.parse().unwrap());
    assert_eq!(endpoints, expected);
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_likely_one() {
    let text = format!("{GOOD}lisenPort = 1\n");
    assert_eq!(problem(&text), "line 3: lisenPort: unknown key; did you mean `listenPort`?");
    let text = format!("{GOOD}clusterPodCidr = []\n");
    assert_eq!(problem(&text), "line 3: clusterPodCidr: unknown key; did you mean `clusterPodCIDRs`?");
    let text = format!("{GOOD}\n[cni]\nbindir = \"/x\"\n");
    assert_eq!(problem(&text), "line 5: bindir: unknown key; did you mean `binDir`?");
    let text = format!("{GOOD}[cni]\nlistenPort = 1\n");
    assert_eq!(problem(&text), "line 4: listenPort: unknown key; write `listenPort` above the first [table]");
    let text = format!("{GOOD}metricsAddress = \"[::]:1\"\n");
    assert_eq!(problem(&text), "line 3: metricsAddress: unknown key; write `metricsAddress` under [agent]");
    let text = format!("{GOOD}[cni]\nzzz = 1\n");
    assert_eq!(problem(&text), "line 4: zzz: unknown key; known here: binDir, confDir");
}

#[test]
fn wrong_types_and_syntax_are_named_with_their_line() {
    let text = problem(&format!("{GOOD}mtu = \"big\"\n"));
    assert!(text.starts_with("line 3: mtu: invalid type"), "{text}");
    let text = problem(&format!("{GOOD}mtu = \n"));
    assert!(text.starts_with("line 3: mtu: "), "{text}");
    let text = problem("mtu = 1500\nmtu = 1400\n");
    assert!(text.starts_with("line 2: mtu: duplicate key"), "{text}");
}

#[test]
fn all_problems_are_found_at_once() {
    let error = load("serviceCIDRs = [\"10.0.0.1/8\", \"x\"]\nmtu = 5\n").unwrap_err();
    assert_eq!(error.problems().len(), 4, "{error}");
    assert!(error.to_string().starts_with("config.toml:\n  "), "{error}");
}

#[test]
fn prefixes_are_checked() {
    let with = |pods: &str, services: &str| {
        problem(&format!("clusterPodCIDRs = [{pods}]\nserviceCIDRs = [{services}]\n"))
    };
    let services = "\"10.96.0.0/12\"";
    for (pods, services, expected) in [
        ("", services, "clusterPodCIDRs: required but not set"),
        ("\"10.244.0.0/16\"", "", "serviceCIDRs: required but not set"),
        ("\"0.0.0.0/0\"", services, "line 1: clusterPodCIDRs: 0.0.0.0/0 is a default route"),
        ("\"::/0\"", services, "line 1: clusterPodCIDRs: ::/0 is a default route"),
        ("\"10.244.1.0/16\"", services, "has host bits set; write 10.244.0.0/16"),
        ("\"10.244.0.0\"", services, "`10.244.0.0` is no prefix; write 10.244.0.0/32"),
        ("\"127.0.0.0/8\"", services, "touches the loopback range"),
        ("\"224.0.0.0/3\"", services, "touches the multicast range"),
        ("\"fe80::/64\"", services, "touches the link-local range"),
        ("\"10.244.0.0/16\",\n\"10.244.0.0/16\"", services, "line 2: clusterPodCIDRs: 10.244.0.0/16 repeats"),
        ("\"10.96.0.0/16\"", services, "10.96.0.0/12 overlaps clusterPodCIDRs 10.96.0.0/16 of line 1"),
    ] {
        let text = with(pods, services);
        assert!(text.contains(expected), "{text}\ndoes not say\n{expected}");
    }
}

#[test]
fn outside_ranges_stay_outside() {
    let text = problem(&format!("{GOOD}trustedSources = [\"10.244.3.0/24\"]\n"));
    assert!(text.contains("overlaps clusterPodCIDRs"), "{text}");
    let text = problem(&format!("{GOOD}nonMasqueradeCIDRs = [\"10.96.0.1/32\"]\n"));
    assert!(text.contains("overlaps serviceCIDRs"), "{text}");
    let text = problem(&format!("{GOOD}trustedSources = [\"::/0\"]\n"));
    assert!(text.contains("default route"), "{text}");
}

#[test]
fn the_other_keys_are_checked() {
    for (line, expected) in [
        ("nodeName = \"Node_1\"", "cannot be a Node's name"),
        ("interface = \"a name too long for it\"", "cannot be a device's name"),
        ("interface = \"selvedge-br\"", "is a name that devices of pods have"),
        ("interface = \"slv0123456789a\"", "is a name that devices of pods have"),
        ("listenPort = 0", "out of range; write 1 to 65535"),
        ("mtu = 70000", "out of range"),
        ("endpoints = [\"127.0.0.1\"]", "in the loopback range"),
        ("endpoints = [\"192.0.2.1:0\"]", "is no ip or ip:port"),
        ("endpoints = [\"example.com\"]", "is no ip or ip:port"),
        ("endpoints = [\"192.0.2.1\", \"192.0.2.1:51830\"]", "is listed twice"),
        ("persistentKeepalive = -1", "out of range"),
        ("location = \"a b\"", "is no location"),
        ("datapath = \"magic\"", "is no datapath"),
        ("firewallMark = 0x100000000", "out of range"),
        ("[cni]\nbinDir = \"bin\"", "is no absolute path"),
        ("[agent]\nmetricsAddress = \"9090\"", "is no ip:port"),
    ] {
        let text = problem(&format!("{GOOD}{line}\n"));
        assert!(text.contains(expected), "{line} gives {text}");
    }
}

#[test]
fn an_ipv6_tunnel_needs_room() {
    let text = "clusterPodCIDRs = [\"fd00:1::/48\"]\nserviceCIDRs = [\"fd00:2::/112\"]\nmtu = 1300\n";
    assert!(problem(text).contains("write 1360 to 65535"));
    assert_eq!(load(&format!("{GOOD}mtu = 1300\n")).unwrap().mtu, Some(1300));
}

#[test]
fn overrides_come_before_the_file_and_empty_ones_do_not_count() {
    let overrides = Overrides {
        cluster_pod_cidrs: Some(vec!["10.1.0.0/16".into()]),
        service_cidrs: Some(vec![String::new()]),
        listen_port: Some("4000".into()),
        firewall_mark: Some("0x10".into()),
        location: Some(String::new()),
        ..Overrides::default()
    };
    let text = format!("listenPort = 1\nlocation = \"here\"\n{GOOD}");
    let config = Config::parse(Path::new("x"), &text, &overrides).unwrap();
    assert_eq!(config.cluster_pod_cidrs, ["10.1.0.0/16".parse().unwrap()]);
    assert_eq!(config.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!((config.listen_port, config.firewall_mark), (4000, Some(16)));
    assert_eq!(config.location.as_deref(), Some("here"));
    let overrides = Overrides { mtu: Some("big".into()), ..Overrides::default() };
    let error = Config::parse(Path::new("x"), GOOD, &overrides).unwrap_err().to_string();
    assert!(error.contains("mtu (from a flag or the environment): `big` is no number"), "{error}");
}

#[test]
fn without_a_file_the_overrides_can_say_it_all() {
    let path = Path::new("/nonexistent/config.toml");
    let error = Config::load(path, &Overrides::default()).unwrap_err().to_string();
    assert!(error.starts_with("there is no /nonexistent/config.toml, and without it:"), "{error}");
    let overrides = Overrides {
        cluster_pod_cidrs: Some(vec!["10.1.0.0/16".into()]),
        service_cidrs: Some(vec!["10.2.0.0/16".into()]),
        node_name: Some("n1".into()),
        ..Overrides::default()
    };
    Config::load(path, &overrides).unwrap();
}

#[test]
fn the_json_form_uses_the_keys_of_the_file() {
    let json = serde_json::to_value(load(GOOD).unwrap()).unwrap();
    assert_eq!(json["clusterPodCIDRs"][0], "10.244.0.0/16");
    assert_eq!(json["agent"]["metricsAddress"], "127.0.0.1:51831");
}

proptest::proptest! {
    #[test]
    fn any_text_gives_a_configuration_or_problems(text in "(\\PC|\n|[a-zA-Z=\\[\\]\"0-9./:]){0,200}") {
        if let Err(error) = load(&text) {
            proptest::prop_assert!(!error.problems().is_empty());
        }
    }
}
