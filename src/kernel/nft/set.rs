//! Sets and maps, and their elements.

use std::collections::BTreeMap;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Ip, Verdict};

/// The type of a key, or of one part of a concatenated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A MAC address.
    Ether,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// The type of an ICMP message.
    IcmpType,
    /// A packet mark.
    Mark,
    /// An interface name, padded to 16 bytes.
    IfName,
    /// One that this model does not know, by nftables' number.
    Unknown(u32),
}

impl Field {
    /// Number of the type in nftables' user space (its `enum datatypes`), length, network order.
    fn facts(self) -> (u32, usize, bool) {
        match self {
            Self::Ipv4 => (7, 4, true),
            Self::Ipv6 => (8, 16, true),
            Self::Ether => (9, 6, true),
            Self::Protocol => (12, 1, true),
            Self::Port => (13, 2, true),
            Self::IcmpType => (14, 1, true),
            Self::Mark => (19, 4, false),
            Self::IfName => (41, 16, false),
            Self::Unknown(number) => (number, 0, true),
        }
    }

    fn from_number(number: u32) -> Self {
        let known = [
            Self::Ipv4,
            Self::Ipv6,
            Self::Ether,
            Self::Protocol,
            Self::Port,
            Self::IcmpType,
            Self::Mark,
            Self::IfName,
        ];
        known.into_iter().find(|field| field.facts().0 == number).unwrap_or(Self::Unknown(number))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> usize {
        self.facts().1
    }

    /// Never: every type has a length.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    pub(super) fn is_network_order(self) -> bool {
        self.facts().2
    }
}

/// The type of a key or of a value: one field, or several in a row, each padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type(pub Vec<Field>);

impl Type {
    /// nftables' number for it: six bits a field.
    pub(super) fn number(&self) -> u32 {
        self.0.iter().fold(0, |number, field| number << 6 | field.facts().0)
    }

    pub(super) fn from_number(mut number: u32) -> Self {
        let mut fields = Vec::new();
        while number != 0 {
            fields.push(Field::from_number(number & 0x3f));
            number >>= 6;
        }
        fields.reverse();
        Self(fields)
    }

    /// Bytes of a value.
    pub(super) fn len(&self) -> usize {
        match self.0.as_slice() {
            [field] => field.len(),
            fields => fields.iter().map(|field| field.len().next_multiple_of(4)).sum(),
        }
    }
}

impl From<Field> for Type {
    fn from(field: Field) -> Self {
        Self(vec![field])
    }
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataType {
    /// A verdict, for `vmap` lookups.
    Verdict,
    /// A value.
    Value(Type),
}

/// An element's key: a value, or the first and last value of a range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The value, or the first one.
    pub first: Vec<u8>,
    /// The last value of a range, in sets of ranges.
    pub last: Option<Vec<u8>>,
}

/// An element's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// None: it is a set.
    None,
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
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
    /// Its elements.
    pub elements: BTreeMap<Key, Data>,
}

impl Set {
    /// An empty set of single values.
    #[must_use]
    pub fn new(key: impl Into<Type>) -> Self {
        Self { key: key.into(), data: None, interval: false, elements: BTreeMap::new() }
    }

    /// An empty map.
    #[must_use]
    pub fn map(key: impl Into<Type>, data: DataType) -> Self {
        Self { data: Some(data), ..Self::new(key) }
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
    pub fn insert(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.elements.insert(Key { first: key.into(), last: None }, Data::None);
        self
    }

    /// Adds a key and its value to a map.
    pub fn insert_data(&mut self, key: impl Into<Vec<u8>>, data: Data) -> &mut Self {
        self.elements.insert(Key { first: key.into(), last: None }, data);
        self
    }

    /// Same definition, whatever the elements.
    pub(super) fn same_kind(&self, other: &Self) -> bool {
        self.key == other.key && self.data == other.data && self.interval == other.interval
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

fn range(first: &[u8], last: &[u8]) -> (Key, Data) {
    (Key { first: first.to_vec(), last: Some(last.to_vec()) }, Data::None)
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

    #[test]
    fn type_numbers_round_trip() {
        let concat = Type(vec![Field::Ipv4, Field::Protocol, Field::Port]);
        assert_eq!((concat.number(), concat.len()), (0x730d, 12));
        assert_eq!(Type::from_number(0x730d), concat);
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
                let inside = set.elements.keys().any(|key| key.first <= bytes && Some(&bytes) <= key.last.as_ref());
                prop_assert_eq!(inside, nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
