//! Two pods on different nodes, of which one pings the other while something is done to the cluster.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;

use super::{Failed, Report, Short, check};
use crate::kubernetes::Kubernetes;
use crate::stop::StopOnDrop;
use crate::traffic::{BURST, Ping, PingReport, Server, upload};

const EVERY: Duration = Duration::from_millis(1);
/// Bytes of one transfer.
const TRANSFER: u64 = 2 * BURST;
/// Containers of pods that do nothing.
pub(super) const PAUSES: [&str; 1] = ["main"];

/// The two; they stay until [`Pair::end`].
pub(super) struct Pair<'a> {
    cluster: &'a Kubernetes,
    names: [String; 2],
    from: Arc<NetNs>,
    /// Of the one that is pinged.
    far: Arc<NetNs>,
    to: IpAddr,
}

/// What became of the traffic beside some work.
pub(super) struct Traffic {
    ping: PingReport,
    /// Bytes that came over TCP as they were sent.
    bytes: u64,
    took: Duration,
}

impl Traffic {
    /// In words, or why it failed.
    pub(super) fn nothing_lost(&self) -> Result<String, Failed> {
        let lost = nothing_lost(&self.ping, self.took)?;
        Ok(format!("{lost}, {} MiB of TCP beside", self.bytes >> 20))
    }
}

impl<'a> Pair<'a> {
    /// Starts them as a check of its own, which `what` names; none if that fails.
    pub(super) fn begin(
        cluster: &'a Kubernetes,
        name: &str,
        what: &str,
        report: &mut dyn FnMut(Report<'_>),
    ) -> Option<Self> {
        let mut pair = None;
        check(&format!("pods {what} start"), report, || {
            pair = Some(Self::start(cluster, name)?);
            Ok(String::from("one on each of two nodes"))
        });
        pair
    }

    /// Deletes them as a check of its own.
    pub(super) fn finish(&self, what: &str, report: &mut dyn FnMut(Report<'_>)) {
        check(&format!("pods {what} end"), report, || self.end().map(|()| String::new()));
    }

    /// Starts them, with names that begin with `name`.
    pub(super) fn start(cluster: &'a Kubernetes, name: &str) -> Result<Self, Failed> {
        let nodes = cluster.node_names();
        let [first, second, ..] = &nodes[..] else { return Err(Failed("two nodes are needed".into())) };
        let names = [1, 2].map(|number| format!("{name}-{number}"));
        let (from, _) = cluster.create_pod(&names[0], first, &PAUSES)?;
        let (far, addresses) = cluster.create_pod(&names[1], second, &PAUSES)?;
        let to = addresses.first().copied().ok_or_else(|| Failed("the pod has no address".into()))?;
        Ok(Self { cluster, names, from, far, to })
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

    /// Pings every millisecond and moves bytes over TCP while `work` is done.
    pub(super) fn under_load(&self, work: impl FnOnce() -> Result<(), Failed>) -> Result<Traffic, Failed> {
        let server = Server::start(&self.far, "bulk", &[0], self.cluster.world().canary())?;
        let to = SocketAddr::new(self.to, server.ports().first().copied().unwrap_or_default());
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let ending = StopOnDrop(&end);
            let bulk = scope.spawn(|| self.transfer(to, &end));
            let done = self.during(work);
            drop(ending);
            let bytes = bulk.join().unwrap_or_else(|_| Err(Failed("the transfers broke off".into())));
            let (ping, took) = done?;
            Ok(Traffic { ping, bytes: bytes?, took })
        })
    }

    /// One transfer after the other, each on a connection of its own, until the end; gives the bytes of all.
    fn transfer(&self, to: SocketAddr, end: &AtomicBool) -> Result<u64, Failed> {
        let world = self.cluster.world();
        let mut pause = || drop(world.capture().seen());
        let mut bytes = 0;
        while !end.load(Ordering::Relaxed) {
            let bulk = upload(&self.from, to, TRANSFER, world.canary(), &mut pause)?;
            if bulk.bytes != TRANSFER || bulk.sent != bulk.received {
                return Err(Failed(format!(
                    "{} of {TRANSFER} bytes came, or others than were sent",
                    bulk.bytes
                )));
            }
            bytes += bulk.bytes;
        }
        Ok(bytes)
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
