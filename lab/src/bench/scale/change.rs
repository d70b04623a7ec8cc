//! How long a change of the cluster takes to be in force on the node.

use std::time::{Duration, Instant};

use super::tunnel::{LOOK, Peers};
use super::{Delays, Options};
use crate::api::Store;
use crate::api::resource::NODES;
use crate::bench::Figures;
use crate::error::{Doing as _, Error};

use super::member::Member;

/// Between two changes.
const INTERVAL: Duration = Duration::from_millis(200);
/// A change that the tunnel has not got so long after the last one counts as missing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where members listen once they have moved: the first of them, the others on the ports after it.
const MOVED: u16 = 40_000;

/// Members move to other ports.
pub(super) fn moves(
    options: &Options,
    members: &[Member],
    store: &Store,
    peers: &mut Peers<'_>,
) -> Result<Delays, Error> {
    // From all over the cluster, whatever the order of names means to the agent.
    let step = (members.len() / options.changes.max(1)).max(1);
    let chosen: Vec<&Member> = members.iter().step_by(step).take(options.changes).collect();
    time(&chosen, peers, |member, port| {
        store.patch(&NODES, "", &member.name, &member.moved(port)).map(drop).doing("change a Node")
    })
}

/// New members join, with all that they publish.
pub(super) fn joins(
    options: &Options,
    members: &[Member],
    store: &Store,
    peers: &mut Peers<'_>,
) -> Result<Delays, Error> {
    let first = u32::try_from(members.len()).unwrap_or(u32::MAX);
    let joining: Vec<Member> = (first..).take(options.changes).map(Member::new).collect();
    let joining: Vec<&Member> = joining.iter().collect();
    time(&joining, peers, |member, port| {
        let mut node = member.object();
        json_patch::merge(&mut node, &member.moved(port));
        store.create(&NODES, node).map(drop).doing("create a Node")
    })
}

/// Changes of which the tunnel has not got the outcome yet.
struct Waiting<'a> {
    member: &'a Member,
    /// An endpoint that is new, and this member's alone.
    sign: String,
    since: Instant,
}

/// Has `change` make one change after another, and notes when the tunnel has each: `change` takes the member and the port
/// on which it listens from then on.
fn time(
    members: &[&Member],
    peers: &mut Peers<'_>,
    change: impl Fn(&Member, u16) -> Result<(), Error>,
) -> Result<Delays, Error> {
    let mut times = Vec::new();
    let mut waiting: Vec<Waiting<'_>> = Vec::new();
    let mut next = members.iter().zip(MOVED..).peekable();
    // When the next change is made, and in the end when the last one was.
    let mut due = Instant::now();
    while next.peek().is_some() || (!waiting.is_empty() && Instant::now() < due + PATIENCE) {
        if Instant::now() >= due
            && let Some((member, port)) = next.next()
        {
            let sign = member.endpoints(port)[0].to_string();
            waiting.push(Waiting { member, sign, since: Instant::now() });
            change(member, port)?;
            due += INTERVAL;
        }
        peers.refresh();
        waiting.retain(|one| {
            let there = peers.has(&one.member.name, &one.sign);
            if there {
                times.push(one.since.elapsed());
            }
            !there
        });
        std::thread::sleep(LOOK);
    }
    let missing = waiting.len();
    Ok(Delays::new(&Figures::of(&times), times.len(), missing))
}
