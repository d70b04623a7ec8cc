//! What is rendered, beside what the files of `deploy/` say.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::ClusterRanges;

fn settings(distribution: Distribution, text: &str) -> Settings {
    Settings {
        distribution,
        text: text.to_owned(),
        config: configuration::parse(Path::new("config.toml"), text).unwrap(),
        image: default_image(),
        api_server: None,
    }
}

const KUBEADM: &str = include_str!("../../deploy/overlays/kubeadm/config.toml");
const K3S: &str = include_str!("../../deploy/overlays/k3s/config.toml");

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| {
        let id = object.id();
        id.kind == kind
            && (id.name == name || id.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-')))
    });
    &found.unwrap_or_else(|| panic!("no {kind} {name}")).0
}

/// Every text below a value.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn with_nothing_special_the_objects_are_those_of_the_base() {
    let mut objects = settings(Distribution::Kubeadm, KUBEADM).objects();
    let config = find(&objects, "ConfigMap", "selvedge-config").clone();
    assert_eq!(config["data"]["config.toml"], KUBEADM);
    objects.retain(|object| object.0["kind"] != "ConfigMap");
    let mut base = base::objects();
    for object in &mut base {
        if object.is("DaemonSet", AGENT) {
            object.pod()["volumes"][0]["configMap"]["name"] = config["metadata"]["name"].clone();
        }
    }
    assert_eq!(objects, base);
}

#[test]
fn the_namespace_is_first_and_the_daemon_sets_are_last() {
    let mut settings = settings(Distribution::Managed, KUBEADM);
    settings.api_server = Some("192.0.2.10:6443".parse().unwrap());
    let objects = settings.objects();
    let kinds: Vec<_> = objects.iter().map(|object| object.id().kind).collect();
    assert_eq!(kinds[0], "Namespace");
    let tail = ["ResourceQuota", "ConfigMap", "ConfigMap", "DaemonSet", "DaemonSet"];
    assert_eq!(kinds[kinds.len() - tail.len()..], tail);
}

#[test]
fn the_name_of_the_configuration_is_the_one_that_kustomize_gives_it() {
    // kubectl kustomize, with a ConfigMap of this content.
    let data = json!({"config.toml": "a = \"<&>\"\n", "other": "ü\t\u{2028}"});
    assert_eq!(hash::named("selvedge-config", &data), "selvedge-config-4799478bfb");
}

#[test]
fn k3s_has_folders_of_its_own_on_both_sides_of_each_mount() {
    let objects = settings(Distribution::K3s, K3S).objects();
    let agent = find(&objects, "DaemonSet", AGENT);
    let spec = &agent["spec"]["template"]["spec"];
    let named = |list: &Value, name: &str| {
        list.as_array().unwrap().iter().find(|item| item["name"] == name).cloned().unwrap()
    };
    for (name, path) in [
        ("cni-bin", "/var/lib/rancher/k3s/data/cni"),
        ("cni-conf", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    ] {
        assert_eq!(named(&spec["volumes"], name)["hostPath"]["path"], path);
        assert_eq!(named(&spec["containers"][0]["volumeMounts"], name)["mountPath"], path);
    }
}

#[test]
fn what_the_configuration_says_otherwise_is_said_everywhere() {
    let text = format!(
        "{KUBEADM}interface = \"mesh0\"\n[agent]\nmetricsAddress = \"[::]:9000\"\nstartupTaint = \"example.com/wait\"\n"
    );
    let objects = settings(Distribution::Kubeadm, &text).objects();
    let tunnel = find(&objects, "DaemonSet", TUNNEL);
    let containers = tunnel["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let named = |name: &str| containers.iter().find(|container| container["name"] == name).unwrap();
    assert_eq!((&named("tunnel")["args"][1], &named("ports")["args"]), (&json!("mesh0"), &json!(["ports"])));
    let agent = find(&objects, "DaemonSet", AGENT);
    for probe in ["livenessProbe", "readinessProbe"] {
        let asked = &agent["spec"]["template"]["spec"]["containers"][0][probe]["httpGet"];
        assert_eq!((&asked["host"], &asked["port"]), (&json!("127.0.0.1"), &json!(9000)));
    }
    let policy = find(&objects, "ValidatingAdmissionPolicy", "selvedge-nodes");
    let with =
        |key: &str| texts(&policy["spec"]["validations"]).iter().filter(|text| text.contains(key)).count();
    assert_eq!((with("selvedge.dev/not-ready'"), with("'example.com/wait'")), (0, 1));
}

#[test]
fn without_kube_proxy_the_agent_is_told_where_the_api_server_is() {
    let mut settings = settings(Distribution::Kubeadm, KUBEADM);
    settings.api_server = Some("[2001:db8::10]:6443".parse().unwrap());
    let objects = settings.objects();
    let map = find(&objects, "ConfigMap", "selvedge-api-server");
    assert_eq!(
        map["data"],
        json!({"KUBERNETES_SERVICE_HOST": "2001:db8::10", "KUBERNETES_SERVICE_PORT": "6443"})
    );
    let agent = find(&objects, "DaemonSet", AGENT);
    let from = &agent["spec"]["template"]["spec"]["containers"][0]["envFrom"];
    assert_eq!(*from, json!([{"configMapRef": {"name": map["metadata"]["name"]}}]));
    for wrong in ["192.0.2.10", "192.0.2.10:0", ":6443", "a b:1", "https://x:1"] {
        assert!(wrong.parse::<ApiServer>().is_err(), "{wrong}");
    }
}

#[test]
fn the_written_configuration_is_valid_and_says_the_folders() {
    let ranges = ClusterRanges {
        pods: vec!["10.42.0.0/16".parse().unwrap(), "2001:db8:42::/56".parse().unwrap()],
        services: vec!["10.43.0.0/16".parse().unwrap()],
    };
    for distribution in [Distribution::Kubeadm, Distribution::K3s, Distribution::Kind, Distribution::Managed]
    {
        let text = configuration::text(&ranges, distribution);
        let config = configuration::parse(Path::new("x"), &text).unwrap();
        assert_eq!(config.ranges(), ranges);
        assert_eq!(distribution.folders().unwrap_or_else(|| config.cni.clone()), config.cni);
    }
}

#[test]
fn yaml_says_the_same_as_the_objects() {
    let objects = settings(Distribution::Managed, KUBEADM).objects();
    let text = yaml(&objects);
    let read: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(read.into_iter().map(Object).collect::<Vec<_>>(), objects, "{text}");
}

#[test]
fn what_outlives_the_namespace_goes_policy_first() {
    let mut kinds: Vec<_> = outside_of_the_namespace().into_iter().map(|id| id.kind).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "ValidatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
            "ClusterRoleBinding",
            "RoleBinding",
            "CustomResourceDefinition",
            "ClusterRole",
            "Role"
        ]
    );
}

#[test]
fn the_cleanup_runs_as_little_as_it_can_where_the_agent_ran() {
    let objects = settings(Distribution::K3s, K3S).objects();
    let agent = find(&objects, "DaemonSet", AGENT);
    let cleanup = cleanup::daemon_set(agent, false, None, true).unwrap();
    let pod = &cleanup.0["spec"]["template"]["spec"];
    let (work, rest) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(work["args"], json!(["uninstall", "--node", "--yes"]));
    assert_eq!(work["securityContext"]["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    assert_eq!(rest["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&pod["volumes"]), ["config", "cni-bin", "cni-conf", "run"]);
    assert_eq!(names(&work["volumeMounts"]), names(&pod["volumes"]));
    assert_eq!(work["volumeMounts"][1]["mountPath"], "/var/lib/rancher/k3s/data/cni");
    assert_eq!(rest.get("volumeMounts"), None);
    assert_eq!(pod["nodeSelector"][cleanup::HELD], "true");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert!(!texts(&cleanup.0).contains(&"/var/lib"));

    let purge = cleanup::daemon_set(agent, true, Some("registry.example/selvedge:9"), true).unwrap();
    assert!(texts(&purge.0).contains(&"--purge") && texts(&purge.0).contains(&"/var/lib"));
    let image = |list: &str| purge.0["spec"]["template"]["spec"][list][0]["image"].clone();
    assert_eq!([image("containers"), image("initContainers")], ["registry.example/selvedge:9"; 2]);
    assert_eq!(cleanup::daemon_set(&json!({"kind": "ConfigMap"}), false, None, true), None);
}

#[test]
fn a_cleanup_can_be_made_of_itself_with_other_options() {
    let mut agent = find(&settings(Distribution::K3s, K3S).objects(), "DaemonSet", AGENT).clone();
    agent["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {}});
    let image = Some("registry.example/selvedge:9");
    let make =
        |source: &Value, purge, image, held| cleanup::daemon_set(source, purge, image, held).unwrap().0;
    let first = make(&agent, false, None, true);
    assert_eq!(first["spec"]["template"]["spec"]["affinity"], json!({"nodeAffinity": {}}));
    assert_eq!(make(&first, false, None, true), first);
    let purging = make(&first, true, image, false);
    assert_eq!(purging, make(&agent, true, image, false));
    assert_eq!(make(&purging, true, None, false), purging);
    assert_eq!(make(&purging, false, None, true), make(&agent, false, image, true));
    assert!(cleanup::purges(&purging) && !cleanup::purges(&first) && !cleanup::purges(&agent));
}
