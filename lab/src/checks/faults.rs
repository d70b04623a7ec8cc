//! An API server that is slow, cut off, silent, turns requests away or forgets, and an agent that has to live with it: it
//! comes back by itself, and what flows meanwhile loses nothing.
//!
//! Whether the agent works is seen at the condition `NetworkUnavailable` of its Node: whoever sets it, the agent clears
//! it, which takes a watch and a write.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::audit::asked;
use super::pair::{Pair, nothing_lost};
use super::workloads::get;
use super::{Failed, Report, Short, check};
use crate::kubernetes::{Kubernetes, Obstacle};
use crate::process;

/// Packets a second on a slow way: a hundredth of what an agent's start takes would be too few for TLS.
const SLOW: u32 = 8;
/// How long the API server is cut off or silent, or turns away.
const BAD: Duration = Duration::from_secs(6);
/// Until an agent has done something, once it can.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// HTTP status "Too Many Requests".
const TURNED_AWAY: u64 = 429;

/// Runs these checks and tells `report` of each as it begins and ends. The last one takes a minute, and is left out when
/// it has to be `quick`.
pub fn faults(cluster: &Kubernetes, quick: bool, report: &mut dyn FnMut(Report<'_>)) {
    let what = "for the API server's faults";
    let Some(pair) = Pair::begin(cluster, "faulty", what, report) else { return };
    let Some(node) = cluster.node_names().into_iter().nth(1) else { return };
    let faults = Faults { cluster, node, pair };
    check("API server slow", report, || faults.slow());
    check("connections to the API server cut", report, || faults.cut());
    check("API server silent", report, || faults.silent());
    check("API server turns agents away (429)", report, || faults.turned_away());
    check("watch expired (410)", report, || faults.expired());
    if !quick {
        check("agent's token rotated", report, || faults.rotated());
    }
    faults.pair.finish(what, report);
}

struct Faults<'a> {
    cluster: &'a Kubernetes,
    /// Whose agent suffers.
    node: String,
    pair: Pair<'a>,
}

impl Faults<'_> {
    /// The agent goes on, slowly.
    fn slow(&self) -> Result<String, Failed> {
        self.under_ping(|| {
            let _slow = self.cluster.obstruct(&self.node, Obstacle::Slow(SLOW))?;
            Ok(format!("{SLOW} packets a second: a change is seen and answered {}", self.answer()?))
        })
    }

    fn cut(&self) -> Result<String, Failed> {
        self.after(Obstacle::Cut)
    }

    fn silent(&self) -> Result<String, Failed> {
        self.after(Obstacle::Silent)
    }

    /// What has changed meanwhile is made up for.
    fn after(&self, obstacle: Obstacle) -> Result<String, Failed> {
        self.under_ping(|| {
            let obstructed = self.cluster.obstruct(&self.node, obstacle)?;
            self.ask()?;
            std::thread::sleep(BAD);
            self.is_unanswered()?;
            drop(obstructed);
            Ok(format!("for {}; made up for {}", Short(BAD), self.wait_for_answer()?))
        })
    }

    /// Agents that are turned away stay, ask again, and get on when they are let in.
    fn turned_away(&self) -> Result<String, Failed> {
        let before = self.restarts()?;
        let told = self.under_ping(|| {
            let already = self.count(TURNED_AWAY)?;
            let mut starved = self.cluster.starve_agents()?;
            // What has begun goes on: all that is asked for from now on is turned away.
            for node in self.cluster.node_names() {
                self.cluster.abort_connections(&node)?;
            }
            self.ask()?;
            std::thread::sleep(BAD);
            self.is_unanswered()?;
            let full = starved.is_full();
            drop(starved);
            let again = self.wait_for_answer()?;
            match self.count(TURNED_AWAY)? - already {
                times if times > 1 && full => Ok(format!("{times} times; let in again, made up for {again}")),
                times => Err(Failed(format!("agents were turned away {times} times"))),
            }
        })?;
        match self.restarts()? == before {
            true => Ok(told),
            false => Err(Failed(format!("agents were restarted meanwhile; {told}"))),
        }
    }

    /// A watch that cannot be taken up where it was left is begun anew.
    fn expired(&self) -> Result<String, Failed> {
        let (pod, lists) = (self.agent()?, self.lists()?);
        let logged = self.log(&pod)?.lines().count();
        let told = self.under_ping(|| {
            let silent = self.cluster.obstruct(&self.node, Obstacle::Silent)?;
            self.ask()?;
            self.cluster.forget_the_past()?;
            self.is_unanswered()?;
            // Before anything comes through that was sent again and again.
            self.cluster.abort_connections(&self.node)?;
            drop(silent);
            Ok(format!("made up for {}", self.wait_for_answer()?))
        })?;
        let log = self.log(&pod)?;
        let said = log.lines().skip(logged).find(|line| line.contains("Expired"));
        let said =
            said.ok_or_else(|| Failed(format!("the agent's log does not say that a watch expired; {told}")))?;
        match self.lists()? - lists {
            0 => Err(Failed(format!("the agent has listed nothing anew; {told}"))),
            lists => Ok(format!("{lists} lists anew, {told}; log: {}", excerpt(said))),
        }
    }

    /// The kubelet replaces a token long before it ends; here that is done in its place. Its least lifetime is ten minutes,
    /// so that the old one is refused is not seen.
    fn rotated(&self) -> Result<String, Failed> {
        let pod = self.agent()?;
        let token = self.cluster.replace_token(&self.node, &pod, "selvedge-agent", "selvedge-system")?;
        let begun = Instant::now();
        process::wait_every(Duration::from_secs(1), "the agent to show its new token", PATIENCE * 2, || {
            // The kubelet may put its own back.
            let _ = token.put();
            let _ = self.ask();
            asked(self.cluster).is_ok_and(|all| {
                all.iter().any(|asked| {
                    asked.pod == pod && asked.credential == token.credential() && asked.code == 200
                })
            })
        })?;
        self.wait_for_answer()?;
        Ok(format!("shown {} after it was there", Short(begun.elapsed())))
    }

    fn under_ping(&self, work: impl FnOnce() -> Result<String, Failed>) -> Result<String, Failed> {
        let mut told = String::new();
        let (ping, took) = self.pair.during(|| {
            told = work()?;
            Ok(())
        })?;
        Ok(format!("{told}; {}", nothing_lost(&ping, took)?))
    }

    /// Sets the condition, and waits until the agent has cleared it.
    fn answer(&self) -> Result<String, Failed> {
        self.ask()?;
        self.wait_for_answer()
    }

    /// Sets the condition.
    fn ask(&self) -> Result<(), Failed> {
        let condition = json!([{"type": "NetworkUnavailable", "status": "True", "reason": "Asked"}]);
        let patch = json!({"status": {"conditions": condition}}).to_string();
        self.cluster.kubectl(&["patch", "node", &self.node, "--subresource=status", "--patch", &patch])?;
        Ok(())
    }

    fn wait_for_answer(&self) -> Result<String, Failed> {
        let begun = Instant::now();
        let cleared = || self.condition().is_ok_and(|status| status == "False");
        process::wait_every(LOOK, "the agent to clear the condition of its Node", PATIENCE, cleared)?;
        Ok(format!("after {}", Short(begun.elapsed())))
    }

    /// Or else what was to be in the way was not.
    fn is_unanswered(&self) -> Result<(), Failed> {
        match self.condition()?.as_str() {
            "True" => Ok(()),
            _ => Err(Failed("the agent was reached by what should not have reached it".into())),
        }
    }

    fn condition(&self) -> Result<String, Failed> {
        let node = get(self.cluster, &["get", "node", &self.node])?;
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let found = conditions.find(|condition| condition["type"] == "NetworkUnavailable");
        Ok(found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned())
    }

    /// The node's agent.
    fn agent(&self) -> Result<String, Failed> {
        Ok(self.cluster.agent_on(&self.node)?)
    }

    fn log(&self, pod: &str) -> Result<String, Failed> {
        Ok(self.cluster.kubectl(&["logs", "--namespace=selvedge-system", pod])?)
    }

    fn agents(&self) -> Result<Value, Failed> {
        let selector = "--selector=app.kubernetes.io/component=agent";
        get(self.cluster, &["get", "pods", "--namespace=selvedge-system", selector])
    }

    /// Names of all agents, and how often each was restarted.
    fn restarts(&self) -> Result<Vec<(Value, Value)>, Failed> {
        let agents = self.agents()?;
        let read = |pod: &Value| {
            let restarts = pod["status"]["containerStatuses"][0]["restartCount"].clone();
            (pod["metadata"]["name"].clone(), restarts)
        };
        Ok(agents["items"].as_array().into_iter().flatten().map(read).collect())
    }

    /// How often agents have had such an answer.
    fn count(&self, code: u64) -> Result<usize, Failed> {
        Ok(asked(self.cluster)?.iter().filter(|asked| asked.code == code).count())
    }

    /// How often the node's agent has listed Nodes.
    fn lists(&self) -> Result<usize, Failed> {
        let pod = self.agent()?;
        Ok(asked(self.cluster)?.iter().filter(|asked| asked.pod == pod && asked.lists).count())
    }
}

/// What went wrong, of a line of the log.
fn excerpt(line: &str) -> String {
    let error = line.split_once("error=").map_or(line, |(_, error)| error);
    error.chars().take(100).collect()
}
