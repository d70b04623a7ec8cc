//! The checks: what a cluster's network must do, each with what was measured. The same table for any cluster that
//! is a [`Cluster`], one file per concern.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde::Serialize;

use crate::capture::Seen;
use crate::plan::{Families, Family};
use crate::traffic::{self, Canary};

mod admission;
mod audit;
mod bulk;
mod chained;
mod churn;
mod claims;
mod diagnosis;
mod egress;
mod embedded;
mod faults;
mod kubernetes;
mod leak;
mod load;
mod many;
mod membership;
mod mtu;
mod outside;
mod pair;
mod pods;
mod reach;
mod rights;
mod rolling;
mod rotation;
mod takeover;
mod throughput;
mod traces;
mod uninstall;
mod upgrade;
mod upkeep;
mod workloads;

pub use admission::admission;
pub use chained::chained;
pub use churn::{Churn, churn};
pub use claims::claims;
pub use diagnosis::diagnosis;
pub use faults::faults;
pub use kubernetes::Served;
pub use leak::leaks;
pub use many::many;
pub use membership::membership;
pub use outside::outside;
pub use rights::rights;
pub use rolling::rolling;
pub use rotation::rotation;
pub use takeover::takeover;
pub use uninstall::uninstall;
pub use upgrade::upgrade;
pub use upkeep::upkeep;
pub use workloads::workloads;

/// Something with addresses in a network namespace: a pod, a node, the internet.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its network namespace, to make sockets in.
    pub ns: Arc<NetNs>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Of a node: the addresses that its own packets to remote pods come from.
    pub fabric: Vec<IpAddr>,
    /// Where its server listens.
    pub port: u16,
}

impl Host {
    /// Where its server is reached in a family.
    fn server(&self, family: Family) -> Result<SocketAddr, Failed> {
        Ok(SocketAddr::new(self.address(family)?, self.port))
    }

    fn address(&self, family: Family) -> Result<IpAddr, Failed> {
        let found = family.pick(&self.addresses);
        found.ok_or_else(|| Failed(format!("{} has no {family} address", self.name)))
    }
}

/// A cluster, as far as checks are concerned.
pub trait Cluster {
    /// Its address families.
    fn families(&self) -> Families;
    /// What payloads inside the cluster carry.
    fn canary(&self) -> &Canary;
    /// Its nodes, at least two, with servers in their own network.
    fn nodes(&self) -> Result<Vec<Host>, Failed>;
    /// Somebody outside.
    fn internet(&self) -> Result<Host, Failed>;
    /// MTU of the way to the internet, where it is less than the pods'.
    fn internet_mtu(&self) -> Option<u32>;
    /// MTU of the pods.
    fn pod_mtu(&self) -> u32;
    /// A node's server for a flow in plaintext that may be as fast as it can; its payload is not captured.
    fn plain_port(&self) -> u16;
    /// Runs a pod with a server for each container, and waits until it runs.
    fn create_pod(&self, name: &str, node: &str, containers: &[(&str, u16)]) -> Result<Host, Failed>;
    /// Waits until whoever watches the underlay has seen everything that was sent so far. Called between bursts, so
    /// that no capture has to keep up with what two cores can send.
    fn settle(&self);
    /// Plants frames that must be found on every link of the underlay, and tells what its captures have seen since the
    /// cluster was started.
    fn plant(&self) -> Result<Vec<Seen>, Failed>;
    /// Ends a pod and waits until it is gone.
    fn delete_pod(&self, name: &str) -> Result<(), Failed>;
}

/// Why a check failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub String);

macro_rules! failed_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Failed {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        }
    )*};
}
failed_from!(traffic::Error, crate::error::Error, crate::capture::Error, crate::space::Error, String);

/// How much is done: `make demo` does all of it, tests less.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Bytes of a large transfer.
    pub bulk: u64,
    /// How long throughput is measured.
    pub throughput: Duration,
    /// How long a ping of 1000 packets a second goes on.
    pub ping: Duration,
}

impl Scale {
    /// As a demonstration does it.
    pub const FULL: Self =
        Self { bulk: 64 << 20, throughput: Duration::from_secs(2), ping: Duration::from_secs(2) };
    /// As tests do it.
    pub const SMALL: Self =
        Self { bulk: 8 << 20, throughput: Duration::from_millis(300), ping: Duration::from_millis(300) };
}

/// What there is to tell of a check.
#[derive(Debug, Clone, Copy)]
pub enum Report<'a> {
    /// The check of this name has begun.
    Begun(&'a str),
    /// It has ended.
    Ended(&'a Outcome),
}

/// How a check ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// What was measured, or why it failed.
    pub measured: String,
    /// How long it took.
    #[serde(skip)]
    pub took: Duration,
}

/// The pods that most checks use, and what they need to know.
struct Stage<'a> {
    cluster: &'a dyn Cluster,
    scale: Scale,
    nodes: Vec<Host>,
    internet: Host,
    /// On the first node.
    near: [Host; 2],
    /// On the second node.
    far: Host,
}

type Body = fn(&Stage<'_>, Family) -> Result<String, Failed>;

/// Checks that are made in each family.
const IN_EACH_FAMILY: [(&str, Body); 13] = [
    ("pod to pod, same node", reach::same_node),
    ("pod to pod, other node", reach::other_node),
    ("node to pod, same node", reach::own_pod),
    ("node to pod, other node", reach::remote_pod),
    ("pod to its own node", reach::own_host),
    ("pod to other node's host", reach::remote_host),
    ("containers over localhost", pods::localhost),
    ("two pods, one port", pods::same_port),
    ("ping every millisecond", reach::ping),
    ("egress to the internet", egress::internet),
    ("packets of any size", mtu::sizes),
    ("path MTU of the internet", mtu::internet),
    ("large transfers", bulk::transfers),
];

/// Runs all checks but the leak check, and tells `report` of each as it begins and ends.
pub fn run(cluster: &dyn Cluster, scale: Scale, report: &mut dyn FnMut(Report<'_>)) {
    let mut stage = None;
    check("pods start", report, || {
        let (prepared, measured) = Stage::prepare(cluster, scale)?;
        stage = Some(prepared);
        Ok(measured)
    });
    let Some(stage) = stage else { return };
    for (name, body) in IN_EACH_FAMILY {
        for family in cluster.families().each() {
            check(&format!("{name}, {family}"), report, || body(&stage, *family));
        }
    }
    check("pod recreated with a new address", report, || pods::recreated(&stage));
    for family in cluster.families().each() {
        check(&format!("TCP throughput, {family}"), report, || throughput::compared(&stage, *family));
    }
}

fn check(name: &str, report: &mut dyn FnMut(Report<'_>), body: impl FnOnce() -> Result<String, Failed>) {
    report(Report::Begun(name));
    report(Report::Ended(&outcome(name, body)));
}

fn outcome(name: &str, body: impl FnOnce() -> Result<String, Failed>) -> Outcome {
    let start = Instant::now();
    let result = body();
    let passed = result.is_ok();
    let measured = result.unwrap_or_else(|failed| failed.0);
    Outcome { name: name.to_owned(), passed, measured, took: start.elapsed() }
}

impl<'a> Stage<'a> {
    fn prepare(cluster: &'a dyn Cluster, scale: Scale) -> Result<(Self, String), Failed> {
        let start = Instant::now();
        let nodes = cluster.nodes()?;
        let [first, second, ..] = &nodes[..] else {
            return Err(Failed("the checks need two nodes".into()));
        };
        let pod =
            |name: &str, node: &Host| cluster.create_pod(name, &node.name, &[("main", 8080), ("side", 8081)]);
        let near = [pod("near-1", first)?, pod("near-2", first)?];
        let far = pod("far", second)?;
        let measured = format!("3 pods in {} ms", start.elapsed().as_millis());
        Ok((Self { cluster, scale, internet: cluster.internet()?, near, far, nodes }, measured))
    }

    fn canary(&self) -> &Canary {
        self.cluster.canary()
    }
}

/// Time in a unit that fits.
struct Short(Duration);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_micros() {
            micros if micros < 10_000 => write!(f, "{:.2} ms", self.0.as_secs_f64() * 1e3),
            micros if micros < 1_000_000 => write!(f, "{:.0} ms", self.0.as_secs_f64() * 1e3),
            _ => write!(f, "{:.2} s", self.0.as_secs_f64()),
        }
    }
}
