//! Which addresses a node has for its pods, and which one is next. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What one pod interface gets: an address of each family that the node has pod CIDRs of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Addresses(Vec<IpAddr>);

impl Addresses {
    /// The addresses.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }

    /// Those that are in one of `nets`: a node may have got other pod CIDRs since it gave them out.
    #[must_use]
    pub fn within(&self, nets: &[IpNet]) -> Self {
        Self(self.iter().filter(|address| nets.iter().any(|net| net.contains(address))).collect())
    }

    /// `10.1.0.2,fd00::2`, for file names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let list = text.split(',').map(str::parse).collect::<Result<Vec<IpAddr>, _>>().ok()?;
        Some(Self(list))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

/// The addresses of a node's pod CIDRs. The n-th of each family go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    nets: Vec<IpNet>,
}

/// The network's own address and the fabric address are never given out.
const FIRST: u32 = 2;
/// No node runs so many pods; it bounds what has to be remembered.
const LIMIT: u32 = 1 << 16;

impl Pool {
    /// The pool of these pod CIDRs, at most one of each family.
    #[must_use]
    pub fn new(pod_cidrs: &[IpNet]) -> Self {
        Self { nets: pod_cidrs.iter().map(IpNet::trunc).collect() }
    }

    /// How many pods fit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.indices().end().saturating_add(1).saturating_sub(FIRST)
    }

    /// The addresses to give out next: of those that nobody had yet the lowest, else of those that came back
    /// (oldest first in `rested`) the one that rests for longest.
    #[must_use]
    pub fn next(&self, taken: &BTreeSet<IpAddr>, rested: &[Addresses]) -> Option<Addresses> {
        let free = |candidate: &Addresses| !candidate.iter().any(|address| taken.contains(&address));
        let resting: BTreeSet<IpAddr> = rested.iter().flat_map(Addresses::iter).collect();
        let fresh = |candidate: &Addresses| !candidate.iter().any(|address| resting.contains(&address));
        let all = || self.indices().map(|index| self.at(index)).filter(free);
        all()
            .find(fresh)
            .or_else(|| rested.iter().find(|old| free(old) && self.has(old)).cloned())
            // Only when the pod CIDRs have changed: a pair of which one rests with another.
            .or_else(|| all().next())
    }

    /// Whether these are a pair of this pool.
    fn has(&self, addresses: &Addresses) -> bool {
        let index =
            self.nets.first().zip(addresses.0.first()).and_then(|(net, address)| index(net, *address));
        index.is_some_and(|index| self.indices().contains(&index) && self.at(index) == *addresses)
    }

    /// Empty (2..=1) if no address is left beside the reserved ones.
    fn indices(&self) -> std::ops::RangeInclusive<u32> {
        let last = self.nets.iter().map(last).min().unwrap_or(0).min(LIMIT);
        FIRST..=last.max(FIRST - 1)
    }

    fn at(&self, index: u32) -> Addresses {
        let address = |net: &IpNet| match net.network() {
            IpAddr::V4(network) => IpAddr::V4((u32::from(network) | index).into()),
            IpAddr::V6(network) => IpAddr::V6((u128::from(network) | u128::from(index)).into()),
        };
        Addresses(self.nets.iter().map(address).collect())
    }
}

/// The last index that may be given out; IPv4 keeps its broadcast address.
fn last(net: &IpNet) -> u32 {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len()).min(31);
    let all = (1u32 << bits) - 1;
    if net.addr().is_ipv4() { all.saturating_sub(1) } else { all }
}

fn index(net: &IpNet, address: IpAddr) -> Option<u32> {
    if !net.contains(&address) {
        return None;
    }
    match (net.network(), address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => Some(u32::from(address) ^ u32::from(network)),
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            u32::try_from(u128::from(address) ^ u128::from(network)).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn pool(nets: &[&str]) -> Pool {
        Pool::new(&nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>())
    }

    fn first(pool: &Pool) -> Option<String> {
        pool.next(&BTreeSet::new(), &[]).map(|addresses| addresses.to_string())
    }

    #[test]
    fn reserved_addresses_are_not_given_out() {
        assert_eq!(first(&pool(&["10.1.0.0/24"])).unwrap(), "10.1.0.2");
        assert_eq!(first(&pool(&["fd00::/64"])).unwrap(), "fd00::2");
        assert_eq!(first(&pool(&["10.1.0.0/24", "fd00::/64"])).unwrap(), "10.1.0.2,fd00::2");
        for (nets, capacity) in [
            (&["10.1.0.0/24"][..], 253),
            (&["10.1.0.0/24", "fd00::/64"], 253),
            (&["10.1.0.0/29"], 5),
            (&["10.1.0.0/30"], 1),
            (&["10.1.0.0/31"], 0),
            (&["10.1.0.0/32"], 0),
            (&["fd00::/127"], 0),
            (&["fd00::/126"], 2),
            (&["fd00::/64"], 65535),
            (&["10.0.0.0/8"], 65535),
            (&["10.1.0.0/24", "fd00::/125"], 6),
        ] {
            assert_eq!(pool(nets).capacity(), capacity, "{nets:?}");
        }
        assert_eq!(first(&pool(&["10.1.0.0/31"])), None);
    }

    #[test]
    fn text_and_back() {
        let addresses = pool(&["10.1.0.0/24", "fd00::/64"]).at(7);
        assert_eq!(Addresses::parse(&addresses.to_string()), Some(addresses));
        assert_eq!(Addresses::parse("10.1.0.2,"), None);
        assert_eq!(Addresses::parse(""), None);
    }

    proptest! {
        /// A node adds and deletes pods at random; its pod CIDRs may change in between.
        #[test]
        fn nobody_shares_and_the_longest_rested_is_first(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200),
            change_at in 0usize..200,
        ) {
            let pools = [pool(&["10.1.0.0/28", "fd00::/64"]), pool(&["10.2.0.0/28", "fd00::/64"])];
            let mut used: Vec<Addresses> = vec![];
            let mut rested: VecDeque<Addresses> = VecDeque::new();
            for (step, (add, which)) in steps.into_iter().enumerate() {
                let pool = &pools[usize::from(step >= change_at)];
                let taken: BTreeSet<IpAddr> = used.iter().flat_map(Addresses::iter).collect();
                if add {
                    let Some(next) = pool.next(&taken, rested.make_contiguous()) else {
                        let possible = pool.indices().map(|index| pool.at(index));
                        let blocked = |pair: Addresses| pair.iter().any(|address| taken.contains(&address));
                        prop_assert!(possible.into_iter().all(blocked));
                        continue;
                    };
                    prop_assert!(next.iter().all(|address| !taken.contains(&address)));
                    prop_assert!(pool.has(&next));
                    if step < change_at && let Some(position) = rested.iter().position(|old| *old == next) {
                        prop_assert_eq!(position, 0);
                        prop_assert_eq!(used.len() + rested.len(), pool.capacity() as usize);
                    }
                    rested.retain(|old| *old != next);
                    used.push(next);
                } else if !used.is_empty() {
                    rested.push_back(used.swap_remove(which.index(used.len())));
                }
            }
        }
    }
}
