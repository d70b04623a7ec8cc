//! Cryptokey routing: the longest prefix over the allowed IPs of all peers.
//!
//! Allowed IPs change seldom and are looked up for each packet, so the prefixes are laid out as the disjoint
//! ranges they make of the address space, sorted: a lookup is one binary search, whatever lengths the prefixes
//! have and whoever chose them (a hash table per length would be probed up to 129 times, a trie chases
//! pointers). Building it anew is a sort: under 2 ms for 10,000 prefixes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::PeerIndex;

/// Whose each address is.
#[derive(Default)]
pub(super) struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Routes {
    /// From all prefixes of all peers; no two peers may have the same.
    pub(super) fn new(prefixes: impl Iterator<Item = (IpNet, PeerIndex)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, owner) in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits(), owner)),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits(), owner)),
            }
        }
        Self { v4: Ranges::new(v4), v6: Ranges::new(v6) }
    }

    /// Whose `address` is.
    #[inline]
    pub(super) fn longest(&self, address: IpAddr) -> Option<PeerIndex> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits()),
            IpAddr::V6(address) => self.v6.find(address.to_bits()),
        }
    }
}

/// An address as a number.
trait Word: Copy + Ord + Default {
    fn checked_next(self) -> Option<Self>;
}

impl Word for u32 {
    fn checked_next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Word for u128 {
    fn checked_next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// The address space cut into ranges: `starts[i]` up to the next start belongs to `owners[i]`.
#[derive(Default)]
struct Ranges<W> {
    starts: Vec<W>,
    owners: Vec<Option<PeerIndex>>,
}

impl<W: Word> Ranges<W> {
    /// From prefixes as (first address, last address, owner).
    fn new(mut prefixes: Vec<(W, W, PeerIndex)>) -> Self {
        // The wider of two prefixes of one start comes first; prefixes nest or are disjoint.
        prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut ranges = Self { starts: vec![W::default()], owners: vec![None] };
        let mut open: Vec<(W, PeerIndex)> = Vec::new();
        for (start, end, owner) in prefixes {
            while open.last().is_some_and(|(last, _)| *last < start) {
                ranges.close(&mut open);
            }
            ranges.begin(start, Some(owner));
            open.push((end, owner));
        }
        while !open.is_empty() {
            ranges.close(&mut open);
        }
        ranges
    }

    /// Ends the innermost open prefix: what follows belongs to the one around it.
    fn close(&mut self, open: &mut Vec<(W, PeerIndex)>) {
        let after = open.pop().and_then(|(end, _)| end.checked_next());
        if let Some(start) = after {
            self.begin(start, open.last().map(|(_, owner)| *owner));
        }
    }

    fn begin(&mut self, start: W, owner: Option<PeerIndex>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        self.starts.push(start);
        self.owners.push(owner);
    }

    #[inline]
    fn find(&self, address: W) -> Option<PeerIndex> {
        let after = self.starts.partition_point(|start| *start <= address);
        self.owners.get(after.checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    fn naive(prefixes: &HashMap<IpNet, PeerIndex>, address: IpAddr) -> Option<PeerIndex> {
        let matching = prefixes.iter().filter(|(net, _)| net.contains(&address));
        matching.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
    }

    // Few distinct bits, so that prefixes nest and touch; lengths of all kinds, the ends of the space included.
    fn bits() -> impl Strategy<Value = u128> {
        prop_oneof![
            (0_u128..16).prop_map(|high| high << 124),
            (0_u128..16, 0_u128..16).prop_map(|(high, low)| high << 124 | low << 96 | low),
            Just(u128::MAX),
            Just(0),
            any::<u128>(),
        ]
    }

    fn net() -> impl Strategy<Value = IpNet> {
        let v6 = (bits(), 0_u8..=128).prop_map(|(bits, length)| {
            Ipv6Net::new(Ipv6Addr::from_bits(bits), length).unwrap().trunc().into()
        });
        let v4 = (bits(), 0_u8..=32).prop_map(|(bits, length)| {
            Ipv4Net::new(Ipv4Addr::from_bits((bits >> 96) as u32), length).unwrap().trunc().into()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn the_longest_prefix_is_what_a_naive_search_finds(
            nets in proptest::collection::vec((net(), 0_u32..5), 0..40),
            probes in proptest::collection::vec(bits(), 20),
        ) {
            let prefixes: HashMap<IpNet, PeerIndex> = nets.iter().map(|(net, owner)| (*net, PeerIndex(*owner))).collect();
            let routes = Routes::new(prefixes.iter().map(|(net, owner)| (*net, *owner)));
            let random = probes.iter().flat_map(|bits| {
                [IpAddr::from(Ipv6Addr::from_bits(*bits)), Ipv4Addr::from_bits((*bits >> 96) as u32).into()]
            });
            let edges = nets.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
            for address in random.chain(edges.clone()).chain(edges.flat_map(neighbours)) {
                prop_assert_eq!(routes.longest(address), naive(&prefixes, address), "{}", address);
            }
        }
    }

    fn neighbours(address: IpAddr) -> [IpAddr; 2] {
        match address {
            IpAddr::V4(a) => [-1, 1].map(|d| Ipv4Addr::from_bits(a.to_bits().wrapping_add_signed(d)).into()),
            IpAddr::V6(a) => [-1, 1].map(|d| Ipv6Addr::from_bits(a.to_bits().wrapping_add_signed(d)).into()),
        }
    }

    #[test]
    fn an_empty_table_owns_nothing() {
        assert_eq!(Routes::default().longest(Ipv4Addr::LOCALHOST.into()), None);
    }
}
