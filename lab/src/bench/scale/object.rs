//! A Node object as large as a real one: with what kubelet, controller manager and agent write into it.

use serde_json::{Map, Value, json};

use super::managed;
use super::member::Member;

/// Images that a kubelet reports by default (`nodeStatusMaxImages`).
const IMAGES: usize = 50;
/// Type, status, reason and message of the conditions that a kubelet reports.
const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];
/// Time of the first write of every Node.
pub(super) const EPOCH: &str = "2026-01-05T08:00:00Z";

/// The Node object of a member.
pub(super) fn node(member: &Member) -> Value {
    let mut annotations: Map<String, Value> =
        member.annotations.iter().map(|(name, text)| (name.clone(), text.clone().into())).collect();
    annotations.extend(foreign_annotations(&member.name));
    let managed_fields = managed::fields(member.annotations.keys(), EPOCH);
    json!({
        "metadata": {
            "name": member.name, "labels": labels(&member.name), "annotations": annotations,
            "managedFields": managed_fields,
        },
        "spec": {
            "podCIDR": member.pod_cidrs.first(), "podCIDRs": member.pod_cidrs,
            "providerID": format!("example:///zone-b/{}", member.name),
        },
        "status": status(member),
    })
}

/// The Node after a heartbeat of its kubelet: the conditions' heartbeat times, and the time of that write in
/// `managedFields`, as the API server records it.
pub(super) fn beat(node: &Value, at: &str) -> Value {
    let mut node = node.clone();
    let conditions = node["status"]["conditions"].as_array_mut().into_iter().flatten();
    for condition in conditions.filter(|condition| CONDITIONS.iter().any(|own| condition["type"] == own.0)) {
        condition["lastHeartbeatTime"] = at.into();
    }
    let managers = node["metadata"]["managedFields"].as_array_mut().into_iter().flatten();
    for entry in managers.filter(|entry| entry["manager"] == "kubelet" && entry["subresource"] == "status") {
        entry["time"] = at.into();
    }
    node
}

fn labels(name: &str) -> Value {
    json!({
        "beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "kubernetes.io/hostname": name,
        "beta.kubernetes.io/instance-type": "general-8x32",
        "node.kubernetes.io/instance-type": "general-8x32",
        "failure-domain.beta.kubernetes.io/region": "region-1", "topology.kubernetes.io/region": "region-1",
        "failure-domain.beta.kubernetes.io/zone": "region-1b", "topology.kubernetes.io/zone": "region-1b",
        "example.com/pool": "workers", "example.com/image": "2026-01-a",
    })
}

fn foreign_annotations(name: &str) -> [(String, Value); 4] {
    [
        (
            "csi.volume.kubernetes.io/nodeid",
            json!({"block.csi.example.com": name, "file.csi.example.com": name}),
        ),
        ("kubeadm.alpha.kubernetes.io/cri-socket", "unix:///run/containerd/containerd.sock".into()),
        ("node.alpha.kubernetes.io/ttl", "300".into()),
        ("volumes.kubernetes.io/controller-managed-attach-detach", "true".into()),
    ]
    .map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (key.to_owned(), text.into())
    })
}

fn status(member: &Member) -> Value {
    let internal = member.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    let addresses: Vec<Value> =
        internal.chain([json!({"type": "Hostname", "address": member.name})]).collect();
    let amounts = |memory: &str, cpu: &str| {
        json!({
            "cpu": cpu, "memory": memory, "ephemeral-storage": "101430960Ki", "hugepages-1Gi": "0",
            "hugepages-2Mi": "0", "pods": "110",
        })
    };
    json!({
        "addresses": addresses,
        "allocatable": amounts("31612652Ki", "7910m"),
        "capacity": amounts("32636652Ki", "8"),
        "conditions": conditions(),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "images": (0..IMAGES).map(image).collect::<Vec<_>>(),
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "kernelVersion": "6.12.9-amd64",
            "osImage": "Debian GNU/Linux 13 (trixie)", "containerRuntimeVersion": "containerd://2.1.4",
            "kubeletVersion": "v1.34.2", "kubeProxyVersion": "",
            "bootID": uuid(&member.name, 1), "machineID": uuid(&member.name, 2).replace('-', ""),
            "systemUUID": uuid(&member.name, 3),
        },
        "runtimeHandlers": [{"name": "", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": true}}],
    })
}

fn conditions() -> Vec<Value> {
    let own = CONDITIONS.iter().map(|(kind, status, reason, message)| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": EPOCH, "lastTransitionTime": EPOCH,
        })
    });
    own.collect()
}

fn image(number: usize) -> Value {
    let name = format!("registry.example.com/team-{}/service-{number:02}", number % 7);
    let digest = format!("{number:02x}c8e51d3a").repeat(7);
    json!({
        "names": [format!("{name}@sha256:{}", &digest[..64]), format!("{name}:v1.{number}.0")],
        "sizeBytes": 31_457_280 + number * 1_048_583,
    })
}

/// A text in the form of a UUID, derived from the name (FNV-1a).
fn uuid(name: &str, salt: u64) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325_u64 ^ salt;
    let mut next = || {
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        state
    };
    let hex = format!("{:016x}{:016x}", next(), next());
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_as_large_as_a_real_one() {
        let node = node(&Member::new(4_999));
        let length = node.to_string().len();
        assert!((13 << 10..18 << 10).contains(&length), "{length}");
        let metadata = node["metadata"].to_string().len();
        assert!((3 << 10..6 << 10).contains(&metadata), "{metadata}");
    }

    #[test]
    fn a_heartbeat_changes_times_alone() {
        let before = node(&Member::new(1));
        let after = beat(&before, "2026-01-05T08:05:00Z");
        assert_ne!(before, after);
        assert_eq!(beat(&after, EPOCH), before);
        let text = after.to_string();
        assert_eq!(text.matches("2026-01-05T08:05:00Z").count(), CONDITIONS.len() + 1);
    }
}
