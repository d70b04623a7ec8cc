//! A small cluster whose pods never stop sending, and what is asserted of each scenario on it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use selvedge::guard;
use selvedge::kernel::link::{self, Id, Update};
use selvedge::kernel::netns::NetNs;
use selvedge_lab::capture::Seen;
use selvedge_lab::lab::{HOST_PORTS, INTERNET_PORTS, Lab, Options, logs};
use selvedge_lab::node::Node;
use selvedge_lab::plan::{Datapath, Families};
use selvedge_lab::process::wait_for;
use selvedge_lab::traffic::Canary;
use selvedge_lab::{scenario, underlay};

use crate::flow::{Target, Traffic, targets};

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const POD_PORT: u16 = 8080;
/// Rounds of traffic that each scenario gets, at least.
const ROUNDS: u64 = 40;
/// Answers by which a flow is taken to work.
const ANSWERS: u64 = 5;

/// A pod that runs.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) ns: Arc<NetNs>,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Pod {
    pub(crate) fn server(&self) -> SocketAddr {
        SocketAddr::new(self.addresses[0], POD_PORT)
    }
}

/// A lab of both families, with a pod on its first node and one on its second.
#[derive(Debug)]
pub(crate) struct Stage {
    // Ends before the lab.
    traffic: Mutex<Vec<Traffic>>,
    pub(crate) near: Pod,
    pub(crate) far: Pod,
    /// What payloads carry that may be seen in the clear.
    pub(crate) plain: Canary,
    pub(crate) lab: Lab,
}

impl Stage {
    /// Starts the lab and the pods.
    pub(crate) fn quiet(nodes: usize) -> Self {
        Self::wired(nodes, Datapath::default())
    }

    /// The same with a wiring of choice.
    pub(crate) fn wired(nodes: usize, datapath: Datapath) -> Self {
        let folder = PathBuf::from("/run/lab");
        std::fs::create_dir(&folder).unwrap();
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_selvedge"));
        let options = Options { nodes, families: Families::Dual, datapath, folder, binary };
        let lab = Lab::start(options, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"));
        let near = pod(&lab, "near", "node1");
        let far = pod(&lab, "far", "node2");
        Self { traffic: Mutex::default(), near, far, plain: Canary::random().unwrap(), lab }
    }

    /// The same, with all the traffic that there is, and answers to all of it that is to be answered.
    pub(crate) fn start() -> Self {
        let stage = Self::quiet(2);
        stage.send(true);
        stage.recovers("the first answers");
        stage
    }

    /// Starts (again) what never stops, with or without packets to the other node's own addresses.
    pub(crate) fn send(&self, to_nodes: bool) {
        let host = [self.to_pod(&self.far), self.to_nobody()].concat();
        self.send_all(to_nodes, host);
    }

    /// The same but for what the node's own processes send to no Service and no pod: without the guard that goes by the
    /// default route, as SECURITY.md says. All that pods send is there.
    pub(crate) fn send_of_pods(&self) {
        self.send_all(true, self.to_pod(&self.far));
    }

    fn send_all(&self, to_nodes: bool, host: Vec<Target>) {
        self.hush();
        let to_node = |index: usize| match to_nodes {
            true => self.to_node(index),
            false => Vec::new(),
        };
        let near = [self.to_pod(&self.far), to_node(1), self.to_nobody(), self.to_internet()].concat();
        let far = [self.to_pod(&self.near), to_node(0), self.to_internet()].concat();
        let canary = self.lab.canary();
        let traffic = vec![
            Traffic::start(&self.near.ns, near).with_stream(&self.near.ns, self.far.server(), canary),
            Traffic::start(&self.far.ns, far).with_stream(&self.far.ns, self.near.server(), canary),
            Traffic::start(self.node(0).space().net(), host),
        ];
        *self.traffic() = traffic;
    }

    /// Sends to these from a namespace as well.
    pub(crate) fn send_from(&self, ns: &NetNs, targets: Vec<Target>) {
        let traffic = Traffic::start(ns, targets);
        self.traffic().push(traffic);
    }

    /// Ends all traffic.
    pub(crate) fn hush(&self) {
        let ending = std::mem::take(&mut *self.traffic());
        drop(ending);
    }

    fn traffic(&self) -> MutexGuard<'_, Vec<Traffic>> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self, index: usize) -> &Node {
        &self.lab.nodes()[index]
    }

    /// The canary, as payload.
    pub(crate) fn secret(&self) -> Vec<u8> {
        self.lab.canary().fill(128)
    }

    pub(crate) fn to_pod(&self, pod: &Pod) -> Vec<Target> {
        targets("remote pod", &pod.addresses, POD_PORT, &self.secret())
    }

    pub(crate) fn to_node(&self, index: usize) -> Vec<Target> {
        targets("remote node", &self.node(index).addresses(), HOST_PORTS[0], &self.secret())
    }

    /// A pod of no node, and a Service that is none.
    pub(crate) fn to_nobody(&self) -> Vec<Target> {
        let pods = ["10.244.200.5", "fd00:10:244:c8::5"].map(|text| text.parse().unwrap());
        let services = ["10.96.7.7", "fd00:10:96::707"].map(|text| text.parse().unwrap());
        let secret = self.secret();
        [targets("no pod", &pods, POD_PORT, &secret), targets("no Service", &services, 80, &secret)].concat()
    }

    pub(crate) fn to_internet(&self) -> Vec<Target> {
        let addresses = self.lab.plan().internet().addresses();
        targets("internet", &addresses, INTERNET_PORTS[0], &self.plain.fill(128))
    }

    /// Waits for so many more rounds of everything.
    pub(crate) fn keeps_sending(&self, rounds: u64) {
        let now = || self.traffic().iter().map(Traffic::rounds).collect::<Vec<_>>();
        let before = now();
        let enough = || now().iter().zip(&before).all(|(now, before)| *now >= before + rounds);
        wait_for("the pods to send on", SOON, enough).unwrap();
    }

    /// Waits until all is answered that is to be answered; gives how long that took.
    pub(crate) fn recovers(&self, what: &str) -> Duration {
        let start = Instant::now();
        let before = self.answers();
        let mut missing = Vec::new();
        let waited = wait_for(what, SOON, || {
            let pairs = self.answers().into_iter().zip(&before);
            missing =
                pairs.filter(|(now, before)| now.1 < before.1 + ANSWERS).map(|(now, _)| now.0).collect();
            missing.is_empty()
        });
        waited.unwrap_or_else(|why| panic!("{why}; not answered: {missing:?}\n{}", self.logs()));
        start.elapsed()
    }

    fn answers(&self) -> Vec<(String, u64)> {
        let all: Vec<_> = self.traffic().iter().flat_map(Traffic::answers).collect();
        all.into_iter().filter(|(name, _)| !name.starts_with("no ")).collect()
    }

    /// Runs one scenario: the pods send on during all of it and a while longer, no frame leaks, and none goes
    /// unseen. Prints a line with what `body` has measured.
    pub(crate) fn scenario(&self, name: &str, body: impl FnOnce() -> String) {
        let (start, before, dropped) = (Instant::now(), self.seen(), self.dropped());
        let measured = body();
        self.keeps_sending(ROUNDS);
        let after = self.seen();
        let sum = |all: &[Seen], part: fn(&Seen) -> u64| all.iter().map(part).sum::<u64>();
        let grown = |part: fn(&Seen) -> u64| sum(&after, part) - sum(&before, part);
        println!(
            "{name}: {measured}{}{} frames on the wire, {} leaked; the guards dropped {}; {:.1} s",
            if measured.is_empty() { "" } else { "; " },
            grown(|seen| seen.frames),
            grown(|seen| seen.leaks),
            self.dropped().saturating_sub(dropped),
            start.elapsed().as_secs_f64(),
        );
        self.nothing_leaked(name, &after);
    }

    fn nothing_leaked(&self, name: &str, links: &[Seen]) {
        for seen in links {
            let examples: Vec<String> = seen.examples.iter().map(|leak| leak.finding.to_string()).collect();
            let logs = || self.logs();
            assert_eq!(
                seen.leaks,
                0,
                "{name}: {} leaks on {}: {examples:#?}\n{}",
                seen.leaks,
                seen.link,
                logs()
            );
            assert_eq!(seen.drops, 0, "{name}: frames on {} were not captured", seen.link);
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.lab.capture().seen().unwrap()
    }

    /// Packets that the guards of all nodes have dropped.
    pub(crate) fn dropped(&self) -> u64 {
        let of = |node: &Arc<Node>| node.space().run(guard::dropped).unwrap().unwrap_or_default();
        let counters = self.lab.nodes().iter().map(of);
        counters.flat_map(|counters| counters.into_values().map(|counter| counter.packets)).sum()
    }

    /// All routes and rules go, and the network manager's own come back.
    pub(crate) fn reconfigure(&self) -> String {
        let (node, runtime) = (self.node(0), self.lab.runtime());
        let space = node.space();
        let deleted = runtime.block_on(async {
            let rules = scenario::flush_rules(space.net()).await.unwrap();
            let routes = scenario::flush_routes(space.net()).await.unwrap();
            let cable = node.cable();
            let index = node.netlink().unwrap().link_named(underlay::DEVICE).await.unwrap().unwrap().index;
            let down = Update { up: Some(false), ..Update::default() };
            node.netlink().unwrap().apply([link::update(Id::Index(index), &down)]).await.unwrap();
            underlay::configure(&cable, space.net()).await.unwrap();
            (routes, rules)
        });
        format!("{} routes and {} rules deleted; ", deleted.0, deleted.1)
    }

    pub(crate) fn logs(&self) -> String {
        self.lab.nodes().iter().map(|node| logs(node)).collect()
    }

    /// The positive control: planted frames are found on every link. Then the whole time is judged once more.
    pub(crate) fn end(self) {
        self.lab.plant().unwrap();
        let links = self.seen();
        self.nothing_leaked("the end", &links);
        for seen in links {
            assert!(
                seen.planted > 0 && seen.found == seen.planted,
                "{}: not all planted frames found",
                seen.link
            );
        }
    }
}

pub(crate) fn pod(lab: &Lab, name: &str, node: &str) -> Pod {
    let made = lab.create_pod(name, node, &[("main", POD_PORT)]);
    let (ns, addresses) = made.unwrap_or_else(|error| panic!("{error}"));
    Pod { ns, addresses }
}
