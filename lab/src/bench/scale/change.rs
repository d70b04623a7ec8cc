//! Changes of Nodes, each timed from the write in the API server's store until the tunnel has the peer's new state.

use std::time::{Duration, Instant};

use super::member::Member;
use super::object;
use super::tunnel::{LOOK, Peers};
use super::{Delays, Options};
use crate::api::Store;
use crate::api::resource::NODES;
use crate::error::{Doing as _, Error};

/// Pause between two changes.
const INTERVAL: Duration = Duration::from_millis(200);
/// A change counts as missing when the tunnel does not have it this long after the last change.
const PATIENCE: Duration = Duration::from_secs(60);
/// Port on which the first changed member listens; each further one listens on the next port.
const MOVED: u16 = 40_000;

/// Members change the port in their `endpoints` annotation.
pub(super) fn moves(
    options: &Options,
    members: &[Member],
    store: &Store,
    peers: &mut Peers<'_>,
) -> Result<Delays, Error> {
    // Spread over the cluster, in case the order of names matters to the agent.
    let step = (members.len() / options.changes.max(1)).max(1);
    let chosen: Vec<&Member> = members.iter().step_by(step).take(options.changes).collect();
    time(&chosen, peers, |member, port| {
        store.patch(&NODES, "", &member.name, &member.moved(port)).map(drop).doing("change a Node")
    })
}

/// New members join: each Node is created complete, with all its annotations.
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
        let mut node = object::node(member);
        json_patch::merge(&mut node, &member.moved(port));
        store.create(&NODES, node).map(drop).doing("create a Node")
    })
}

/// A change that the tunnel does not have yet.
struct Waiting<'a> {
    member: &'a Member,
    /// The new endpoints; no other member has one of them.
    signs: Vec<String>,
    since: Instant,
}

/// Makes one change per [`INTERVAL`] and observes the tunnel between them. `change` takes the member and the port on
/// which it listens from then on.
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
            let signs = member.endpoints(port).iter().map(ToString::to_string).collect();
            waiting.push(Waiting { member, signs, since: Instant::now() });
            change(member, port)?;
            due += INTERVAL;
        }
        peers.refresh();
        waiting.retain(|one| {
            let there = peers.has(&one.member.name, &one.signs);
            if there {
                times.push(one.since.elapsed());
            }
            !there
        });
        std::thread::sleep(LOOK);
    }
    Ok(Delays::new(&times, waiting.len()))
}
