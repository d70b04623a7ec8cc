//! Load on a Service from inside and outside, while what serves it changes.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use selvedge::kernel::netns::NetNs;
use serde_json::Value;

use super::Failed;
use super::workloads::{addresses, host_name, pick};
use crate::kubernetes::Kubernetes;
use crate::plan::Family;

/// Interval of requests of each client; there are four.
const BETWEEN: Duration = Duration::from_millis(20);
/// The same on a keep-alive connection.
const PACE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

/// A client and whom it asks.
type Asked<'a> = (&'a NetNs, SocketAddr);

/// Clients of a Service of type NodePort on one node: the node itself at the cluster IPs, and the internet at the node port.
pub(super) struct Load<'a> {
    clients: Vec<Asked<'a>>,
}

impl<'a> Load<'a> {
    /// Returns once every client has an answer, after 15 s at the latest.
    pub(super) fn new(cluster: &'a Kubernetes, service: &Value, node: &str) -> Result<Self, Failed> {
        let space = cluster.node_space(node).ok_or_else(|| Failed(format!("no node {node}")))?;
        let cluster_ips = addresses(&service["spec"]["clusterIPs"]);
        let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        let node_port = u16::try_from(node_port).map_err(|error| Failed(error.to_string()))?;
        let (own, _) = cluster.node(node)?;
        let mut clients = Vec::new();
        for family in [Family::V4, Family::V6] {
            let at = |all: &[IpAddr], port| pick(family, all).map(|address| SocketAddr::new(address, port));
            clients.push((space.net(), at(&cluster_ips, 80)?));
            clients.push((cluster.world().internet(), at(&own, node_port)?));
        }
        for (ns, server) in &clients {
            let end = Instant::now() + Duration::from_secs(15);
            while host_name(ns, *server).is_err() && Instant::now() < end {}
        }
        Ok(Self { clients })
    }

    /// Sends requests while `work` runs; returns how many, or the failures. Each client makes a connection per request; with
    /// `keep_alive` each also uses one connection throughout.
    pub(super) fn during(
        &self,
        keep_alive: bool,
        work: impl FnOnce() -> Result<(), Failed>,
    ) -> Result<String, Failed> {
        let done = AtomicBool::new(false);
        let (worked, tallies) = std::thread::scope(|scope| {
            let asking = self.clients.iter().map(|client| scope.spawn(|| ask(*client, &done)));
            let keeping = self.clients.iter().filter(|_| keep_alive);
            let keeping = keeping.map(|client| scope.spawn(|| keep(*client, &done)));
            let threads: Vec<_> = asking.chain(keeping).collect();
            let worked = work();
            done.store(true, Ordering::Relaxed);
            let tallies: Vec<_> = threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            (worked, tallies)
        });
        worked?;
        let tallies: Vec<Tally> = tallies.into_iter().filter_map(Result::ok).collect();
        judge(self.clients.len() * if keep_alive { 2 } else { 1 }, &tallies)
    }
}

/// What a client got.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    failed: Vec<String>,
}

fn ask((ns, server): Asked<'_>, done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        match host_name(ns, server) {
            Ok(_) => tally.answered += 1,
            Err(failed) => tally.failed.push(failed.0),
        }
        std::thread::sleep(BETWEEN.saturating_sub(start.elapsed()));
    }
    tally
}

/// Until it breaks.
fn keep((ns, server): Asked<'_>, done: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let connect = || TcpStream::connect_timeout(&server, PATIENCE);
    let kept = ns.run(connect).map_err(|error| io::Error::other(error.to_string())).flatten();
    let result = kept.and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        while !done.load(Ordering::Relaxed) {
            stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n")?;
            if stream.read(&mut [0; 4096])? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tally.answered += 1;
            std::thread::sleep(PACE);
        }
        Ok(())
    });
    if let Err(error) = result {
        tally.failed.push(format!("the keep-alive connection to {server}: {error}"));
    }
    tally
}

fn judge(clients: usize, tallies: &[Tally]) -> Result<String, Failed> {
    let failed: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failed).collect();
    let answered: usize = tallies.iter().map(|tally| tally.answered).sum();
    match failed.first() {
        Some(first) => {
            Err(Failed(format!("{} of {} requests failed: {first}", failed.len(), answered + failed.len())))
        }
        None if tallies.len() < clients => Err(Failed("a client broke off".into())),
        None => Ok(format!("{answered} requests, none failed")),
    }
}
