//! Which nodes an operation concerns, and how fast it goes.

use std::time::Duration;

use serde::Serialize;

use super::fleet::Fleet;

/// Events of Nodes that a rotation may cause the API server to deliver in a second, if nothing else is wished: every agent
/// watches all Nodes, so a write to one Node is one event for each.
pub const EVENTS_PER_SECOND: usize = 5000;
/// Writes to its Node that one rotation takes: the next key, and its promotion.
pub const NODE_WRITES: usize = 2;
/// Writes to its KeyRotation that one rotation takes, without those that count peers: the request, the release, and the states
/// Preparing, Confirming, Retiring and Rotated.
pub const ROTATION_WRITES: usize = 6;
/// How long one rotation takes if all peers answer.
pub const ONE: Duration = Duration::from_secs(25);
/// With fewer nodes at once nothing would be gained.
const MOST_AT_ONCE: usize = 100;

/// A node that does not take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Its name.
    pub node: String,
    /// Why.
    pub reason: String,
}

/// What a rotation would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationPlan {
    /// The nodes whose keys are rotated, in this order.
    pub nodes: Vec<String>,
    /// The others that were asked for.
    pub skipped: Vec<Skipped>,
    /// How many rotate at once.
    pub max_parallel: usize,
    /// Least time between the beginnings of two rotations, in milliseconds.
    pub interval_millis: u64,
    /// Writes to Node objects.
    pub node_writes: usize,
    /// Events that the API server delivers for these, to all agents together.
    pub node_events: usize,
    /// Writes to KeyRotation objects, without those that count peers.
    pub rotation_writes: usize,
    /// About how long all of it takes, in seconds, if all peers answer.
    pub seconds: u64,
}

impl OperationPlan {
    /// Of the nodes of these names, or of all members. `max_parallel`: how many at once, if that is wished.
    #[must_use]
    pub fn of(fleet: &Fleet, names: Option<&[String]>, max_parallel: Option<usize>) -> Self {
        let (mut nodes, mut skipped) = (Vec::new(), Vec::new());
        let members = || fleet.nodes.iter().map(|node| node.node.clone());
        let mut asked: Vec<String> = names.map_or_else(|| members().collect(), <[String]>::to_vec);
        asked.sort();
        asked.dedup();
        for node in asked {
            match obstacle(fleet, &node) {
                Some(reason) => skipped.push(Skipped { node, reason }),
                None => nodes.push(node),
            }
        }
        Self { skipped, ..Self::paced(nodes, fleet.agents, max_parallel) }
    }

    /// Of these nodes, whatever is asked of them now.
    #[must_use]
    pub fn paced(nodes: Vec<String>, agents: usize, max_parallel: Option<usize>) -> Self {
        let interval = interval(agents);
        let fitting = ONE.as_millis().div_ceil(interval.as_millis().max(1));
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX).clamp(1, MOST_AT_ONCE);
        let max_parallel = max_parallel.unwrap_or(fitting).max(1);
        let count = nodes.len();
        let rounds = u32::try_from(count.div_ceil(max_parallel)).unwrap_or(u32::MAX);
        let last_begins = interval * u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        let time = if count == 0 { Duration::ZERO } else { (ONE * rounds).max(last_begins + ONE) };
        Self {
            nodes,
            skipped: Vec::new(),
            max_parallel,
            interval_millis: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            node_writes: NODE_WRITES * count,
            node_events: NODE_WRITES * count * agents,
            rotation_writes: ROTATION_WRITES * count,
            seconds: time.as_secs(),
        }
    }

    /// Least time between the beginnings of two rotations.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_millis)
    }
}

/// One rotation's events in a second's budget.
fn interval(agents: usize) -> Duration {
    let events = u64::try_from(NODE_WRITES * agents).unwrap_or(u64::MAX);
    let budget = u64::try_from(EVENTS_PER_SECOND).unwrap_or(1);
    Duration::from_millis(events.saturating_mul(1000).div_ceil(budget))
}

/// Why the keys of this node cannot be rotated now.
fn obstacle(fleet: &Fleet, node: &str) -> Option<String> {
    let Some(found) = fleet.nodes.iter().find(|other| other.node == node) else {
        return Some("the Node does not exist, or Selvedge does not run on it".into());
    };
    if let Err(error) = &found.key {
        return Some(format!("its annotations cannot be read: {error}"));
    }
    let other = fleet.rotations.get(node).filter(|rotation| !rotation.is_over())?;
    let operation = &other.spec.operation;
    Some(match other.spec.hold {
        true => format!("operation {operation} waits for its turn there; resume or abort that first"),
        false => format!("operation {operation} is running there"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::fleet::NodeKey;
    use super::*;
    use crate::resource::key_rotation::KeyRotationState;
    use crate::resource::key_rotation::tests::rotation;

    fn fleet(count: usize) -> Fleet {
        let node = |number| NodeKey { node: format!("n{number}"), key: Ok((1, None)) };
        Fleet { agents: count, nodes: (0..count).map(node).collect(), ..Fleet::default() }
    }

    #[test]
    fn the_default_pace_keeps_within_the_budget() {
        for count in [1, 3, 50, 200, 1000, 5000, 20_000] {
            let plan = OperationPlan::of(&fleet(count), None, None);
            let events = NODE_WRITES * count;
            let per_second = events as f64 / plan.interval().as_secs_f64().max(1e-9);
            assert!(per_second <= EVENTS_PER_SECOND as f64, "{count}: {per_second}");
            assert_eq!(plan.node_events, NODE_WRITES * count * count);
        }
        let plan = OperationPlan::of(&fleet(5000), None, None);
        assert_eq!((plan.max_parallel, plan.interval_millis, plan.seconds), (13, 2000, 10_023));
        let plan = OperationPlan::of(&fleet(5), None, None);
        assert_eq!((plan.max_parallel, plan.seconds), (100, 25));
        let plan = OperationPlan::of(&fleet(5), None, Some(2));
        assert_eq!((plan.max_parallel, plan.seconds), (2, 75));
    }

    #[test]
    fn who_cannot_take_part_is_named_with_the_reason() {
        let mut fleet = fleet(4);
        fleet.nodes[1].key = Err("no".into());
        fleet.rotations = [
            ("n0".to_owned(), rotation("r-0", false, Some(KeyRotationState::Confirming))),
            ("n2".to_owned(), rotation("r-2", true, None)),
            ("n3".to_owned(), rotation("r-3", false, Some(KeyRotationState::Rotated))),
        ]
        .into();
        let plan = OperationPlan::of(&fleet, None, None);
        assert_eq!(plan.nodes, ["n3"]);
        let reasons: Vec<_> = plan.skipped.iter().map(|it| (it.node.as_str(), it.reason.as_str())).collect();
        assert!(
            matches!(
                reasons[..],
                [("n0", zero), ("n1", one), ("n2", two)]
                    if zero.contains("r-0 is running") && one.contains("no") && two.contains("r-2 waits")
            ),
            "{reasons:?}"
        );
        let plan = OperationPlan::of(&fleet, Some(&["n9".into(), "n3".into(), "n3".into()]), None);
        assert_eq!((plan.nodes.len(), plan.skipped.len()), (1, 1));
    }
}
