//! What a cluster stands on, whoever its control plane is: router, cables, the internet, and a capture on every cable.

use std::net::IpAddr;

use selvedge::kernel::netns::NetNs;

use crate::capture::{Capture, Samples, Seen};
use crate::detect::{Detector, Given};
use crate::error::{Doing as _, Error};
use crate::plan::{Cable, INTERNET_PORTS, PLAIN_PORT, Plan};
use crate::traffic::{Canary, Server};
use crate::underlay::{self, Underlay};

/// MiB of capture buffer on each link, twice what a [`BURST`](crate::traffic::BURST) needs, and on all links together
/// at most so many: large labs are not for measuring.
const BUFFER: [usize; 2] = [64, 640];

/// The world around the nodes. The namespace that made it is plugged in as the machine `control`.
#[derive(Debug)]
pub struct World {
    // In the order in which they have to end.
    capture: Capture,
    _server: Server,
    internet: NetNs,
    underlay: Underlay,
    runtime: tokio::runtime::Runtime,
    plan: Plan,
    canary: Canary,
}

impl World {
    /// Lays all cables of `plan`, with nothing yet plugged in where nodes will be, and begins to capture.
    pub fn build(plan: Plan) -> Result<Self, Error> {
        let canary = Canary::random().doing("make a canary")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.doing("start a runtime")?;
        let (underlay, internet) = runtime.block_on(lay(&plan))?;
        let server = Server::start(&internet, "internet", &INTERNET_PORTS, &canary);
        let mut capture = Capture::new(detector(&plan, &canary), Some(PLAIN_PORT));
        for cable in plan.cables() {
            let buffer = buffer(plan.nodes);
            capture.add(underlay.router(), &cable.name, buffer).doing("capture the underlay")?;
        }
        let server = server.doing("start the internet's server")?;
        let world = Self { capture, _server: server, internet, underlay, runtime, plan, canary };
        // What the positive control plants counts as somebody's.
        world.given().add(world.samples().pods);
        Ok(world)
    }

    /// The addresses that were given to pods, Services and gateways.
    #[must_use]
    pub fn given(&self) -> &Given {
        self.capture.given()
    }

    /// Address plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What every payload carries.
    #[must_use]
    pub fn canary(&self) -> &Canary {
        &self.canary
    }

    /// The router and its cables.
    #[must_use]
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The namespace outside.
    #[must_use]
    pub fn internet(&self) -> &NetNs {
        &self.internet
    }

    /// The capture of every link.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// For calling what is async.
    #[must_use]
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    /// Plants frames that must be found, on every link, from its far end; `node` gives the namespace of a node. Then
    /// tells what each capture has seen since the beginning.
    pub fn plant<'a>(&'a self, node: impl Fn(&str) -> Option<&'a NetNs>) -> Result<Vec<Seen>, Error> {
        let samples = self.samples();
        let own = NetNs::current().doing("open the lab's own namespace")?;
        for cable in self.plan.cables() {
            let ns = match (node(&cable.name), cable.name.as_str()) {
                (Some(ns), _) => ns,
                (None, "internet") => &self.internet,
                (None, _) => &own,
            };
            self.capture.plant(&cable.name, ns, underlay::DEVICE, &samples).doing("plant frames")?;
        }
        self.capture.seen().doing("look at the captures")
    }

    fn samples(&self) -> Samples {
        let last = |nets: Vec<ipnet::IpNet>| nets.iter().map(|net| near_end(*net)).collect();
        Samples {
            pods: last(self.plan.cluster_pod_cidrs()),
            services: last(self.plan.service_cidrs()),
            nodes: self.plan.control().addresses(),
            canary: self.canary.bytes().to_vec(),
        }
    }
}

/// An address that no pod has, far from both ends of a range.
fn near_end(net: ipnet::IpNet) -> IpAddr {
    match net.broadcast() {
        IpAddr::V4(last) => IpAddr::V4((u32::from(last) - 6).into()),
        IpAddr::V6(last) => IpAddr::V6((u128::from(last) - 6).into()),
    }
}

async fn lay(plan: &Plan) -> Result<(Underlay, NetNs), Error> {
    let what = "lay the underlay";
    let underlay = Underlay::create().await.doing(what)?;
    for cable in plan.cables() {
        underlay.lay(&cable).await.doing(what)?;
    }
    let here = NetNs::current().doing(what)?;
    plug(&underlay, &plan.control(), &here).await?;
    let internet = NetNs::create().doing(what)?;
    internet.run(crate::isolate::loopback_up).doing(what)?.doing(what)?;
    plug(&underlay, &plan.internet(), &internet).await?;
    Ok((underlay, internet))
}

async fn plug(underlay: &Underlay, cable: &Cable, ns: &NetNs) -> Result<(), Error> {
    underlay.plug(cable, ns).await.doing("lay the underlay")
}

fn buffer(nodes: usize) -> usize {
    let [each, all] = BUFFER;
    each.min(all / (nodes + 2)).max(4)
}

fn detector(plan: &Plan, canary: &Canary) -> Detector {
    let detector = Detector::new(&plan.cluster_pod_cidrs(), &plan.service_cidrs(), canary.bytes());
    detector.trusting(plan.trusted_sources())
}
