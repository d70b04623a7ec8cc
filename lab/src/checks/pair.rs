//! Two pods on different nodes, of which one pings the other while something is done to the cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;

use super::{Failed, Short};
use crate::kubernetes::Kubernetes;
use crate::traffic::{Ping, PingReport};

const EVERY: Duration = Duration::from_millis(1);
/// Containers of pods that do nothing.
pub(super) const PAUSES: [&str; 1] = ["main"];

/// The two; they stay until [`Pair::end`].
pub(super) struct Pair<'a> {
    cluster: &'a Kubernetes,
    names: [String; 2],
    from: Arc<NetNs>,
    to: IpAddr,
}

impl<'a> Pair<'a> {
    /// Starts them, with names that begin with `name`.
    pub(super) fn start(cluster: &'a Kubernetes, name: &str) -> Result<Self, Failed> {
        let nodes = cluster.node_names();
        let [first, second, ..] = &nodes[..] else { return Err(Failed("two nodes are needed".into())) };
        let names = [1, 2].map(|number| format!("{name}-{number}"));
        let (from, _) = cluster.create_pod(&names[0], first, &PAUSES)?;
        let (_, addresses) = cluster.create_pod(&names[1], second, &PAUSES)?;
        let to = addresses.first().copied().ok_or_else(|| Failed("the pod has no address".into()))?;
        Ok(Self { cluster, names, from, to })
    }

    /// The network namespace of the one that pings.
    pub(super) fn from(&self) -> &NetNs {
        &self.from
    }

    /// Pings every millisecond while `work` is done; gives what became of it, and how long that took.
    pub(super) fn during(
        &self,
        work: impl FnOnce() -> Result<(), Failed>,
    ) -> Result<(PingReport, Duration), Failed> {
        let ping = Ping::start(&self.from, self.to, EVERY, self.cluster.world().canary())?;
        let begun = Instant::now();
        let done = work();
        let (report, took) = (ping.stop(), begun.elapsed());
        done.map(|()| (report, took))
    }

    /// Deletes them.
    pub(super) fn end(&self) -> Result<(), Failed> {
        Ok(self.names.iter().try_for_each(|name| self.cluster.delete_pod(name))?)
    }
}

/// In words, or why it failed.
pub(super) fn nothing_lost(report: &PingReport, took: Duration) -> Result<String, Failed> {
    match report.lost() {
        0 => Ok(format!("0 of {} packets lost in {}", report.sent, Short(took))),
        lost => {
            let gap = Short(report.longest_gap);
            Err(Failed(format!("{lost} of {} packets lost, longest gap {gap}", report.sent)))
        }
    }
}
