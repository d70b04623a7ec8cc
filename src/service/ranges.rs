//! The ranges of cluster IPs: the configured ones, and those that ServiceCIDR objects add while the agent runs.
//!
//! What is a Service's is protected, and what is protected is cut off from the internet and from the nodes' own network. So a range
//! that was accepted stays, whatever becomes of its object, and one that could cut off more than Services is refused.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::range;

/// Ranges beside the configured ones.
pub const MOST: usize = 64;
/// The shortest prefix of IPv4 and of IPv6: the most that API servers took as a range of Services before they had ServiceCIDRs,
/// and the most that they take as one of IPv6 now.
const SHORTEST: (u8, u8) = (12, 64);

/// What no range of Services has an address of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Apart {
    /// Where pods are.
    pub pods: Vec<IpNet>,
    /// What the configuration has outside of the cluster: `trustedSources`, `nonMasqueradeCIDRs`.
    pub outside: Vec<IpNet>,
    /// Addresses of nodes, and of API servers.
    pub hosts: BTreeSet<IpAddr>,
}

/// Why a range is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("not a prefix")]
    NoPrefix,
    /// It has more addresses than a range of Services can have.
    #[error("larger than /{0}; if it is meant, add it to serviceCIDRs")]
    TooLarge(u8),
    /// No Service can be there.
    #[error("touches the {0} range")]
    Special(&'static str),
    /// Pods are there.
    #[error("overlaps {0} of clusterPodCIDRs")]
    Pods(IpNet),
    /// The configuration says that this is not the cluster's.
    #[error("overlaps {0} of trustedSources or nonMasqueradeCIDRs")]
    Outside(IpNet),
    /// A node or an API server is there.
    #[error("contains {0}, an address of a node or an API server")]
    Host(IpAddr),
    /// There are enough.
    #[error("there are {MOST} ranges already; add it to serviceCIDRs")]
    TooMany,
}

/// A range that an object has and that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Name of the object.
    pub object: String,
    /// The range, as the object has it.
    pub range: String,
    /// Why.
    pub why: Refusal,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of ServiceCIDR {}: {}", self.range, self.object, self.why)
    }
}

/// All ranges of cluster IPs. None is ever taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    configured: Vec<IpNet>,
    found: BTreeSet<IpNet>,
    /// Of those found, the ones that an object had since the start.
    seen: BTreeSet<IpNet>,
}

impl Ranges {
    /// The configured ranges, and of those that are remembered the ones that can still be.
    #[must_use]
    pub fn new(configured: Vec<IpNet>, remembered: impl IntoIterator<Item = IpNet>, apart: &Apart) -> Self {
        let mut ranges = Self { configured, ..Self::default() };
        for range in remembered {
            // What is configured now needs no memory.
            if !ranges.is_configured(&range) && ranges.refusal(&range, apart).is_none() {
                ranges.found.insert(range);
            }
        }
        ranges
    }

    /// Takes the ranges of all objects that there are: (name, ranges). Returns those that are refused.
    pub fn take<'a>(
        &mut self,
        objects: impl IntoIterator<Item = (&'a str, &'a [String])>,
        apart: &Apart,
    ) -> Vec<Refused> {
        let mut refused = Vec::new();
        for (object, texts) in objects {
            for text in texts {
                if let Err(why) = self.take_one(text, apart) {
                    refused.push(Refused { object: object.to_owned(), range: shown(text), why });
                }
            }
        }
        refused
    }

    fn take_one(&mut self, text: &str, apart: &Apart) -> Result<(), Refusal> {
        let range = text.parse::<IpNet>().map_err(|_| Refusal::NoPrefix)?.trunc();
        if self.is_configured(&range) {
            return Ok(());
        }
        if !self.found.contains(&range)
            && let Some(why) = self.refusal(&range, apart)
        {
            return Err(why);
        }
        self.found.insert(range);
        self.seen.insert(range);
        Ok(())
    }

    /// The configured ranges first, then those that lie in no other.
    #[must_use]
    pub fn all(&self) -> Vec<IpNet> {
        let lies_in = |range: &IpNet, other: &IpNet| other != range && other.contains(range);
        let is_inner =
            |range: &&IpNet| self.found.iter().chain(&self.configured).any(|other| lies_in(range, other));
        let found = self.found.iter().filter(|range| !is_inner(range));
        self.configured.iter().chain(found).copied().collect()
    }

    /// What the next agent has to know, once all objects were taken: the ranges that an object had since the start.
    #[must_use]
    pub fn to_remember(&self) -> &BTreeSet<IpNet> {
        &self.seen
    }

    fn is_configured(&self, range: &IpNet) -> bool {
        self.configured.iter().any(|configured| configured.contains(range))
    }

    fn refusal(&self, range: &IpNet, apart: &Apart) -> Option<Refusal> {
        let shortest = if range.addr().is_ipv4() { SHORTEST.0 } else { SHORTEST.1 };
        if range.prefix_len() < shortest {
            return Some(Refusal::TooLarge(shortest));
        }
        let overlapping = |nets: &[IpNet]| nets.iter().find(|net| range::overlap(range, net)).copied();
        let special = || range::special_in(range).map(Refusal::Special);
        let pods = || overlapping(&apart.pods).map(Refusal::Pods);
        let outside = || overlapping(&apart.outside).map(Refusal::Outside);
        // The API server may be known by the cluster IP that it has.
        let is_host = |host: &&IpAddr| range.contains(*host) && !self.is_configured(&IpNet::from(**host));
        let host = || apart.hosts.iter().find(is_host).copied().map(Refusal::Host);
        let too_many = || (self.found.len() >= MOST).then_some(Refusal::TooMany);
        special().or_else(pods).or_else(outside).or_else(host).or_else(too_many)
    }
}

/// As much of a text as a prefix has.
fn shown(text: &str) -> String {
    text.chars().take(50).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| net(text)).collect()
    }

    fn configured() -> Vec<IpNet> {
        nets(&["10.96.0.0/16", "fd00:10:96::/112"])
    }

    fn apart() -> Apart {
        Apart {
            pods: nets(&["10.244.0.0/16"]),
            outside: nets(&["192.0.2.0/24"]),
            hosts: ["172.31.1.2", "10.96.0.1"].map(|text| text.parse().unwrap()).into(),
        }
    }

    fn take(ranges: &mut Ranges, texts: &[&str]) -> Vec<Refused> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        ranges.take([("more", &texts[..])], &apart())
    }

    #[test]
    fn ranges_join_the_configured_ones_and_stay() {
        let mut ranges = Ranges::new(configured(), [], &apart());
        assert_eq!(ranges.all(), configured());
        let inside = ["10.96.0.0/16", "10.96.4.0/24", "fd00:10:96::/112"];
        assert_eq!((take(&mut ranges, &inside), ranges.all()), (Vec::new(), configured()));
        assert_eq!(take(&mut ranges, &["10.97.0.0/24", "fd00:10:97::/112"]), []);
        let joined = [configured(), nets(&["10.97.0.0/24", "fd00:10:97::/112"])].concat();
        assert_eq!(ranges.all(), joined);
        assert_eq!((take(&mut ranges, &[]), ranges.all()), (Vec::new(), joined));
        // A larger range around the configured one, in which the API server has its cluster IP.
        assert_eq!(take(&mut ranges, &["10.96.0.0/12"]), []);
        assert_eq!(ranges.all(), [configured(), nets(&["10.96.0.0/12", "fd00:10:97::/112"])].concat());
    }

    #[test]
    fn what_would_cut_off_more_than_services_is_refused() {
        for (range, why) in [
            ("x", "not a prefix"),
            ("10.97.0.1", "not a prefix"),
            ("0.0.0.0/0", "larger than /12; if it is meant, add it to serviceCIDRs"),
            ("8.0.0.0/11", "larger than /12; if it is meant, add it to serviceCIDRs"),
            ("::/0", "larger than /64; if it is meant, add it to serviceCIDRs"),
            ("2001:db8::/63", "larger than /64; if it is meant, add it to serviceCIDRs"),
            ("127.0.0.0/24", "touches the loopback range"),
            ("169.254.0.0/16", "touches the link-local range"),
            ("224.0.0.0/24", "touches the multicast range"),
            ("::ffff:10.0.0.0/120", "touches the IPv4-mapped range"),
            ("10.244.3.0/24", "overlaps 10.244.0.0/16 of clusterPodCIDRs"),
            ("10.240.0.0/12", "overlaps 10.244.0.0/16 of clusterPodCIDRs"),
            ("192.0.2.8/29", "overlaps 192.0.2.0/24 of trustedSources or nonMasqueradeCIDRs"),
            ("172.31.1.0/24", "contains 172.31.1.2, an address of a node or an API server"),
        ] {
            let mut ranges = Ranges::new(configured(), [], &apart());
            let refused = take(&mut ranges, &[range]);
            let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
            assert_eq!(told, [format!("{range} of ServiceCIDR more: {why}")]);
            assert_eq!(ranges.all(), configured(), "{range}");
            // Nor does it come from the disk.
            let remembered = range.parse::<IpNet>().into_iter();
            assert_eq!(Ranges::new(configured(), remembered, &apart()).all(), configured(), "{range}");
        }
    }

    #[test]
    fn there_is_a_bound_and_what_is_there_stays_there() {
        let mut ranges = Ranges::new(configured(), [], &apart());
        let many: Vec<String> = (0..70).map(|n| format!("10.97.{n}.0/24")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refused = take(&mut ranges, &many);
        assert!(refused.len() == 6 && refused.iter().all(|it| it.why == Refusal::TooMany), "{refused:?}");
        assert_eq!(take(&mut ranges, &many[..MOST]), [], "again");
        assert_eq!(ranges.all().len(), configured().len() + MOST);
    }

    #[test]
    fn a_range_without_object_is_forgotten_by_the_second_agent() {
        let mut first = Ranges::new(configured(), [], &apart());
        assert_eq!(take(&mut first, &["10.97.0.0/24", "10.98.0.0/24"]), []);
        // Its object is deleted.
        assert_eq!(take(&mut first, &["10.98.0.0/24"]), []);
        assert_eq!(first.to_remember().len(), 2);
        let mut second = Ranges::new(configured(), first.to_remember().clone(), &apart());
        assert_eq!(second.all(), first.all(), "before any list");
        assert_eq!(take(&mut second, &["10.98.0.0/24"]), []);
        assert_eq!(second.all(), first.all());
        let third = Ranges::new(configured(), second.to_remember().clone(), &apart());
        assert_eq!(third.all(), [configured(), nets(&["10.98.0.0/24"])].concat());
    }

    #[test]
    fn what_a_node_has_taken_meanwhile_stays_a_range() {
        let mut ranges = Ranges::new(configured(), [], &apart());
        assert_eq!(take(&mut ranges, &["10.97.0.0/24"]), []);
        let text = ["10.97.0.0/24".to_owned()];
        let hosts = ["10.97.0.9".parse().unwrap()].into();
        assert_eq!(ranges.take([("more", &text[..])], &Apart { hosts, ..apart() }), []);
    }
}
