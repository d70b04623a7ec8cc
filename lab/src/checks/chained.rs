//! Plugins that an operator chains behind Selvedge's: they stay in the list, and do what they are for.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::pod::install::CONFLIST;
use serde_json::{Value, json};

use super::workloads::get;
use super::{Failed, Report, Short, check};
use crate::kubernetes::{Kubernetes, PAUSE};
use crate::process;

const FOLDER: &str = "/etc/cni/net.d";

const POD: &str = "limited";
/// `kubernetes.io/ingress-bandwidth`, in bits a second.
const RATE: u64 = 80_000_000;
/// Bytes that pass without a limit at first: containerd asks for a burst of 2^32 - 1 bits.
const BURST: u64 = u32::MAX as u64 / 8;
/// Bytes sent: beside the burst some that take four seconds at that rate.
const BYTES: u64 = 580_000_000;
/// For the agent to repair the list: it looks every 30 s.
const REPAIRED: Duration = Duration::from_secs(90);
/// For a pod to run, and for the runtime to have read the list.
const RUNNING: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Runs these checks and calls `report` when each begins and ends.
pub fn chained(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let Some(node) = cluster.node_names().into_iter().next() else { return };
    let list = List { cluster, node: &node };
    check("chained plugins survive a repair", report, || list.survives());
    check("kubernetes.io/ingress-bandwidth", report, || list.limits());
    check("chained plugins removed", report, || list.restore());
}

/// The list of plugins on a node.
struct List<'a> {
    cluster: &'a Kubernetes,
    node: &'a str,
}

impl List<'_> {
    fn on_node<T: Send>(&self, body: impl FnOnce(&Path) -> std::io::Result<T> + Send) -> Result<T, Failed> {
        let space =
            self.cluster.node_space(self.node).ok_or_else(|| Failed(format!("no node {}", self.node)))?;
        let result = space.run(|| body(&Path::new(FOLDER).join(CONFLIST)))?;
        result.map_err(|error| Failed(format!("{CONFLIST}: {error}")))
    }

    fn read(&self) -> Result<Value, Failed> {
        let text = self.on_node(|path| std::fs::read_to_string(path))?;
        serde_json::from_str(&text).map_err(|error| Failed(format!("{CONFLIST}: {error}")))
    }

    fn write(&self, list: &Value) -> Result<(), Failed> {
        let text = format!("{list:#}\n");
        self.on_node(move |path| std::fs::write(path, text))
    }

    /// An operator appends a plugin, and damages what is the agent's.
    fn survives(&self) -> Result<String, Failed> {
        let before = self.read()?;
        let entry = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let mut wanted = before.clone();
        wanted["plugins"].as_array_mut().ok_or_else(|| Failed("no plugins in the list".into()))?.push(entry);
        let mut damaged = wanted.clone();
        damaged["name"] = json!("damaged");
        self.write(&damaged)?;
        let begun = Instant::now();
        let repaired = || self.read().is_ok_and(|list| list == wanted);
        process::wait_every(LOOK, "the agent to repair the list", REPAIRED, repaired)?;
        Ok(format!("the agent repaired its part after {}, bandwidth stayed", Short(begun.elapsed())))
    }

    fn limits(&self) -> Result<String, Failed> {
        let space =
            self.cluster.node_space(self.node).ok_or_else(|| Failed(format!("no node {}", self.node)))?;
        let from =
            space.net().run(NetNs::current).and_then(|ns| ns).map_err(|error| Failed(error.to_string()))?;
        let (to, address) = self.limited()?;
        let took = transfer(&from, &to, address)?;
        self.cluster.delete_pod(POD)?;
        let least = Duration::from_millis((BYTES - BURST) * 8 * 1000 / RATE) * 3 / 4;
        if took < least {
            return Err(Failed(format!(
                "{BYTES} bytes in {}, which is more than {RATE} bit/s behind the burst",
                Short(took)
            )));
        }
        Ok(format!("{BYTES} bytes in {} at {RATE} bit/s", Short(took)))
    }

    /// A pod with the annotation; its namespace and its first address.
    fn limited(&self) -> Result<(NetNs, IpAddr), Failed> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": POD, "annotations": {"kubernetes.io/ingress-bandwidth": RATE.to_string()}},
            "spec": {
                "nodeName": self.node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": PAUSE, "imagePullPolicy": "Never"}],
            },
        });
        let manifest = self.cluster.folder().join("limited.json");
        std::fs::write(&manifest, pod.to_string()).map_err(|error| Failed(error.to_string()))?;
        self.cluster.kubectl(&["apply", "--filename", &manifest.display().to_string()])?;
        let timeout = format!("--timeout={}s", RUNNING.as_secs());
        self.cluster.kubectl(&["wait", "--for=condition=Ready", &timeout, "pod", POD])?;
        let status = get(self.cluster, &["get", "pod", POD])?;
        let ips = status["status"]["podIPs"].as_array().into_iter().flatten();
        let addresses: Vec<IpAddr> = ips.filter_map(|ip| ip["ip"].as_str()?.parse().ok()).collect();
        let first = *addresses.first().ok_or_else(|| Failed(format!("pod {POD} has no address")))?;
        Ok((self.cluster.pod_namespace(self.node, &addresses)?, first))
    }

    fn restore(&self) -> Result<String, Failed> {
        let mut list = self.read()?;
        let plugins =
            list["plugins"].as_array_mut().ok_or_else(|| Failed("no plugins in the list".into()))?;
        plugins.retain(|entry| entry["type"] != "bandwidth");
        self.write(&list)?;
        Ok("the list is as before".into())
    }
}

/// How long `from` takes to send [`BYTES`] to `address` in `to`, all of them received.
fn transfer(from: &NetNs, to: &NetNs, address: IpAddr) -> Result<Duration, Failed> {
    let namespace = |error: selvedge::kernel::netns::Error| Failed(error.to_string());
    let io = |error: std::io::Error| Failed(format!("send to {address}: {error}"));
    let listener = to.run(|| TcpListener::bind((address, 0))).map_err(namespace)?.map_err(io)?;
    let target = listener.local_addr().map_err(io)?;
    let receiver = std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        std::io::copy(&mut std::io::Read::take(&stream, BYTES), &mut std::io::sink())
    });
    let begun = Instant::now();
    let stream = from.run(|| TcpStream::connect_timeout(&target, RUNNING)).map_err(namespace)?;
    let mut stream = stream.map_err(io)?;
    let block = [7; 40_000];
    for _ in 0..BYTES / 40_000 {
        stream.write_all(&block).map_err(io)?;
    }
    drop(stream);
    let received = receiver.join().map_err(|_| Failed("the receiver panicked".into()))?.map_err(io)?;
    match received {
        BYTES => Ok(begun.elapsed()),
        _ => Err(Failed(format!("{received} of {BYTES} bytes arrived"))),
    }
}
