//! One node with the real processes, and the API server that its agent works with. Unlike in a whole lab, the traffic
//! between them is not captured: that would cost as much as the agent itself.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use selvedge::paths::Paths;

use super::member::Member;
use super::object;
use super::{Options, Served};
use crate::api::resource::NODES;
use crate::api::{self, Server as ApiServer, Store, User};
use crate::error::{Doing as _, Error};
use crate::node::{Node, Parts, TUNNEL_DEVICE};
use crate::plan::{API_PORT, Families, Plan};
use crate::process;
use crate::underlay::Underlay;

/// Port of the agent's `/readyz` on the node's loopback.
const HEALTH_PORT: u16 = 51831;
/// Pause between two requests of `/readyz`: the resolution of the time to ready.
const LOOK: Duration = Duration::from_millis(20);
/// Limit for the start of the process, and for one answer of `/readyz`.
const ANSWER: Duration = Duration::from_secs(5);
const TUNNEL: Duration = Duration::from_secs(20);

/// The node and its API server.
pub(super) struct Stage {
    // In the order in which they have to end.
    pub(super) node: Node,
    api: ApiServer,
    _underlay: Underlay,
    pub(super) runtime: tokio::runtime::Runtime,
    agent: String,
}

impl Stage {
    /// Stores the Node objects of all members and of the node itself. Tunnel and agent do not run yet.
    pub(super) fn build(options: &Options, members: &[Member]) -> Result<Self, Error> {
        let what = "build the node and its API server";
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.doing("start a runtime")?;
        let plan = Plan { large: true, ..Plan::new(Families::Dual, 1) };
        let node = plan.node_plans().remove(0);
        let agent = User::agent(&node.name);
        let (underlay, api, node) = runtime.block_on(async {
            let underlay = Underlay::create().await.doing(what)?;
            for cable in [&plan.control(), &node.cable] {
                underlay.lay(cable).await.doing(what)?;
            }
            underlay.plug(&plan.control(), &NetNs::current().doing(what)?).await.doing(what)?;
            let api = serve(&plan).doing(what)?;
            for member in members.iter().chain([&Member::of(&node)]) {
                api.store().create(&NODES, object::node(member)).doing(what)?;
            }
            api.store().make_texts(&NODES);
            api.add_user(agent.clone());
            let kubeconfig = api.kubeconfig(&agent.name, &format!("https://{}", plan.api()));
            let (binary, folder) = (options.selvedge.as_path(), options.folder.as_path());
            let parts = Parts { binary, folder, kubeconfig: &kubeconfig, plan };
            let node = Node::prepare(node, &parts, &underlay).await.doing(what)?;
            Ok::<_, Error>((underlay, api, node))
        })?;
        Ok(Self { node, api, _underlay: underlay, runtime, agent: agent.name })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.api.store()
    }

    /// The node's `/run/selvedge` as this process sees it while the tunnel runs.
    pub(super) fn paths(&self) -> Paths {
        let pid = self.node.tunnel.pid().map_or(0, nix::unistd::Pid::as_raw);
        Paths::default().below(&PathBuf::from(format!("/proc/{pid}/root")))
    }

    /// Starts the tunnel and waits for its control socket.
    pub(super) fn start_tunnel(&self) -> Result<(), Error> {
        self.node.tunnel.resume();
        let there = || self.paths().tunnel_socket(TUNNEL_DEVICE).exists();
        process::wait_for("the tunnel's socket", TUNNEL, there)
            .map_err(|why| Error::new("start the tunnel", format!("{why}\n{}", self.tail_of_tunnel())))
    }

    /// Starts the agent and waits until `/readyz` answers 200. Returns how long that took, or what `/readyz` named as
    /// missing when `limit` passed.
    pub(super) fn start_agent(&self, limit: Duration) -> Result<Result<Duration, String>, Error> {
        let what = "wait for the agent to be ready";
        self.node.agent.resume();
        // The supervisor pauses before it restarts a process that has just ended.
        let runs = || self.node.agent.pid().is_some();
        process::wait_for("its process", ANSWER, runs).map_err(|why| Error::new(what, why))?;
        let begun = Instant::now();
        let space = self.node.space();
        let waited = space.net().run(|| {
            let mut last = "it has not answered".to_owned();
            let ready = || match readiness() {
                Ok((200, _)) => true,
                Ok((_, problems)) => {
                    last = problems;
                    false
                }
                Err(_) => false,
            };
            let waited = process::wait_every(LOOK, "/readyz to be 200", limit, ready);
            waited.map(|()| begun.elapsed()).map_err(|_| last)
        });
        waited.doing(what)
    }

    /// What the API server has served to the agent since its start, by verb and kind.
    pub(super) fn served(&self) -> BTreeMap<String, Served> {
        let mut all: BTreeMap<String, Served> = BTreeMap::new();
        for (counted, count) in self.api.counts() {
            if counted.user != self.agent {
                continue;
            }
            let kind = if counted.subresource.is_empty() {
                String::new()
            } else {
                format!("/{}", counted.subresource)
            };
            let served = all.entry(format!("{} {}{kind}", counted.verb, counted.resource)).or_default();
            served.requests += count.requests;
            served.bytes += count.bytes;
        }
        all
    }

    /// The agent's metrics; empty when it does not answer.
    pub(super) fn metrics(&self) -> String {
        let answer = self.node.space().run(|| get("/metrics").map(|(_, body)| body));
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }

    fn tail_of_tunnel(&self) -> String {
        process::tail(self.node.tunnel.log(), 15)
    }
}

fn serve(plan: &Plan) -> Result<ApiServer, api::StartError> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, API_PORT))?;
    let names = plan.control().addresses().iter().map(ToString::to_string).collect();
    ApiServer::start(vec![listener], api::Options { names, ..api::Options::default() })
}

/// Status code and body of `/readyz`, in the network namespace of the calling thread.
fn readiness() -> std::io::Result<(u16, String)> {
    get("/readyz")
}

/// Status code and body of what the agent answers on the node's loopback.
fn get(path: &str) -> std::io::Result<(u16, String)> {
    let address = (Ipv4Addr::LOCALHOST, HEALTH_PORT);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned();
    Ok((code, body))
}
