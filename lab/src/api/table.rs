//! The tables that `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::field;
use super::resource::Resource;

/// Name and priority: 1 for what only `-o wide` shows.
type Column = (&'static str, u8);

const NODE: &[Column] = &[
    ("Name", 0),
    ("Status", 0),
    ("Roles", 0),
    ("Age", 0),
    ("Version", 0),
    ("Internal-IP", 1),
    ("External-IP", 1),
    ("OS-Image", 1),
    ("Kernel-Version", 1),
    ("Container-Runtime", 1),
];
const POD: &[Column] =
    &[("Name", 0), ("Ready", 0), ("Status", 0), ("Restarts", 0), ("Age", 0), ("IP", 1), ("Node", 1)];
const SERVICE: &[Column] = &[
    ("Name", 0),
    ("Type", 0),
    ("Cluster-IP", 0),
    ("External-IP", 0),
    ("Port(s)", 0),
    ("Age", 0),
    ("Selector", 1),
];
const NAMESPACE: &[Column] = &[("Name", 0), ("Status", 0), ("Age", 0)];
const EVENT: &[Column] = &[
    ("Last Seen", 0),
    ("Type", 0),
    ("Reason", 0),
    ("Object", 0),
    ("Source", 1),
    ("Message", 0),
    ("Name", 1),
];
const SLICE: &[Column] = &[("Name", 0), ("AddressType", 0), ("Ports", 0), ("Endpoints", 0), ("Age", 0)];
const OTHER: &[Column] = &[("Name", 0), ("Age", 0)];

fn layout(resource: &Resource) -> &'static [Column] {
    match resource.plural {
        "nodes" => NODE,
        "pods" => POD,
        "services" => SERVICE,
        "namespaces" => NAMESPACE,
        "events" => EVENT,
        "endpointslices" => SLICE,
        _ => OTHER,
    }
}

pub(super) fn columns(resource: &Resource) -> Vec<Value> {
    let column = |&(name, priority): &Column| {
        let format = if name == "Name" { "name" } else { "" };
        json!({ "name": name, "type": "string", "format": format, "description": "", "priority": priority })
    };
    layout(resource).iter().map(column).collect()
}

pub(super) fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<String> {
    layout(resource).iter().map(|(column, _)| cell(resource, object, column, now)).collect()
}

fn cell(resource: &Resource, object: &Value, column: &str, now: Timestamp) -> String {
    match column {
        "Name" => return field(object, "metadata.name"),
        "Age" => return age(&field(object, "metadata.creationTimestamp"), now),
        _ => {}
    }
    let text = match resource.plural {
        "nodes" => node(object, column),
        "pods" => pod(object, column),
        "services" => service(object, column),
        "namespaces" => field(object, "status.phase"),
        "events" => event(object, column, now),
        "endpointslices" => slice(object, column),
        _ => String::new(),
    };
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn node(node: &Value, column: &str) -> String {
    let info = |name: &str| field(node, &format!("status.nodeInfo.{name}"));
    let known = |text: String| if text.is_empty() { "<unknown>".to_owned() } else { text };
    let address = |kind: &str| {
        let all = items(&node["status"]["addresses"]);
        all.iter()
            .find(|address| address["type"] == kind)
            .map(|found| field(found, "address"))
            .unwrap_or_default()
    };
    match column {
        "Status" => node_status(node),
        "Roles" => roles(node),
        "Version" => info("kubeletVersion"),
        "Internal-IP" => address("InternalIP"),
        "External-IP" => address("ExternalIP"),
        "OS-Image" => known(info("osImage")),
        "Kernel-Version" => known(info("kernelVersion")),
        _ => known(info("containerRuntimeVersion")),
    }
}

fn node_status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|condition| condition["type"] == "Ready");
    let ready = match ready.map(|condition| condition["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    format!("{ready}{cordoned}")
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles = labels.filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"));
    roles.collect::<Vec<_>>().join(",")
}

fn pod(pod: &Value, column: &str) -> String {
    let states = items(&pod["status"]["containerStatuses"]);
    match column {
        "Ready" => {
            let ready = states.iter().filter(|state| state["ready"] == true).count();
            format!("{ready}/{}", items(&pod["spec"]["containers"]).len())
        }
        "Status" => pod_status(pod, states),
        "Restarts" => {
            states.iter().filter_map(|state| state["restartCount"].as_u64()).sum::<u64>().to_string()
        }
        "IP" => field(pod, "status.podIP"),
        _ => field(pod, "spec.nodeName"),
    }
}

fn pod_status(pod: &Value, containers: &[Value]) -> String {
    if !field(pod, "metadata.deletionTimestamp").is_empty() {
        return "Terminating".to_owned();
    }
    let reasons = containers.iter().flat_map(|container| {
        ["waiting", "terminated"].map(|state| field(container, &format!("state.{state}.reason")))
    });
    let own = [field(pod, "status.reason")];
    let reason = reasons.chain(own).find(|reason| !reason.is_empty());
    reason.unwrap_or_else(|| field(pod, "status.phase"))
}

fn service(service: &Value, column: &str) -> String {
    match column {
        "Type" => field(service, "spec.type"),
        "Cluster-IP" => field(service, "spec.clusterIP"),
        "External-IP" => {
            let ingress = items(&service["status"]["loadBalancer"]["ingress"]);
            let given = items(&service["spec"]["externalIPs"]).iter().filter_map(Value::as_str);
            ingress
                .iter()
                .map(|point| field(point, "ip"))
                .chain(given.map(str::to_owned))
                .collect::<Vec<_>>()
                .join(",")
        }
        "Port(s)" => join(&service["spec"]["ports"], |port| {
            let node_port = field(port, "nodePort");
            let node_port = if node_port.is_empty() { node_port } else { format!(":{node_port}") };
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            format!("{}{node_port}/{protocol}", field(port, "port"))
        }),
        _ => {
            let labels = service["spec"]["selector"].as_object().into_iter().flatten();
            let pairs = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(",")
        }
    }
}

fn event(event: &Value, column: &str, now: Timestamp) -> String {
    let first = |paths: &[&str]| {
        paths.iter().map(|path| field(event, path)).find(|text| !text.is_empty()).unwrap_or_default()
    };
    match column {
        "Last Seen" => {
            let times =
                ["series.lastObservedTime", "lastTimestamp", "eventTime", "metadata.creationTimestamp"];
            age(&first(&times), now)
        }
        "Type" => field(event, "type"),
        "Reason" => field(event, "reason"),
        "Object" => {
            let kind = field(event, "involvedObject.kind").to_lowercase();
            format!("{kind}/{}", field(event, "involvedObject.name"))
        }
        "Source" => first(&["source.component", "reportingComponent"]),
        _ => field(event, "message"),
    }
}

fn slice(slice: &Value, column: &str) -> String {
    match column {
        "AddressType" => field(slice, "addressType"),
        "Ports" => join(&slice["ports"], |port| field(port, "port")),
        _ => join(&slice["endpoints"], |endpoint| {
            endpoint["addresses"][0].as_str().unwrap_or_default().to_owned()
        }),
    }
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn join(list: &Value, text: impl Fn(&Value) -> String) -> String {
    items(list).iter().map(text).collect::<Vec<_>>().join(",")
}

/// The time since, in the units that `kubectl` uses.
fn age(since: &str, now: Timestamp) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: char, small: i64, name: char| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{name}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, 'd', hours % 24, 'h'),
        () if days < 730 => format!("{days}d"),
        () => two(days / 365, 'y', days % 365, 'd'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resource::{ENDPOINT_SLICES, NODES, PODS, SERVICES};

    fn row(resource: &Resource, object: &Value) -> Vec<String> {
        cells(resource, object, "2026-01-01T00:00:42Z".parse().unwrap())
    }

    #[test]
    fn rows_say_what_kubectl_users_expect() {
        let meta = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let node = json!({"metadata": meta, "spec": {"unschedulable": true}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        let known = ["x", "Ready,SchedulingDisabled", "<none>", "42s", "v1", "192.0.2.1", "<none>"];
        assert_eq!(row(&NODES, &node)[..7], known);
        let pod = json!({"metadata": meta, "spec": {"nodeName": "n", "containers": [{}]}, "status": {
            "phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"ready": true, "restartCount": 2}]}});
        assert_eq!(row(&PODS, &pod), ["x", "1/1", "Running", "2", "42s", "10.0.0.1", "n"]);
        let service = json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.1.0.1",
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}], "selector": {"a": "b"}}});
        let expected = ["x", "NodePort", "10.1.0.1", "<none>", "80:30080/TCP,53/UDP", "42s", "a=b"];
        assert_eq!(row(&SERVICES, &service), expected);
        let slice = json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
        assert_eq!(row(&ENDPOINT_SLICES, &slice), ["x", "IPv4", "80", "10.0.0.1,10.0.0.2", "42s"]);
    }

    #[test]
    fn ages_shrink_to_what_matters() {
        let at = |since: &str| age(since, "2026-01-10T00:00:00Z".parse().unwrap());
        assert_eq!(at("2026-01-09T23:57:55Z"), "2m5s");
        assert_eq!(at("2026-01-09T23:00:00Z"), "60m");
        assert_eq!(at("2026-01-09T19:30:00Z"), "4h30m");
        assert_eq!(at("2026-01-01T00:00:00Z"), "9d");
        assert_eq!(at(""), "<unknown>");
    }
}
