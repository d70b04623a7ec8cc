//! What operators do to a running cluster: agents and tunnels are replaced, and the API server goes away, while a pod
//! pings one on another node every millisecond.

use std::time::{Duration, Instant};

use super::pair::{PAUSES, Pair, nothing_lost};
use super::{Failed, Report, Short, check};
use crate::kubernetes::Kubernetes;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(4);

/// Runs these checks and tells `report` of each as it begins and ends.
pub fn upkeep(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    let mut upkeep = None;
    check("pods for upkeep start", report, || {
        upkeep = Some(Upkeep { cluster, pair: Pair::start(cluster, "upkeep")? });
        Ok(String::from("one on each of two nodes"))
    });
    let Some(upkeep) = upkeep else { return };
    check("agents replaced, ping every ms", report, || upkeep.agents());
    check("API server away, ping every ms", report, || upkeep.api_server());
    check("tunnels replaced, ping every ms", report, || upkeep.tunnels());
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

    /// Nothing that flows depends on the API server. Once it is back, pods start again; how soon is told,
    /// and not judged yet: 5 s are wanted, 9 s were seen, and why is not known.
    fn api_server(&self) -> Result<String, Failed> {
        let mut converged = Duration::ZERO;
        let (report, took) = self.pair.during(|| {
            self.cluster.without_api_server(AWAY)?;
            let begun = Instant::now();
            self.cluster.create_pod("upkeep-3", &self.cluster.node_names()[0], &PAUSES)?;
            converged = begun.elapsed();
            Ok(self.cluster.delete_pod("upkeep-3")?)
        })?;
        Ok(format!("{}; a new pod after {}", nothing_lost(&report, took)?, Short(converged)))
    }

    /// The tunnels' rolling update: what is lost is told. That nothing leaks meanwhile is for the leak check to say.
    fn tunnels(&self) -> Result<String, Failed> {
        let (report, took) = self.pair.during(|| self.replace("daemonset/selvedge-tunnel"))?;
        if report.received == 0 {
            return Err(Failed("no reply at all".into()));
        }
        let gap = Short(report.longest_gap);
        Ok(format!("{} of {} packets lost, longest gap {gap}, {}", report.lost(), report.sent, Short(took)))
    }

    fn replace(&self, what: &str) -> Result<(), Failed> {
        let namespace = "--namespace=selvedge-system";
        self.cluster.kubectl(&["rollout", "restart", namespace, what])?;
        self.cluster.kubectl(&["rollout", "status", "--timeout=90s", namespace, what])?;
        Ok(())
    }
}
