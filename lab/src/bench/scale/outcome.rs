//! What was measured, as it goes from the process inside to the one outside, and to whoever reads JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Options;
use crate::bench::Figures;

/// With one number of Nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Nodes beside the agent's own.
    pub nodes: u32,
    /// Heartbeats of all of them.
    pub heartbeats_a_second: f64,
    /// First start: no records on disk.
    pub first: Start,
    /// Restart with records.
    pub restart: Option<Start>,
    /// Afterwards, while heartbeats come and nothing else.
    pub rest: Option<Rest>,
    /// From a write of a Node's endpoints until the tunnel has them.
    pub moves: Option<Delays>,
    /// From the creation of a Node until the tunnel has the peer.
    pub joins: Option<Delays>,
    /// By what the tunnel's peers were looked at.
    pub seen_by: String,
    /// Most memory that the restarted agent had at any time, KiB.
    pub agent_peak_kib: u64,
}

/// A start of the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Until `/readyz` was 200; none when it was not within the limit.
    pub seconds: Option<f64>,
    /// What it lacked then.
    pub unready: Option<String>,
    /// What the API server served to it meanwhile, by verb and kind.
    pub served: BTreeMap<String, Served>,
    /// Its CPU time meanwhile.
    pub agent_cpu_seconds: f64,
    /// Its peak memory meanwhile, KiB.
    pub agent_peak_kib: u64,
}

/// A time in which nothing happens but heartbeats.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rest {
    /// Its length.
    pub seconds: f64,
    /// CPU time of the agent.
    pub agent_cpu_seconds: f64,
    /// CPU time of the tunnel, parent and worker.
    pub tunnel_cpu_seconds: f64,
    /// What the API server served to the agent, by verb and kind.
    pub served: BTreeMap<String, Served>,
    /// Resident memory of the agent at the end, KiB.
    pub agent_kib: u64,
    /// Of the tunnel, parent and worker.
    pub tunnel_kib: u64,
}

/// Requests of one verb and kind, and the bytes of their answers before TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// How many.
    pub requests: u64,
    /// How many bytes.
    pub bytes: u64,
}

impl Served {
    /// What came since `before`, without what did not.
    pub(super) fn since(
        before: &BTreeMap<String, Self>,
        now: BTreeMap<String, Self>,
    ) -> BTreeMap<String, Self> {
        let new = now.into_iter().map(|(name, now)| {
            let old = before.get(&name).copied().unwrap_or_default();
            (name, Self { requests: now.requests - old.requests, bytes: now.bytes - old.bytes })
        });
        new.filter(|(_, new)| *new != Self::default()).collect()
    }
}

/// How long changes took to arrive, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delays {
    /// Changes that arrived.
    pub changes: usize,
    /// Changes that did not.
    pub missing: usize,
    /// Median.
    pub p50_millis: f64,
    /// 90th percentile.
    pub p90_millis: f64,
    /// 99th percentile.
    pub p99_millis: f64,
}

impl Delays {
    pub(super) fn new(figures: &Figures, changes: usize, missing: usize) -> Self {
        let [_, p50_millis, p90_millis, p99_millis] =
            figures.percentiles.map(|time| time.as_secs_f64() * 1e3);
        Self { changes, missing, p50_millis, p90_millis, p99_millis }
    }
}

impl Outcome {
    pub(super) fn new(options: &Options) -> Self {
        let heartbeats_a_second = f64::from(options.nodes + 1) / options.heartbeat.as_secs_f64();
        Self { nodes: options.nodes, heartbeats_a_second, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_since_counts() {
        let served = |requests, bytes| Served { requests, bytes };
        let map = |pairs: &[(&str, Served)]| {
            pairs.iter().map(|(name, served)| ((*name).to_owned(), *served)).collect::<BTreeMap<_, _>>()
        };
        let before = map(&[("list nodes", served(1, 10)), ("watch nodes", served(2, 20))]);
        let now = map(&[
            ("list nodes", served(1, 10)),
            ("watch nodes", served(2, 25)),
            ("get nodes", served(1, 5)),
        ]);
        let expected = map(&[("watch nodes", served(0, 5)), ("get nodes", served(1, 5))]);
        assert_eq!(Served::since(&before, now), expected);
    }
}
