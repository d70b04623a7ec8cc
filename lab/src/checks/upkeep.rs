//! What operators do to a running cluster, while a pod pings one on another node every millisecond: agents and tunnels are
//! replaced, with large transfers beside, and the API server goes away.

use std::time::{Duration, Instant};

use super::pair::{PAUSES, Pair, nothing_lost};
use super::traces::Traces;
use super::{Failed, Report, Short, check};
use crate::kubernetes::{Kubernetes, StaticPod, TAINT};
use crate::process;

/// Pods from files: one that ends while the API server is away, and one that starts then.
const EARLY: &str = "early";
const LATE: &str = "late";
/// For such a pod to start or end.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// How long the API server is away, at least.
const AWAY: Duration = Duration::from_secs(4);
/// How soon after that the agents have to be at work.
const CONVERGED: Duration = Duration::from_secs(5);

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn upkeep(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let what = "for upkeep";
    let Some(pair) = Pair::begin(cluster, "upkeep", what, report) else { return };
    let upkeep = Upkeep { cluster, pair };
    check("agents replaced, ping and bulk TCP", report, || upkeep.agents());
    check("tunnels replaced, ping and bulk TCP", report, || upkeep.tunnels());
    check("keys of all nodes rotated, ping and bulk TCP", report, || upkeep.keys());
    // Last: for minutes after it, controllers may wait before they look again at what they could not see.
    check("API server away, ping every ms", report, || upkeep.api_server());
    upkeep.pair.finish(what, report);
}

struct Upkeep<'a> {
    cluster: &'a Kubernetes,
    pair: Pair<'a>,
}

impl Upkeep<'_> {
    /// The agents' rolling update costs no packet.
    fn agents(&self) -> Result<String, Failed> {
        self.pair.under_load(|| self.replace("daemonset/selvedge-agent"))?.nothing_lost()
    }

    /// Nothing that flows depends on the API server, nor does the way of a pod into the network and out of it: kubelets
    /// have pods from files too, which come and go. Once it is back, every agent acts on what it says, soon. A pod
    /// starts as soon as its kubelet looks, which is told and not judged: client-go's reflectors try again after 0.8 s,
    /// then after twice as long each time, up to 30 s, and each wait may be twice that by chance.
    fn api_server(&self) -> Result<String, Failed> {
        let (mut agents, mut pod) = (Duration::ZERO, Duration::ZERO);
        let node = &self.cluster.node_names()[0];
        let [early, late] = [EARLY, LATE].map(|name| StaticPod::new(self.cluster, node, name));
        early.start()?;
        self.wired(&early, true)?;
        let (report, took) = self.pair.during(|| {
            self.cluster.without_api_server(|| {
                let begun = Instant::now();
                early.end()?;
                late.start()?;
                self.wired(&early, false)?;
                self.wired(&late, true)?;
                std::thread::sleep(AWAY.saturating_sub(begun.elapsed()));
                Ok::<_, Failed>(())
            })?;
            let begun = Instant::now();
            agents = self.agents_act(begun)?;
            self.cluster.create_pod("upkeep-3", node, &PAUSES)?;
            pod = begun.elapsed();
            Ok(self.cluster.delete_pod("upkeep-3")?)
        })?;
        late.end()?;
        self.wired(&late, false)?;
        let lost = nothing_lost(&report, took)?;
        if agents > CONVERGED {
            return Err(Failed(format!("the agents took {} to act; {lost}", Short(agents))));
        }
        Ok(format!("{lost}; agents act after {}, a new pod runs after {}", Short(agents), Short(pod)))
    }

    /// Waits until a pod has an address, or has none any more.
    fn wired(&self, pod: &StaticPod<'_>, wanted: bool) -> Result<(), Failed> {
        let what =
            format!("{} to {}", pod.name(), if wanted { "have an address" } else { "give its address back" });
        let holds = || {
            let traces = Traces::read(self.cluster, pod.node());
            traces.is_ok_and(|traces| traces.has("default", &pod.name()) == wanted)
        };
        Ok(process::wait_every(LOOK, &what, PATIENCE, holds)?)
    }

    /// Gives every node the start-up taint, and waits until its agent has taken it off: for that it has to see its own
    /// Node and to write to it. How long after `begun` that was.
    fn agents_act(&self, begun: Instant) -> Result<Duration, Failed> {
        let taint = format!("{TAINT}:NoSchedule");
        self.cluster.kubectl(&["taint", "nodes", "--all", "--overwrite", &taint])?;
        let keys = "--output=jsonpath={.items[*].spec.taints[*].key}";
        while self.cluster.kubectl(&["get", "nodes", keys])?.contains(TAINT) {
            if begun.elapsed() > CONVERGED * 4 {
                return Err(Failed(format!("the taint {TAINT} stays")));
            }
        }
        Ok(begun.elapsed())
    }

    /// The tunnels' rolling update: each hands over to the next, which costs no packet.
    fn tunnels(&self) -> Result<String, Failed> {
        self.pair.under_load(|| self.replace("daemonset/selvedge-tunnel"))?.nothing_lost()
    }

    /// New keys on every node at once cost no packet, and the record of it is whole.
    fn keys(&self) -> Result<String, Failed> {
        let nodes = self.cluster.node_names();
        let rotate = ["keys", "rotate", "--all", "--yes", "--wait", "--reason", "check of the lab"];
        let traffic = self.pair.under_load(|| {
            let outcome = self.cluster.selvedge(&rotate)?;
            match outcome.contains(&format!("{0} of {0} nodes rotated", nodes.len())) {
                true => Ok(()),
                false => Err(Failed(outcome)),
            }
        })?;
        for node in &nodes {
            self.cluster.selvedge_on(node, &["audit", "verify"])?;
        }
        Ok(format!("{} nodes; {}", nodes.len(), traffic.nothing_lost()?))
    }

    fn replace(&self, what: &str) -> Result<(), Failed> {
        let namespace = "--namespace=selvedge-system";
        self.cluster.kubectl(&["rollout", "restart", namespace, what])?;
        self.cluster.kubectl(&["rollout", "status", "--timeout=180s", namespace, what])?;
        Ok(())
    }
}
