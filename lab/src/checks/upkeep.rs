//! What operators do to a running cluster: agents and tunnels are replaced, and the API server goes away, while a pod
//! pings one on another node every millisecond.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;

use super::{Failed, Report, Short, check};
use crate::kubernetes::{Kubernetes, TAINT};
use crate::traffic::{Ping, PingReport};

const EVERY: Duration = Duration::from_millis(1);
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(4);
/// How soon after that the agents have to be at work.
const CONVERGED: Duration = Duration::from_secs(5);
const NAMES: [&str; 2] = ["upkeep-1", "upkeep-2"];
const PAUSES: [&str; 1] = ["main"];

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn upkeep(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let mut pair = None;
    check("pods for upkeep start", report, || {
        pair = Some(Pair::start(cluster)?);
        Ok(String::from("one on each of two nodes"))
    });
    let Some(pair) = pair else { return };
    check("agents replaced, ping every ms", report, || pair.agents());
    check("API server away, ping every ms", report, || pair.api_server());
    check("tunnels replaced, ping every ms", report, || pair.tunnels());
    check("pods for upkeep end", report, || {
        NAMES.iter().try_for_each(|name| cluster.delete_pod(name))?;
        Ok(String::new())
    });
}

/// Two pods on different nodes.
struct Pair<'a> {
    cluster: &'a Kubernetes,
    from: Arc<NetNs>,
    to: IpAddr,
}

impl<'a> Pair<'a> {
    fn start(cluster: &'a Kubernetes) -> Result<Self, Failed> {
        let nodes = cluster.node_names();
        let [first, second, ..] = &nodes[..] else { return Err(Failed("two nodes are needed".into())) };
        let (from, _) = cluster.create_pod(NAMES[0], first, &PAUSES)?;
        let (_, addresses) = cluster.create_pod(NAMES[1], second, &PAUSES)?;
        let to = addresses.first().copied().ok_or_else(|| Failed("the pod has no address".into()))?;
        Ok(Self { cluster, from, to })
    }

    /// The agents' rolling update costs no packet.
    fn agents(&self) -> Result<String, Failed> {
        let (report, took) = self.during(|| self.replace("daemonset/selvedge-agent"))?;
        nothing_lost(&report, took)
    }

    /// Nothing that flows depends on the API server. Once it is back, every agent acts on what it says, soon. A pod
    /// starts as soon as its kubelet looks, which is told and not judged: client-go's reflectors try again after 0.8 s,
    /// then after twice as long each time, up to 30 s, and each wait may be twice that by chance.
    fn api_server(&self) -> Result<String, Failed> {
        let (mut agents, mut pod) = (Duration::ZERO, Duration::ZERO);
        let (report, took) = self.during(|| {
            self.cluster.without_api_server(AWAY)?;
            let begun = Instant::now();
            agents = self.agents_act(begun)?;
            self.cluster.create_pod("upkeep-3", &self.cluster.node_names()[0], &PAUSES)?;
            pod = begun.elapsed();
            Ok(self.cluster.delete_pod("upkeep-3")?)
        })?;
        let lost = nothing_lost(&report, took)?;
        if agents > CONVERGED {
            return Err(Failed(format!("the agents took {} to act; {lost}", Short(agents))));
        }
        Ok(format!("{lost}; agents act after {}, a new pod runs after {}", Short(agents), Short(pod)))
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
        let (report, took) = self.during(|| self.replace("daemonset/selvedge-tunnel"))?;
        nothing_lost(&report, took)
    }

    fn replace(&self, what: &str) -> Result<(), Failed> {
        let namespace = "--namespace=selvedge-system";
        self.cluster.kubectl(&["rollout", "restart", namespace, what])?;
        self.cluster.kubectl(&["rollout", "status", "--timeout=90s", namespace, what])?;
        Ok(())
    }

    fn during(&self, work: impl FnOnce() -> Result<(), Failed>) -> Result<(PingReport, Duration), Failed> {
        let ping = Ping::start(&self.from, self.to, EVERY, self.cluster.world().canary())?;
        let begun = Instant::now();
        let done = work();
        let (report, took) = (ping.stop(), begun.elapsed());
        done.map(|()| (report, took))
    }
}

fn nothing_lost(report: &PingReport, took: Duration) -> Result<String, Failed> {
    match report.lost() {
        0 => Ok(format!("0 of {} packets lost in {}", report.sent, Short(took))),
        lost => {
            let gap = Short(report.longest_gap);
            Err(Failed(format!("{lost} of {} packets lost, longest gap {gap}", report.sent)))
        }
    }
}
