//! What is reported about Services as Events, and which nodes report it.
//!
//! Every agent sees the same refusals. So that 5,000 of them do not write 5,000 Events, two write for each Service, which all agents
//! agree on without a word: those whose names rank highest with the Service's UID (rendezvous hashing). The name of the Event
//! follows from its content, so the second write finds the first one's Event there.

use std::collections::BTreeMap;

use super::object::ServiceName;

/// Nodes that write Events about one Service: two, because one may be down.
const WRITERS: usize = 2;
/// Events about the same that nodes write each for itself: as many as this for all nodes together.
const OF_NODES: u64 = 8;
/// Targets that an Event names.
const SHOWN: usize = 5;

/// Something about a Service that an Event says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// The Service.
    pub service: ServiceName,
    /// Its UID.
    pub uid: String,
    /// The Event's reason.
    pub reason: Reason,
    /// For people.
    pub note: String,
}

/// Why something is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It asks for an address that no Service gets.
    AddressWithheld,
    /// It asks for an address that another Service has.
    AddressTaken,
    /// Its health check port is not held on a node.
    HealthCheckPortNotHeld,
}

impl Reason {
    /// As the Event has it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::AddressWithheld => "AddressWithheld",
            Self::AddressTaken => "AddressTaken",
            Self::HealthCheckPortNotHeld => "HealthCheckPortNotHeld",
        }
    }
}

impl Report {
    /// The Event's name, when this node writes it: the same on every node, but for what each node reports for itself.
    #[must_use]
    pub fn event_name(&self, node: &str) -> String {
        let of_node = match self.reason {
            Reason::HealthCheckPortNotHeld => hash(node) % OF_NODES,
            Reason::AddressWithheld | Reason::AddressTaken => 0,
        };
        let content = hash(&format!("{} {} {} {of_node}", self.uid, self.reason.label(), self.note));
        format!("{}.{content:016x}", self.service.name)
    }
}

/// Names of nodes, to rank them for Services.
#[derive(Debug)]
pub struct Ranking {
    own: (u64, String),
    others: BTreeMap<String, u64>,
}

impl Ranking {
    /// Of this node and the `others`.
    #[must_use]
    pub fn new<'a>(own: &str, others: impl IntoIterator<Item = &'a str>) -> Self {
        let others = others.into_iter().map(|name| (name.to_owned(), hash(name))).collect();
        Self { own: (hash(own), own.to_owned()), others }
    }

    /// Whether this node is one of those that write Events about what all nodes see of the Service with this UID.
    #[must_use]
    pub fn is_writer(&self, uid: &str) -> bool {
        let uid = hash(uid);
        let own = (mixed(uid ^ self.own.0), &self.own.1);
        let before = self.others.iter().filter(|(name, hash)| (mixed(uid ^ **hash), *name) > own);
        before.take(WRITERS).count() < WRITERS
    }
}

/// A list for people, of bounded length.
pub(super) fn listed(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(SHOWN);
    let shown: Vec<String> = items.take(SHOWN).collect();
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// FNV-1a, of 64 bits: all versions of the agent have to agree on it.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Every bit of the result depends on every bit of the number (the finalizer of splitmix64).
fn mixed(number: u64) -> u64 {
    let one = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let two = (one ^ one >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    two ^ two >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(nodes: &[String], uid: &str) -> Vec<String> {
        let is_writer = |own: &&String| {
            let others = nodes.iter().filter(|other| other != own).map(String::as_str);
            Ranking::new(own, others).is_writer(uid)
        };
        nodes.iter().filter(is_writer).cloned().collect()
    }

    #[test]
    fn two_nodes_write_about_each_service_and_all_nodes_take_their_part() {
        let nodes: Vec<String> = (0..20).map(|number| format!("node{number}")).collect();
        let mut written: BTreeMap<String, usize> = BTreeMap::new();
        for service in 0..400 {
            let writers = writers(&nodes, &format!("uid{service}"));
            assert_eq!(writers.len(), 2);
            writers.into_iter().for_each(|node| *written.entry(node).or_default() += 1);
        }
        // 40 each.
        assert!(written.len() == 20 && written.values().all(|count| (15..80).contains(count)), "{written:?}");
        assert_eq!(writers(&nodes[..1], "uid"), nodes[..1]);
    }

    #[test]
    fn a_node_that_goes_gives_up_its_own_services_alone() {
        let nodes: Vec<String> = (0..10).map(|number| format!("node{number}")).collect();
        for service in 0..100 {
            let uid = format!("uid{service}");
            let (before, after) = (writers(&nodes, &uid), writers(&nodes[1..], &uid));
            let stay = before.iter().filter(|node| **node != nodes[0]);
            assert!(stay.clone().all(|node| after.contains(node)), "{before:?} {after:?}");
        }
    }

    #[test]
    fn names_follow_from_the_content() {
        let report = |reason, note: &str| Report {
            service: ServiceName { namespace: "default".into(), name: "web".into() },
            uid: "u".into(),
            reason,
            note: note.into(),
        };
        let (taken, held) = (Reason::AddressTaken, Reason::HealthCheckPortNotHeld);
        let name = |reason, note: &str, node: &str| report(reason, note).event_name(node);
        assert_eq!(name(taken, "a", "node1"), name(taken, "a", "node2"));
        assert_ne!(name(taken, "a", "node1"), name(taken, "b", "node1"));
        // Agents of other versions have the same name for it.
        assert_eq!(name(taken, "a", "node1"), "web.d47e85ab1aab4779");
        let names = (0..1000).map(|number| name(held, "a", &format!("node{number}")));
        assert_eq!(names.collect::<std::collections::BTreeSet<_>>().len(), 8);
    }
}
