//! The measured figures. Their JSON form is what `--output json` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Options;
use crate::bench::Figures;

/// With one number of Nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Nodes beside the agent's own.
    pub nodes: u32,
    /// Status updates that the kubelets of all Nodes write per second.
    pub heartbeats_per_second: f64,
    /// First start, without records on disk.
    pub first: Start,
    /// Restart, with the records of the first start.
    pub restart: Option<Start>,
    /// At rest after the restart: nothing changes but heartbeats.
    pub rest: Option<Rest>,
    /// From a change of a Node's endpoints until the tunnel has them.
    pub moves: Option<Delays>,
    /// From the creation of a Node until the tunnel has the peer.
    pub joins: Option<Delays>,
    /// Through what the tunnel's peers were observed.
    pub observed_through: String,
    /// Peak resident memory of the restarted agent over the whole measurement, KiB.
    pub agent_peak_kib: u64,
    /// How soon the agent's controllers applied their events, by controller.
    #[serde(default)]
    pub applied: BTreeMap<String, Applied>,
}

/// A start of the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// From the start of the process until `/readyz` answered 200; none when the limit passed first.
    pub seconds: Option<f64>,
    /// What `/readyz` named as missing when the limit passed.
    pub unready: Option<String>,
    /// What the API server served to the agent until then, by verb and kind.
    pub served: BTreeMap<String, Served>,
    /// CPU time of the agent until then.
    pub agent_cpu_seconds: f64,
    /// Peak resident memory of the agent until then, KiB.
    pub agent_peak_kib: u64,
}

/// A period in which nothing changes but heartbeats.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rest {
    /// Length of the period.
    pub seconds: f64,
    /// CPU time of the agent.
    pub agent_cpu_seconds: f64,
    /// CPU time of the tunnel, parent and worker.
    pub tunnel_cpu_seconds: f64,
    /// What the API server served to the agent, by verb and kind.
    pub served: BTreeMap<String, Served>,
    /// Resident memory of the agent at the end, KiB.
    pub agent_kib: u64,
    /// Resident memory of the tunnel at the end, parent and worker, KiB.
    pub tunnel_kib: u64,
}

/// Requests of one verb and kind, and what was sent in answer to them, before TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Number of requests.
    pub requests: u64,
    /// Bytes of the answers' bodies.
    pub bytes: u64,
}

impl Served {
    /// The difference from `before` to `now`; a verb and kind without one is left out.
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

/// How long changes took to reach the tunnel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delays {
    /// Number of changes made.
    pub changes: usize,
    /// How many of them had not reached the tunnel when the measurement gave up.
    pub missing: usize,
    /// Median, in milliseconds.
    pub p50_millis: f64,
    /// 90th percentile, in milliseconds.
    pub p90_millis: f64,
    /// 99th percentile, in milliseconds.
    pub p99_millis: f64,
    /// What the API server served to the agent meanwhile, by verb and kind.
    pub served: BTreeMap<String, Served>,
}

/// How soon a controller of the agent applied its events, by the agent's own metric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Runs that an event caused, since the agent started.
    pub events: u64,
    /// How many of them had ended within 20 ms from the event.
    pub within_20_millis: u64,
}

impl Applied {
    /// From the agent's metrics, by controller.
    pub(super) fn read(metrics: &str) -> BTreeMap<String, Self> {
        const NAME: &str = "selvedge_agent_event_to_applied_seconds";
        let mut applied: BTreeMap<String, Self> = BTreeMap::new();
        for line in metrics.lines().filter_map(|line| line.strip_prefix(NAME)) {
            let Some((labels, value)) = line.rsplit_once(' ') else { continue };
            let label = |name: &str| Some(labels.split_once(&format!("{name}=\""))?.1.split_once('"')?.0);
            let (Some(controller), Ok(value)) = (label("controller"), value.parse()) else { continue };
            let entry = applied.entry(controller.to_owned()).or_default();
            if labels.starts_with("_count") {
                entry.events = value;
            } else if label("le") == Some("0.02") {
                entry.within_20_millis = value;
            }
        }
        applied
    }
}

impl Delays {
    /// Of the changes that arrived, after `times`, and those that are `missing`.
    pub(super) fn new(times: &[Duration], missing: usize) -> Self {
        let [_, p50_millis, p90_millis, p99_millis] =
            Figures::of(times).percentiles.map(|time| time.as_secs_f64() * 1e3);
        let changes = times.len() + missing;
        Self { changes, missing, p50_millis, p90_millis, p99_millis, served: BTreeMap::new() }
    }
}

impl Outcome {
    pub(super) fn new(options: &Options) -> Self {
        let heartbeats_per_second = f64::from(options.nodes + 1) / options.heartbeat.as_secs_f64();
        Self { nodes: options.nodes, heartbeats_per_second, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_controller() {
        let name = "selvedge_agent_event_to_applied_seconds";
        let metrics = format!(
            "{name}_sum{{controller=\"mesh\"}} 0.5\n{name}_count{{controller=\"mesh\"}} 7\n\
             {name}_bucket{{le=\"0.01\",controller=\"mesh\"}} 3\n{name}_bucket{{le=\"0.02\",controller=\"mesh\"}} 5\n# EOF\n"
        );
        let expected = Applied { events: 7, within_20_millis: 5 };
        assert_eq!(Applied::read(&metrics), [("mesh".to_owned(), expected)].into());
    }

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
