//! One pass: observe -> desired -> difference -> apply. It can be run again at any time.
//!
//! The order is what makes it safe: the guard first, accepted claims on disk before the peers they allow, routes into
//! the tunnel before pods may start. A part that fails is tried again in the next pass; the others go on.

mod admit;
mod kernel;
mod keys;
mod members;
mod publish;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::PartialObjectMeta;
use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};

pub(super) use keys::Keys;

use super::events::Reporting;
use super::parts::{Name, Parts};
use super::serve::{Pass, Report};
use super::tunnel::Link;
use super::watch::{Broken, Objects};
use crate::cause;
use crate::config::Config;
use crate::fabric::device;
use crate::guard::{self, GuardConfig};
use crate::kernel::netlink::Netlink;
use crate::mesh::node_object::OwnNode;
use crate::observe::metrics::Metrics;
use crate::paths::Paths;
use crate::pod::node::{Datapath, NodeInfo};
use crate::tunnel::api::DeviceConfig;
use members::Members;

/// A pass is made at least this often.
const RESYNC: Duration = Duration::from_secs(30);
/// A pass in which something failed is made again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// News that come together are taken together.
const GATHER: Duration = Duration::from_millis(10);

/// The API server has this long for an answer; kernel state is not to wait for it for longer.
const API_PATIENCE: Duration = Duration::from_secs(5);

/// Parts that must work before pods may start.
const NEEDED: [Name; 8] = [
    Name::Guard,
    Name::OwnNode,
    Name::Mesh,
    Name::Link,
    Name::Routes,
    Name::Sysctls,
    Name::Tunnel,
    Name::Pods,
];

/// What the reconciler is started with.
pub(super) struct Start {
    pub(super) config: Config,
    pub(super) paths: Paths,
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) wanted: Sender<Option<DeviceConfig>>,
    pub(super) report: Report,
    pub(super) metrics: Metrics,
}

/// What the other tasks bring.
pub(super) struct News {
    pub(super) own: Receiver<Option<Node>>,
    pub(super) nodes: Receiver<Option<Objects<PartialObjectMeta<Node>>>>,
    pub(super) broken: Receiver<Broken>,
    pub(super) link: Receiver<Link>,
    pub(super) kernel: Arc<Notify>,
}

impl News {
    async fn any(&mut self) {
        tokio::select! {
            _ = self.own.changed() => {}
            _ = self.nodes.changed() => {}
            _ = self.broken.changed() => {}
            _ = self.link.changed() => {}
            () = self.kernel.notified() => {}
        }
    }
}

/// The task that decides and applies.
pub(super) struct Reconciler {
    start: Start,
    guard: GuardConfig,
    netlink: Netlink,
    members: Members,
    /// Whether the other nodes are known.
    known: bool,
    parts: Parts,
}

impl Reconciler {
    pub(super) fn new(start: Start) -> anyhow::Result<Self> {
        let reporting = Reporting::new(start.client.clone(), &start.config.node_name, start.metrics.clone());
        Ok(Self {
            guard: guard_config(&start.config),
            netlink: Netlink::new()?,
            members: Members::open(&start, reporting)?,
            known: false,
            parts: Parts::new(start.metrics.clone()),
            start,
        })
    }

    /// Makes passes until the task is dropped.
    pub(super) async fn run(mut self, mut news: News) {
        loop {
            let begun = Instant::now();
            self.pass(&mut news).await;
            self.start.metrics.reconciles.inc();
            self.start.metrics.reconcile_seconds.observe(begun.elapsed().as_secs_f64());
            let pause = if self.parts.all_done() { RESYNC } else { AGAIN };
            tokio::select! {
                () = news.any() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn pass(&mut self, news: &mut News) {
        self.watches(news);
        self.ensure_guard().await;
        let own = self.own(news);
        // First what needs no answer of the API server, which may be slow.
        let before = (self.known, self.members.addresses());
        self.ensure_kernel(own.as_ref(), self.known).await;
        // Once known they stay known: when the API server is away, what was believed last holds.
        self.known |= self.learn(own.as_ref(), news).await;
        if (self.known, self.members.addresses()) != before {
            self.ensure_kernel(own.as_ref(), self.known).await;
        }
        if let (Some(own), true) = (&own, self.known) {
            self.configure_tunnel(own, news).await;
            self.install(own).await;
            self.publish(own).await;
            self.admit(own).await;
        }
        self.report(own.as_ref());
    }

    fn watches(&mut self, news: &mut News) {
        let broken = news.broken.borrow_and_update();
        if broken.is_empty() {
            self.parts.settle::<String>(Name::Watches, Ok(Vec::new()));
        } else {
            let told: Vec<String> = broken.iter().map(|(what, why)| format!("on {what}: {why}")).collect();
            self.parts.wait(Name::Watches, told.join("; "));
        }
    }

    /// Decides anew about the other nodes; false while nothing is known of them.
    async fn learn(&mut self, own: Option<&OwnNode>, news: &mut News) -> bool {
        let nodes = news.nodes.borrow_and_update().clone();
        match (own, nodes) {
            (Some(own), Some(nodes)) => self.members.update(&self.start, own, &nodes, &mut self.parts).await,
            (_, None) => {
                self.parts.wait(Name::Mesh, "the Nodes of the cluster have not been listed yet");
                false
            }
            (None, _) => false,
        }
    }

    async fn ensure_guard(&mut self) {
        let config = self.guard.clone();
        let result = blocking(move || guard::ensure(&config)).await;
        self.parts.settle(Name::Guard, result.map(|changes| changes.0));
    }

    /// This node's own object, if it is there and can be used.
    fn own(&mut self, news: &mut News) -> Option<OwnNode> {
        let Some(node) = news.own.borrow_and_update().clone() else {
            let name = &self.start.config.node_name;
            self.parts
                .wait(Name::OwnNode, format!("Node {name} is not there, or the API server does not answer"));
            return None;
        };
        match OwnNode::from_object(&node, &self.start.config.cluster_pod_cidrs) {
            Ok(own) if own.pod_cidrs.is_empty() => {
                self.parts.wait(Name::OwnNode, format!("Node {} has no pod CIDR yet", own.name));
                None
            }
            Ok(own) => {
                let kept = self.start.keys.keep_ahead(&own.annotations);
                self.parts.settle(Name::OwnNode, kept).then_some(own)
            }
            Err(error) => {
                self.parts.settle(Name::OwnNode, Err(error));
                None
            }
        }
    }

    async fn configure_tunnel(&mut self, own: &OwnNode, news: &mut News) {
        let mtu = match self.mtu(&own.internal).await {
            Ok(mtu) => mtu,
            Err(error) => {
                self.parts.settle(Name::Tunnel, Err(error));
                return;
            }
        };
        let config = &self.start.config;
        let wanted = DeviceConfig {
            key_store: self.start.paths.keys(),
            identities: self.start.keys.identities(),
            listen_port: config.listen_port,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            firewall_mark: config.firewall_mark,
            peers: self.members.tunnel_peers(config.persistent_keepalive),
        };
        self.start.wanted.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&wanted);
            *current = Some(wanted);
            changed
        });
        match &*news.link.borrow_and_update() {
            Link::InStep => {
                self.parts.settle::<String>(Name::Tunnel, Ok(Vec::new()));
            }
            Link::Unknown => self.parts.wait(Name::Tunnel, "the tunnel has not answered yet"),
            Link::Broken(why) => self.parts.wait(Name::Tunnel, why.clone()),
        }
    }

    async fn mtu(&self, addresses: &[IpAddr]) -> Result<u32, crate::kernel::netlink::Error> {
        match self.start.config.mtu {
            Some(underlay) => Ok(u32::from(underlay) - device::OVERHEAD),
            None => device::tunnel_mtu(&self.netlink, addresses).await,
        }
    }

    fn report(&self, own: Option<&OwnNode>) {
        let problems = self.parts.problems();
        let ready = self.parts.all_well(&NEEDED);
        self.start.report.put(Pass {
            at: Instant::now(),
            unready: if ready { Vec::new() } else { problems.clone() },
            problems,
            key: Some(self.start.keys.current()),
            pod_cidrs: own.map(|own| own.pod_cidrs.clone()).unwrap_or_default(),
            refused: self.members.refused(),
        });
    }

    /// What the CNI plugin needs, while it is as it was last written.
    fn node_info(&self, own: &OwnNode, mtu: u32) -> NodeInfo {
        let config = &self.start.config;
        NodeInfo {
            node_name: own.name.clone(),
            node_uid: own.uid.clone(),
            pod_cidrs: own.pod_cidrs.clone(),
            cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            trusted_sources: config.trusted_sources.clone(),
            mtu,
            datapath: datapath(config.datapath),
            tunnel_port: Some(config.listen_port),
        }
    }
}

fn datapath(configured: crate::config::Datapath) -> Datapath {
    match configured {
        crate::config::Datapath::Bridge => Datapath::Bridge,
        crate::config::Datapath::Routed => Datapath::Routed,
    }
}

/// What the guard follows from.
pub(super) fn guard_config(config: &Config) -> GuardConfig {
    GuardConfig {
        cluster_pod_cidrs: config.cluster_pod_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
        trusted_sources: config.trusted_sources.clone(),
    }
}

/// Runs what blocks (netlink transactions, files) off the asynchronous thread, in the same network namespace.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, String>
where
    T: Send + 'static,
    E: std::fmt::Display + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(format!("the work was cut short: {error}")),
    }
}

/// What the API server does not answer in time is tried again with the next pass.
async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(API_PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| cause::told(&error)),
        Err(_) => Err(format!("the API server has not answered within {API_PATIENCE:?}")),
    }
}
