//! Sets and maps.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Ip;
use super::element::{Data, Element};
use super::field::Type;
use super::key::Key;

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataType {
    /// A verdict, for `vmap` lookups.
    Verdict,
    /// A value.
    Value(Type),
}

/// When elements disappear by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// Those that have a timeout of their own, when that is over.
    PerElement,
    /// After this time, unless they have a timeout of their own. Whole multiples of 10 ms, as in [`Element`].
    After(Duration),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Type of the keys.
    pub key: Type,
    /// Type of the values; nothing for a set.
    pub data: Option<DataType>,
    /// Its keys are ranges.
    pub interval: bool,
    /// When its elements disappear.
    pub expiry: Expiry,
    /// Packets add, renew and delete elements ([`Rule::change_set`](super::Rule::change_set)), which then belong to the
    /// packet path: they are neither read nor changed by [`apply`](super::apply) and [`read`](super::read()), and
    /// `elements` is empty.
    pub dynamic: bool,
    /// How many elements fit, where there is a limit.
    pub size: Option<u32>,
    /// Its elements.
    pub elements: BTreeMap<Key, Element>,
}

impl Set {
    /// An empty set of single values.
    #[must_use]
    pub fn new(key: impl Into<Type>) -> Self {
        Self {
            key: key.into(),
            data: None,
            interval: false,
            expiry: Expiry::Never,
            dynamic: false,
            size: None,
            elements: BTreeMap::new(),
        }
    }

    /// An empty map.
    #[must_use]
    pub fn map(key: impl Into<Type>, data: DataType) -> Self {
        Self { data: Some(data), ..Self::new(key) }
    }

    /// Makes it an interval set (or map): its keys are ranges, of each field if there are several.
    #[must_use]
    pub fn of_ranges(self) -> Self {
        Self { interval: true, ..self }
    }

    /// Makes its elements disappear by themselves.
    #[must_use]
    pub fn expiring(self, expiry: Expiry) -> Self {
        Self { expiry, ..self }
    }

    /// Makes it one that packets fill, with at most `size` elements.
    #[must_use]
    pub fn dynamic(self, size: u32) -> Self {
        Self { dynamic: true, size: Some(size), ..self }
    }

    /// The set of all addresses of one family in `prefixes`; overlapping and adjacent ones become one range.
    #[must_use]
    pub fn prefixes<'a>(ip: Ip, prefixes: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut set = Self::new(ip.field());
        set.interval = true;
        set.elements = match ip {
            Ip::V4 => {
                let all: Vec<Ipv4Net> = prefixes.into_iter().filter_map(v4).collect();
                merge(
                    all.iter().map(|net| (net.network().to_bits().into(), net.broadcast().to_bits().into())),
                )
                .into_iter()
                .map(|(first, last)| range(&first.to_be_bytes()[12..], &last.to_be_bytes()[12..]))
                .collect()
            }
            Ip::V6 => {
                let all: Vec<Ipv6Net> = prefixes.into_iter().filter_map(v6).collect();
                merge(all.iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())))
                    .into_iter()
                    .map(|(first, last)| range(&first.to_be_bytes(), &last.to_be_bytes()))
                    .collect()
            }
        };
        set
    }

    /// Adds a key to a set.
    pub fn insert(&mut self, key: impl Into<Key>) -> &mut Self {
        self.insert_data(key, Data::None)
    }

    /// Adds a key and its value to a map, or with [`Element::expiring`] a key with a timeout to either. In an interval set
    /// a single value is a range, too.
    pub fn insert_data(&mut self, key: impl Into<Key>, element: impl Into<Element>) -> &mut Self {
        let key = match key.into() {
            Key::Value(value) if self.interval && self.key.is_concatenation() => {
                Key::Ranges(value.clone(), value)
            }
            Key::Value(value) if self.interval => Key::Range(value.clone(), value),
            key => key,
        };
        self.elements.insert(key, element.into());
        self
    }

    /// Same definition, whatever the elements.
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        let of = |set: &Self| (set.interval, set.expiry, set.dynamic, set.size);
        self.key == other.key && self.data == other.data && of(self) == of(other)
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    }
}

fn v6(net: &IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(*net),
    }
}

fn range(first: &[u8], last: &[u8]) -> (Key, Element) {
    (Key::Range(first.to_vec(), last.to_vec()), Data::None.into())
}

/// The same numbers in as few ranges as can be, sorted.
fn merge(ranges: impl Iterator<Item = (u128, u128)>) -> Vec<(u128, u128)> {
    let mut sorted: Vec<_> = ranges.collect();
    sorted.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_become_few_ranges() {
        let nets: Vec<IpNet> = ["10.1.0.0/16", "10.0.0.0/16", "10.0.3.0/24", "192.168.1.9/32", "fd00::/8"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect();
        let set = Set::prefixes(Ip::V4, &nets);
        let expected =
            [range(&[10, 0, 0, 0], &[10, 1, 255, 255]), range(&[192, 168, 1, 9], &[192, 168, 1, 9])];
        assert_eq!(set.elements, expected.into_iter().collect());
        assert_eq!(Set::prefixes(Ip::V6, &nets).elements.len(), 1);
    }

    proptest! {
        #[test]
        fn membership_survives_merging(nets in proptest::collection::vec((any::<u32>(), 0u8..=32), 0..12), probe: u32) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(bits, length)| Ipv4Net::new_assert(bits.into(), length).trunc().into())
                .collect();
            let probes = nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
            let set = Set::prefixes(Ip::V4, &nets);
            for address in probes.chain([std::net::Ipv4Addr::from(probe).into()]) {
                let std::net::IpAddr::V4(v4) = address else { continue };
                let bytes = v4.octets().to_vec();
                let inside = set.elements.keys().any(|key| key.first() <= bytes.as_slice() && Some(bytes.as_slice()) <= key.last());
                prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
