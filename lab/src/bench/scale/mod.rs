//! What one agent costs in a cluster of thousands of Nodes, and how fast it reacts there.
//!
//! The agent and its tunnel are the real processes, on a node in namespaces. The other members exist as Node objects
//! only, in the lab's API server, which runs in this process. Their heartbeats are simulated; as peers they never answer.

mod change;
mod heartbeat;
mod managed;
mod member;
mod object;
mod outcome;
mod report;
mod stage;
mod tunnel;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use outcome::{Applied, Delays, Outcome, Rest, Served, Start};
pub use report::table;

use crate::bench::usage;
use crate::error::Error;
use crate::process;
use heartbeat::Heartbeats;
use member::Member;
use stage::Stage;
use tunnel::Peers;

/// Limit of the address plan, including the Nodes that join.
pub const MOST_NODES: u32 = member::MOST;
/// Pause between a start and the measurement at rest.
const SETTLE: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of Nodes beside the agent's own.
    pub nodes: u32,
    /// Length of the measurement at rest.
    pub rest: Duration,
    /// Time from one heartbeat of a Node to its next.
    pub heartbeat: Duration,
    /// Number of changes of each kind.
    pub changes: usize,
    /// How long the agent may take to be ready.
    pub limit: Duration,
    /// Folder for the node's disk and for logs.
    pub folder: PathBuf,
    /// The `selvedge` binary.
    pub selvedge: PathBuf,
}

/// Runs all measurements for one number of Nodes. The calling process becomes the control plane, in the network
/// namespace that it is in. `say` reports progress.
///
/// # Errors
/// The node could not be built, or a Node object could not be written. That the agent does not get ready is not an
/// error: the outcome says so, and what would have followed is not measured.
pub fn measure(options: &Options, say: &dyn Fn(&str)) -> Result<Outcome, Error> {
    say(&format!("{} Nodes: storing them", options.nodes));
    let members: Vec<Member> = (0..options.nodes).map(Member::new).collect();
    let stage = Stage::build(options, &members)?;
    let own = stage.node.name().to_owned();
    let names = members.iter().map(|member| member.name.clone()).chain([own]).collect();
    let _heartbeats = Heartbeats::start(stage.store().clone(), names, options.heartbeat);
    stage.start_tunnel()?;
    let mut outcome = Outcome::new(options);

    say("first start of the agent, without records");
    outcome.first = start(&stage, options)?;
    if let Some(why) = &outcome.first.unready {
        say(&format!("not ready: {why}\n{}", process::tail(stage.node.agent.log(), 5)));
        return Ok(outcome);
    }
    stage.node.agent.stop();
    say("restart, with records on disk");
    let again = start(&stage, options)?;
    let ready = again.unready.is_none();
    outcome.restart = Some(again);
    if !ready {
        return Ok(outcome);
    }
    std::thread::sleep(SETTLE);
    say(&format!("at rest for {:?}", options.rest));
    outcome.rest = Some(rest(&stage, options.rest));

    let known = members.first().map(|member| member.name.as_str()).unwrap_or_default();
    let mut peers = Peers::of(&stage.paths(), known, &stage.runtime);
    outcome.observed_through = peers.name().to_owned();
    say(&format!("{} Nodes change their endpoints", options.changes));
    let before = stage.served();
    let moves = change::moves(options, &members, stage.store(), &mut peers)?;
    outcome.moves = Some(Delays { served: Served::since(&before, stage.served()), ..moves });
    say(&format!("{} Nodes join", options.changes));
    let before = stage.served();
    let joins = change::joins(options, &members, stage.store(), &mut peers)?;
    outcome.joins = Some(Delays { served: Served::since(&before, stage.served()), ..joins });
    outcome.applied = Applied::read(&stage.metrics());
    outcome.agent_peak_kib = usage::memory(&stage.node.agent).peak;
    Ok(outcome)
}

fn start(stage: &Stage, options: &Options) -> Result<Start, Error> {
    let before = stage.served();
    let waited = stage.start_agent(options.limit)?;
    let agent = &stage.node.agent;
    Ok(Start {
        seconds: waited.as_ref().ok().map(Duration::as_secs_f64),
        unready: waited.err(),
        served: Served::since(&before, stage.served()),
        agent_cpu_seconds: usage::cpu(agent).as_secs_f64(),
        agent_peak_kib: usage::memory(agent).peak,
    })
}

fn rest(stage: &Stage, time: Duration) -> Rest {
    let (agent, tunnel) = (&stage.node.agent, &stage.node.tunnel);
    let (served, cpu, begun) = (stage.served(), [agent, tunnel].map(usage::cpu), Instant::now());
    std::thread::sleep(time);
    let used = [agent, tunnel].map(usage::cpu);
    let seconds = begun.elapsed().as_secs_f64();
    let [agent_cpu_seconds, tunnel_cpu_seconds] =
        [0, 1].map(|which| used[which].saturating_sub(cpu[which]).as_secs_f64());
    Rest {
        seconds,
        agent_cpu_seconds,
        tunnel_cpu_seconds,
        served: Served::since(&served, stage.served()),
        agent_kib: usage::memory(agent).now,
        tunnel_kib: usage::memory(tunnel).now,
    }
}
