//! What operators do to a running cluster: agents and tunnels are replaced, and the API server goes away, while a pod
//! pings one on another node every millisecond.

use std::time::{Duration, Instant};

use super::pair::{PAUSES, Pair, nothing_lost};
use super::{Failed, Report, Short, check};
use crate::kubernetes::{Kubernetes, TAINT};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(4);
/// How soon after that the agents have to be at work.
const CONVERGED: Duration = Duration::from_secs(5);

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn upkeep(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let mut upkeep = None;
    check("pods for upkeep start", report, || {
        upkeep = Some(Upkeep { cluster, pair: Pair::start(cluster, "upkeep")? });
        Ok(String::from("one on each of two nodes"))
    });
    let Some(upkeep) = upkeep else { return };
    check("agents replaced, ping every ms", report, || upkeep.agents());
    check("tunnels replaced, ping every ms", report, || upkeep.tunnels());
    // Last: for minutes after it, controllers may wait before they look again at what they could not see.
    check("API server away, ping every ms", report, || upkeep.api_server());
    check("pods for upkeep end", report, || upkeep.pair.end().map(|()| String::new()));
}

struct Upkeep<'a> {
    cluster: &'a Kubernetes,
    pair: Pair<'a>,
}

impl Upkeep<'_> {
    /// The agents' rolling update costs no packet.
    fn agents(&self) -> Result<String, Failed> {
        let (report, took) = self.pair.during(|| self.replace("daemonset/selvedge-agent"))?;
        nothing_lost(&report, took)
    }

    /// Nothing that flows depends on the API server. Once it is back, every agent acts on what it says, soon. A pod
    /// starts as soon as its kubelet looks, which is told and not judged: client-go's reflectors try again after 0.8 s,
    /// then after twice as long each time, up to 30 s, and each wait may be twice that by chance.
    fn api_server(&self) -> Result<String, Failed> {
        let (mut agents, mut pod) = (Duration::ZERO, Duration::ZERO);
        let (report, took) = self.pair.during(|| {
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
        let (report, took) = self.pair.during(|| self.replace("daemonset/selvedge-tunnel"))?;
        nothing_lost(&report, took)
    }

    fn replace(&self, what: &str) -> Result<(), Failed> {
        let namespace = "--namespace=selvedge-system";
        self.cluster.kubectl(&["rollout", "restart", namespace, what])?;
        self.cluster.kubectl(&["rollout", "status", "--timeout=180s", namespace, what])?;
        Ok(())
    }
}
