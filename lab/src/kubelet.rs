//! What kubelets and container runtimes do, as far as the network sees it: Pods of a node are started, reported and
//! ended, and the node is reported ready while its CNI plugin says so.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use selvedge::kernel::netns::NetNs;
use serde_json::{Value, json};

use crate::api::Store;
use crate::api::resource::{NODES, PODS};
use crate::api::{Deletion, Failure, Object};
use crate::detect::Given;
use crate::node::Node;
use crate::sandbox::{Error, PORT, PodSpec, Sandbox};
use crate::traffic::Canary;

const TICK: Duration = Duration::from_millis(10);
/// How often the plugin is asked whether it is ready: while it is not, and once it is.
const ASK: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// Pause before a pod that could not be started is tried again.
const RETRY: Duration = Duration::from_millis(300);

/// Namespace and name.
pub type Key = (String, String);

/// The kubelet of one node.
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    node: Arc<Node>,
    store: Arc<Store>,
    canary: Canary,
    given: Given,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<Key, Running>,
    failed: BTreeMap<Key, (Instant, String)>,
    not_ready: Option<String>,
}

#[derive(Debug)]
struct Running {
    uid: String,
    sandbox: Sandbox,
}

impl Kubelet {
    /// Starts it. It notes the addresses of its pods in `given`.
    #[must_use]
    pub fn start(node: Arc<Node>, store: Arc<Store>, canary: Canary, given: Given) -> Self {
        let state = State { not_ready: Some("not asked yet".into()), ..State::default() };
        let (stop, state) = (AtomicBool::new(false), Mutex::new(state));
        let shared = Arc::new(Shared { node, store, canary, given, stop, state });
        let looping = shared.clone();
        let thread = std::thread::spawn(move || looping.run());
        Self { shared, thread: Some(thread) }
    }

    /// The network namespace and addresses of a pod that runs.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<(Arc<NetNs>, Vec<IpAddr>)> {
        let state = self.shared.state();
        let running = state.running.get(key)?;
        Some((running.sandbox.ns().clone(), running.sandbox.addresses().to_vec()))
    }

    /// Why a pod could not be started the last time.
    #[must_use]
    pub fn failure(&self, key: &Key) -> Option<String> {
        self.shared.state().failed.get(key).map(|(_, why)| why.clone())
    }

    /// Why the node is not ready for pods, if it is not.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        self.shared.state().not_ready.clone()
    }

    /// CNI CHECK of a pod.
    pub fn check(&self, key: &Key) -> Result<(), Error> {
        self.shared.state().running.get(key).map_or(Ok(()), |running| running.sandbox.check())
    }

    /// Forgets all pods without ending them properly, as a node that lost power does. They are started again.
    pub fn forget(&self) {
        let forgotten = std::mem::take(&mut self.shared.state().running);
        drop(forgotten);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let (mut version, mut ask) = (0, Instant::now());
        while !self.stop.load(Ordering::Acquire) {
            if self.node.is_on() {
                if Instant::now() >= ask {
                    self.report_readiness();
                    ask = Instant::now() + ASK[usize::from(self.state().not_ready.is_none())];
                }
                let now = self.store.version();
                if now != version || !self.state().failed.is_empty() || self.has_lost_pods() {
                    version = now;
                    self.sync();
                }
            }
            std::thread::sleep(TICK);
        }
    }

    /// After [`Kubelet::forget`] there are pods to start although the API server has no news.
    fn has_lost_pods(&self) -> bool {
        self.state().running.is_empty() && !self.own_pods().is_empty()
    }

    fn own_pods(&self) -> Vec<Arc<Object>> {
        let (_, mut pods) = self.store.list(&PODS, None);
        pods.retain(|pod| pod["spec"]["nodeName"] == self.node.name());
        pods
    }

    fn sync(&self) {
        let pods = self.own_pods();
        let wanted: BTreeMap<Key, &Arc<Object>> = pods.iter().map(|pod| (key(pod), pod)).collect();
        let gone: Vec<Key> = {
            let state = self.state();
            let here = state.running.iter();
            here.filter(|(key, pod)| wanted.get(*key).is_none_or(|now| now["metadata"]["uid"] != pod.uid))
                .map(|(key, _)| key.clone())
                .collect()
        };
        gone.iter().for_each(|key| self.end(key));
        self.state().failed.retain(|key, _| wanted.contains_key(key));
        for (key, pod) in wanted {
            let leaving = pod["metadata"]["deletionTimestamp"].is_string();
            let here = self.state().running.contains_key(&key);
            match (leaving, here) {
                (true, _) => self.remove(&key, pod),
                (false, false) => self.begin(key, pod),
                (false, true) => {}
            }
        }
    }

    fn begin(&self, key: Key, pod: &Value) {
        let state = self.state();
        let host_network = pod["spec"]["hostNetwork"] == true;
        let too_early = state.failed.get(&key).is_some_and(|(when, _)| when.elapsed() < RETRY);
        if too_early || (state.not_ready.is_some() && !host_network) {
            return;
        }
        drop(state);
        let spec = spec(&key, pod);
        match Sandbox::start(&spec, &self.node, &self.canary) {
            Ok(sandbox) => {
                if !spec.host_network {
                    self.given.add(sandbox.addresses().iter().copied());
                }
                let report = running(pod, sandbox.addresses(), &self.node.addresses());
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                let mut state = self.state();
                state.failed.remove(&key);
                state.running.insert(key.clone(), Running { uid, sandbox });
                drop(state);
                self.write(|store| store.patch(&PODS, &key.0, &key.1, &report));
            }
            Err(error) => {
                tracing::warn!(pod = %key.1, node = self.node.name(), %error, "a pod could not be started");
                self.state().failed.insert(key, (Instant::now(), error.to_string()));
            }
        }
    }

    fn end(&self, key: &Key) {
        let running = self.state().running.remove(key);
        if let Some(Err(error)) = running.map(|running| running.sandbox.stop()) {
            tracing::warn!(pod = %key.1, node = self.node.name(), %error, "a pod was not ended properly");
        }
    }

    fn remove(&self, key: &Key, pod: &Value) {
        self.end(key);
        let uid = pod["metadata"]["uid"].as_str().map(str::to_owned);
        let now = Deletion { uid, ..Deletion::default() };
        if let Err(failure) = self.store.delete(&PODS, &key.0, &key.1, &now) {
            tracing::debug!(%failure, "a pod was gone already");
        }
    }

    fn report_readiness(&self) {
        let asked = self.node.network().and_then(|network| network.status(&self.node.space()));
        let why = asked.err().map(|error| error.to_string());
        let mut state = self.state();
        let changed =
            state.not_ready.is_none() != why.is_none() || state.not_ready.as_deref() == Some("not asked yet");
        state.not_ready.clone_from(&why);
        drop(state);
        if changed {
            let condition =
                condition("Ready", why.is_none(), why.as_deref().unwrap_or("CNI plugin is ready"));
            let report = json!({"status": {"conditions": [condition]}});
            self.write(|store| store.patch_strategic(&NODES, "", self.node.name(), &report));
        }
    }

    fn write<T>(&self, change: impl FnOnce(&Store) -> Result<T, Failure>) {
        if let Err(failure) = change(&self.store) {
            tracing::debug!(%failure, "a report came too late");
        }
    }
}

fn key(pod: &Value) -> Key {
    let field = |name: &str| pod["metadata"][name].as_str().unwrap_or_default().to_owned();
    (field("namespace"), field("name"))
}

/// What of a Pod object matters here. Whatever image a container has: a server of the lab stands in for it, on the
/// ports that it names, else from [`PORT`] on.
fn spec(key: &Key, pod: &Value) -> PodSpec {
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let containers = containers.iter().zip(PORT..).map(|(container, default)| {
        let ports = container["ports"].as_array().into_iter().flatten();
        let ports = ports.filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok());
        let mut ports: Vec<u16> = ports.collect();
        ports.sort_unstable();
        ports.dedup();
        if ports.is_empty() {
            ports.push(default);
        }
        (container["name"].as_str().unwrap_or("container").to_owned(), ports)
    });
    PodSpec {
        namespace: key.0.clone(),
        name: key.1.clone(),
        host_network: pod["spec"]["hostNetwork"] == true,
        containers: containers.collect(),
        port_mappings: port_mappings(pod),
    }
}

/// As containerd hands them to the plugin.
fn port_mappings(pod: &Value) -> Vec<Value> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let mapping = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
        json!({
            "hostPort": port["hostPort"], "containerPort": port["containerPort"], "protocol": protocol,
            "hostIP": port["hostIP"].as_str().unwrap_or_default(),
        })
    };
    ports.filter(|port| port["hostPort"].as_u64().unwrap_or(0) > 0).map(mapping).collect()
}

fn running(pod: &Value, addresses: &[IpAddr], node: &[IpAddr]) -> Value {
    let list = |addresses: &[IpAddr]| addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    let now = Timestamp::now().strftime("%FT%TZ").to_string();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten().map(|container| {
        json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": true,
            "started": true, "restartCount": 0, "state": {"running": {"startedAt": now}},
        })
    });
    let conditions: Vec<_> = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .iter()
        .map(|kind| condition(kind, true, ""))
        .collect();
    json!({"status": {
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": list(addresses),
        "hostIP": node.first(),
        "hostIPs": list(node),
        "startTime": now,
        "conditions": conditions,
        "containerStatuses": containers.collect::<Vec<_>>(),
    }})
}

fn condition(kind: &str, holds: bool, message: &str) -> Value {
    let now = Timestamp::now().strftime("%FT%TZ").to_string();
    let status = if holds { "True" } else { "False" };
    let reason = if holds { "Ready" } else { "NotReady" };
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now, "lastHeartbeatTime": now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_take_their_ports_or_the_next_default() {
        let key = ("default".to_owned(), "a".to_owned());
        let pod = json!({"spec": {"containers": [
            {"name": "one"},
            {"name": "two"},
            {"name": "three", "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"},
                                         {"containerPort": 53, "protocol": "TCP"}]},
        ]}});
        let spec = spec(&key, &pod);
        let ports: Vec<_> = spec.containers.into_iter().map(|(_, ports)| ports).collect();
        assert_eq!(ports, [vec![8080], vec![8081], vec![53, 80]]);
        assert!(!spec.host_network && spec.port_mappings.is_empty());
    }

    #[test]
    fn host_ports_are_handed_to_the_plugin() {
        let pod = json!({"spec": {"containers": [{"ports": [{"containerPort": 80}]}, {"ports": [
            {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1"},
        ]}]}});
        let expected =
            json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"}]);
        assert_eq!(json!(port_mappings(&pod)), expected);
    }
}
