//! Pods that come and go in numbers, through the API, while others talk: nothing of them may be left in the end.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::pair::Pair;
use super::traces::{Traces, pods_on};
use super::{Failed, Report, Short, check};
use crate::kubernetes::Kubernetes;
use crate::process;

const CROWD: &str = "churn";
/// How many are started or ended at once: more than a node's cores can do only wait for each other.
const TOGETHER: usize = 8;
/// One pod in so many has a host port.
const WITH_HOST_PORT: usize = 10;
const FIRST_HOST_PORT: u16 = 20_000;
/// For a pod to start or to end, while others do, on a machine that may be slow.
const EACH: Duration = Duration::from_secs(3);
const LEAST: Duration = Duration::from_secs(60);
/// How long the last traces of a pod may stay after it is gone from the API.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_secs(1);
/// Pause between lines about how far it is.
const TELL: Duration = Duration::from_secs(10);

/// So many pods, created and deleted so many times: `300x2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Churn {
    /// How many pods there are at once.
    pub pods: usize,
    /// How often.
    pub rounds: usize,
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.pods, self.rounds)
    }
}

impl FromStr for Churn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (pods, rounds) = text.split_once('x')?;
            Some(Self { pods: pods.parse().ok()?, rounds: rounds.parse().ok()? })
        };
        parse().filter(|churn| churn.pods > 0).ok_or_else(|| "pods and rounds are wanted, as 300x2".into())
    }
}

/// Runs these checks and tells `report` of each as it begins and ends; `say` hears how far it is.
pub fn churn(cluster: &Kubernetes, churn: Churn, say: &dyn Fn(&str), report: &mut dyn FnMut(Report<'_>)) {
    if churn.rounds == 0 {
        return;
    }
    let what = "beside the churn";
    let Some(pair) = Pair::begin(cluster, "steady", what, report) else { return };
    check(&format!("{} pods come and go {} times", churn.pods, churn.rounds), report, || {
        let mut told = String::new();
        let (ping, took) = pair.during(|| {
            told = (1..=churn.rounds)
                .map(|round| Round { cluster, churn, round, say }.run())
                .collect::<Result<Vec<_>, _>>()?
                .join(", ");
            Ok(())
        })?;
        let (lost, gap) = (ping.lost(), Short(ping.longest_gap));
        Ok(format!(
            "{told}; load {}; {lost} of {} packets lost, longest gap {gap}, {}",
            load(),
            ping.sent,
            Short(took)
        ))
    });
    pair.finish(what, report);
    check("nothing of the pods is left", report, || nothing_left(cluster));
    check("no error of the CNI plugin in the runtimes' logs", report, || no_complaint(cluster));
}

/// One time.
struct Round<'a> {
    cluster: &'a Kubernetes,
    churn: Churn,
    round: usize,
    say: &'a dyn Fn(&str),
}

impl Round<'_> {
    fn run(&self) -> Result<String, Failed> {
        let begun = Instant::now();
        self.start()?;
        let started = begun.elapsed();
        settled(self.cluster)?;
        let begun = Instant::now();
        self.end()?;
        let ended = begun.elapsed();
        settled(self.cluster)?;
        Ok(format!("up in {}, gone in {}", Short(started), Short(ended)))
    }

    fn start(&self) -> Result<(), Failed> {
        let mut created = 0;
        self.wait("run", |pods| {
            let phase = |pod: &&Pod| {
                pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
            };
            let running = pods.iter().filter(phase).count();
            while created < self.churn.pods && created < running + TOGETHER {
                self.cluster.add_to_crowd(CROWD, created, host_port(created))?;
                created += 1;
            }
            Ok(running)
        })
    }

    fn end(&self) -> Result<(), Failed> {
        let mut deleted = 0;
        self.wait("are gone", |pods| {
            let gone = self.churn.pods.saturating_sub(pods.len());
            while deleted < self.churn.pods && deleted < gone + TOGETHER {
                self.cluster.remove_from_crowd(CROWD, deleted)?;
                deleted += 1;
            }
            Ok(gone)
        })
    }

    /// Until `step`, which sees the pods and gives how many are as they are to be, gives all.
    fn wait(&self, what: &str, mut step: impl FnMut(&[Pod]) -> Result<usize, Failed>) -> Result<(), Failed> {
        let all = self.churn.pods;
        let limit = LEAST + EACH * u32::try_from(all).unwrap_or(u32::MAX);
        let (mut done, mut told, mut failed) = (0, Instant::now(), None);
        let waited = process::wait_every(LOOK, &format!("{all} pods that {what}"), limit, || {
            // A failed look is made again.
            let Ok(pods) = self.cluster.crowd(CROWD) else { return false };
            match step(&pods) {
                Ok(count) => done = count,
                Err(error) => failed = Some(error),
            }
            if told.elapsed() >= TELL {
                (self.say)(&format!("churn, time {}: {done} of {all} pods {what}", self.round));
                told = Instant::now();
            }
            done == all || failed.is_some()
        });
        failed.map_or(Ok(()), Err)?;
        waited.map_err(|why| Failed(format!("{why}: only {done}")))
    }
}

fn host_port(number: usize) -> Option<u16> {
    let nth = number.is_multiple_of(WITH_HOST_PORT).then_some(number / WITH_HOST_PORT)?;
    u16::try_from(nth).ok().map(|nth| FIRST_HOST_PORT + nth)
}

/// Every node has what its pods need and nothing else; gives how many leases there are.
fn settled(cluster: &Kubernetes) -> Result<usize, Failed> {
    let (mut leases, mut wrong) = (0, Vec::new());
    let waited = process::wait_every(LOOK, "every node to have what its pods need", SETTLE, || {
        (leases, wrong) = compare(cluster).unwrap_or_else(|failed| (0, vec![failed.0]));
        wrong.is_empty()
    });
    waited.map(|()| leases).map_err(|why| {
        let examples = wrong.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        Failed(format!("{why}: {} things, {examples}", wrong.len()))
    })
}

fn compare(cluster: &Kubernetes) -> Result<(usize, Vec<String>), Failed> {
    let pods = cluster.pods()?;
    let (mut leases, mut wrong) = (0, Vec::new());
    for node in cluster.node_names() {
        let traces = Traces::read(cluster, &node)?;
        leases += traces.len();
        wrong.extend(traces.wrong(&pods_on(&node, &pods)).into_iter().map(|what| format!("{node}: {what}")));
    }
    Ok((leases, wrong))
}

fn nothing_left(cluster: &Kubernetes) -> Result<String, Failed> {
    let stuck = cluster.crowd(CROWD)?;
    if !stuck.is_empty() {
        let names: Vec<_> = stuck.iter().take(5).filter_map(|pod| pod.metadata.name.clone()).collect();
        return Err(Failed(format!("{} pods are stuck: {}", stuck.len(), names.join(", "))));
    }
    let leases = settled(cluster)?;
    Ok(format!("{leases} leases, for the {leases} pods there are; devices, rules and host ports likewise"))
}

/// Since the cluster was started.
fn no_complaint(cluster: &Kubernetes) -> Result<String, Failed> {
    let mut lines = 0;
    for node in cluster.node_names() {
        let log = cluster.runtime_log(&node).ok_or_else(|| Failed(format!("no log of {node}")))?;
        let text = std::fs::read_to_string(log).map_err(|error| Failed(error.to_string()))?;
        lines += text.lines().count();
        let found: Vec<&str> = text.lines().filter(|line| complains(line)).collect();
        if let Some(first) = found.first() {
            return Err(Failed(format!("{} on {node}, the first: {first}", found.len())));
        }
    }
    Ok(format!("{lines} lines on {} nodes", cluster.node_names().len()))
}

/// Whether a line of containerd's log says that a network could not be set up or torn down.
fn complains(line: &str) -> bool {
    let line = line.replace('\\', "");
    line.contains(r#"plugin type="selvedge" failed"#)
        || (line.contains("failed to") && line.contains("network for sandbox"))
}

/// The machine's load average over a minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn churn_is_written_as_pods_and_rounds() {
        let churn: Churn = "300x2".parse().unwrap();
        assert_eq!((churn, churn.to_string()), (Churn { pods: 300, rounds: 2 }, "300x2".to_owned()));
        for wrong in ["", "300", "x2", "0x2", "-1x2", "3x"] {
            assert!(wrong.parse::<Churn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_lines_about_the_network_of_a_sandbox_complain() {
        for (line, is) in [
            (
                r#"level=error msg="RunPodSandbox for x failed, error" error="failed to setup network for sandbox \"a\": plugin type=\"selvedge\" failed (add): x""#,
                true,
            ),
            (
                r#"level=error msg="StopPodSandbox failed" error="failed to destroy network for sandbox \"a\": netplugin failed with no error message: signal: killed""#,
                true,
            ),
            (r#"level=info msg="RunPodSandbox for x returns sandbox id""#, false),
            (
                r#"level=error msg="failed to load cni during init, please check CRI plugin status before setting up network for pods""#,
                false,
            ),
        ] {
            assert_eq!(complains(line), is, "{line}");
        }
    }

    #[test]
    fn some_pods_have_a_host_port_of_their_own() {
        assert_eq!(host_port(0), Some(20_000));
        assert_eq!((host_port(1), host_port(290)), (None, Some(20_029)));
    }
}
