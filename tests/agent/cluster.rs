//! A small cluster, and Node objects that no agent stands behind.

#![expect(clippy::unwrap_used, reason = "in tests a panic is the report")]

use std::time::{Duration, Instant};

use selvedge::agent::status::AgentStatus;
use selvedge::local::Client;
use selvedge::pod::admission::{self, AdmitRequest, Admitted};
use selvedge::tunnel::api::PeerStatus;
use selvedge_keys::{PrivateKey, PublicKey};
use selvedge_lab::api::Deletion;
use selvedge_lab::api::resource::{EVENTS, NODES};
use selvedge_lab::lab::{Lab, Options};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::{Ping, PingReport};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take here before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A lab and the folder with its files.
pub(crate) struct Cluster {
    pub(crate) lab: Lab,
    _folder: TempDir,
}

impl Cluster {
    /// Two real nodes, `node1` and `node2`, of both families.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::pair(folder.path(), env!("CARGO_BIN_EXE_selvedge"));
        let lab = Lab::start(options, &mut |_| {}).unwrap();
        let cluster = Self { lab, _folder: folder };
        cluster.wait_for("node1 and node2 to be peers", |cluster| cluster.has_peer("node2"));
        cluster
    }

    /// What the agent of node `number` (from 0) says.
    pub(crate) fn status(&self, number: usize) -> Option<AgentStatus> {
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(Client::new("/run/selvedge/agent.sock".as_ref()).get("/v1/status")).ok()
        };
        self.lab.nodes()[number].space().run(ask).unwrap()
    }

    /// What the agent of node1 answers to the plugin that asks whether a pod with these addresses may start.
    pub(crate) fn admit(&self, addresses: &[&str]) -> Result<Admitted, String> {
        let request = AdmitRequest {
            container_id: "c".into(),
            interface: "eth0".into(),
            namespace: "default".into(),
            pod: "one".into(),
            uid: None,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let client = Client::new("/run/selvedge/agent.sock".as_ref());
            runtime.block_on(client.post::<_, Admitted>(admission::ROUTE, &request))
        };
        self.lab.nodes()[0].space().run(ask).unwrap().map_err(|error| error.to_string())
    }

    /// Whether the tunnel of node1 has this peer.
    pub(crate) fn has_peer(&self, name: &str) -> bool {
        peer(self, name).is_some()
    }

    /// Why node1 refuses `node`.
    pub(crate) fn refusals(&self, node: &str) -> Vec<String> {
        let refused = self.status(0).map(|status| status.refused).unwrap_or_default();
        refused.into_iter().filter(|refused| refused.node == node).map(|refused| refused.reason).collect()
    }

    /// Whether an Event on Node `node` gives `reason`.
    pub(crate) fn has_event(&self, node: &str, reason: &str) -> bool {
        let (_, events) = self.lab.store().list(&EVENTS, None);
        events.iter().any(|event| {
            let about = [&event["regarding"]["name"], &event["involvedObject"]["name"]];
            event["reason"] == reason && about.iter().any(|name| **name == node)
        })
    }

    /// The metrics of node1's agent.
    pub(crate) fn get(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let ask = || {
            let mut stream = std::net::TcpStream::connect("127.0.0.1:51831").unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        self.lab.nodes()[0].space().run(ask).unwrap()
    }

    /// Waits until `holds`; gives how long that took.
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        if let Err(why) = wait_for(what, PATIENCE, || holds(self)) {
            let logs: String = self.lab.nodes().iter().map(|node| selvedge_lab::lab::logs(node)).collect();
            panic!("{why}; node1 says {:#?}\n{logs}", self.status(0));
        }
        begun.elapsed()
    }

    /// A pod of the first node that pings one of the second every millisecond.
    pub(crate) fn ping(&self) -> Ping {
        let pod = |name, node| self.lab.create_pod(name, node, &[]).unwrap();
        let ((from, _), (_, to)) = (pod("one", "node1"), pod("two", "node2"));
        Ping::start(&from, to[1], Duration::from_millis(1), self.lab.canary()).unwrap()
    }

    /// Fails, with the logs of all nodes, when a ping lost anything.
    pub(crate) fn assert_nothing_lost(&self, report: &PingReport) {
        let logs = || self.lab.nodes().iter().map(|node| selvedge_lab::lab::logs(node)).collect::<String>();
        assert_eq!(report.lost(), 0, "{report:?}\n{}", logs());
    }

    /// Creates a Node object as a joining node's would be.
    pub(crate) fn create(&self, claim: &Claim) {
        self.lab.store().create(&NODES, claim.object()).unwrap();
    }

    /// Changes annotations of a Node object.
    pub(crate) fn annotate(&self, node: &str, annotations: &Value) {
        self.lab.store().patch(&NODES, "", node, &json!({"metadata": {"annotations": annotations}})).unwrap();
    }

    /// Deletes a Node object.
    pub(crate) fn delete(&self, node: &str) {
        self.lab.store().delete(&NODES, "", node, &Deletion::default()).unwrap();
    }
}

/// What a Node claims.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) name: String,
    pub(crate) key: PublicKey,
    pub(crate) epoch: u64,
    pub(crate) pod_cidr: String,
    pub(crate) address: String,
}

impl Claim {
    /// One that nothing speaks against: number `number` of the spare ones.
    pub(crate) fn good(name: &str, number: u8) -> Self {
        Self {
            name: name.to_owned(),
            key: PrivateKey::generate().unwrap().public_key(),
            epoch: 1,
            pod_cidr: format!("10.244.{}.0/24", 100 + number),
            address: format!("172.31.{}.2", 100 + number),
        }
    }

    pub(crate) fn annotations(&self) -> Value {
        json!({
            "selvedge.dev/public-key": self.key.to_string(),
            "selvedge.dev/key-epoch": self.epoch.to_string(),
            "selvedge.dev/endpoints": format!("{}:51830", self.address),
            "selvedge.dev/pod-cidrs": self.pod_cidr,
            "selvedge.dev/node-addresses": self.address,
        })
    }

    fn object(&self) -> Value {
        json!({
            "metadata": {"name": self.name, "annotations": self.annotations()},
            "spec": {"podCIDR": self.pod_cidr, "podCIDRs": [self.pod_cidr]},
            "status": {"addresses": [{"type": "InternalIP", "address": self.address}]},
        })
    }
}

/// A peer as the tunnel of node1 has it.
pub(crate) fn peer(cluster: &Cluster, name: &str) -> Option<PeerStatus> {
    let peers = cluster.status(0)?.tunnel?.peers;
    peers.into_iter().find(|peer| peer.name == name)
}
