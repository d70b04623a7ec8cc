//! Keys and values of elements as bytes, built from typed fields.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::rule::{octets, padded};

/// Every field of a concatenation is padded to a multiple of this.
const ALIGNMENT: usize = 4;

/// The key of an element, in the bytes that the kernel has for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// One value: one field, or several concatenated.
    Value(Vec<u8>),
    /// All values of one field from the first to the last, in an interval set.
    Range(Vec<u8>, Vec<u8>),
    /// Concatenated fields, each from its first to its last value, in an interval set of concatenations.
    Ranges(Vec<u8>, Vec<u8>),
}

impl Key {
    /// The value, or the first value of the range.
    #[must_use]
    pub fn first(&self) -> &[u8] {
        let (Self::Value(first) | Self::Range(first, _) | Self::Ranges(first, _)) = self;
        first
    }

    /// The last value of the range; nothing for a single value.
    #[must_use]
    pub fn last(&self) -> Option<&[u8]> {
        match self {
            Self::Value(_) => None,
            Self::Range(_, last) | Self::Ranges(_, last) => Some(last),
        }
    }
}

impl From<Vec<u8>> for Key {
    fn from(value: Vec<u8>) -> Self {
        Self::Value(value)
    }
}

impl<const N: usize> From<[u8; N]> for Key {
    fn from(value: [u8; N]) -> Self {
        Self::Value(value.to_vec())
    }
}

impl From<IpAddr> for Key {
    fn from(address: IpAddr) -> Self {
        Self::Value(octets(address))
    }
}

/// All addresses of a prefix, for interval sets of addresses. A single address is a range there, too.
impl From<IpNet> for Key {
    fn from(prefix: IpNet) -> Self {
        Self::Range(octets(prefix.network()), octets(prefix.broadcast()))
    }
}

impl From<Concat> for Key {
    fn from(concat: Concat) -> Self {
        match concat.last {
            Some(last) => Self::Ranges(concat.first, last),
            None => Self::Value(concat.first),
        }
    }
}

/// Builds the key or the value of an element from the fields that its type concatenates, in order.
///
/// In an interval set every key has ranges, be they of one value: build it with [`prefix`](Self::prefix),
/// [`ports`](Self::ports) or [`range`](Self::range), or from [`ranges`](Self::ranges) on.
///
/// ```
/// # use selvedge::kernel::nft::{Concat, Key};
/// let key: Key = Concat::new().prefix("10.1.0.0/16".parse()?).protocol(6).ports(80..=89).into();
/// assert_eq!(key.first(), [10, 1, 0, 0, 6, 0, 0, 0, 0, 80, 0, 0]);
/// # Ok::<_, ipnet::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Concat {
    first: Vec<u8>,
    /// The last value, of ranges alone.
    last: Option<Vec<u8>>,
}

/// Bytes of an IPv6 address, a protocol, a port and a number.
const CAPACITY: usize = 28;

impl Concat {
    /// Without any field yet.
    pub fn new() -> Self {
        Self { first: Vec::with_capacity(CAPACITY), last: None }
    }

    /// Without any field yet; for an interval set, also if each field turns out to be a single value.
    pub fn ranges() -> Self {
        Self { last: Some(Vec::with_capacity(CAPACITY)), ..Self::new() }
    }

    /// An address ([`Field::Ipv4`](super::Field::Ipv4) or [`Field::Ipv6`](super::Field::Ipv6)).
    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.value(&v4.octets()),
            IpAddr::V6(v6) => self.value(&v6.octets()),
        }
    }

    /// Every address of a prefix.
    pub fn prefix(self, prefix: IpNet) -> Self {
        self.range(&octets(prefix.network()), &octets(prefix.broadcast()))
    }

    /// A transport protocol, `IPPROTO_*`.
    pub fn protocol(self, protocol: u8) -> Self {
        self.value(&[protocol])
    }

    /// A port.
    pub fn port(self, port: u16) -> Self {
        self.value(&port.to_be_bytes())
    }

    /// Every port of a range.
    pub fn ports(self, ports: RangeInclusive<u16>) -> Self {
        self.range(&ports.start().to_be_bytes(), &ports.end().to_be_bytes())
    }

    /// The type of an ICMP message.
    pub fn icmp_type(self, kind: u8) -> Self {
        self.value(&[kind])
    }

    /// A MAC address.
    pub fn ether(self, mac: [u8; 6]) -> Self {
        self.value(&mac)
    }

    /// A number ([`Field::Number`](super::Field::Number)).
    pub fn number(self, number: u32) -> Self {
        self.value(&number.to_ne_bytes())
    }

    /// A packet mark.
    pub fn mark(self, mark: u32) -> Self {
        self.value(&mark.to_ne_bytes())
    }

    /// An interface name.
    pub fn if_name(self, name: &str) -> Self {
        self.value(&padded(name))
    }

    /// Any field, in the bytes that the kernel has for it.
    pub fn value(mut self, value: &[u8]) -> Self {
        for bytes in std::iter::once(&mut self.first).chain(&mut self.last) {
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        }
        self
    }

    /// Any field from `first` to `last`, which are as long as the field.
    pub fn range(mut self, first: &[u8], last: &[u8]) -> Self {
        let start = self.first.len();
        self = self.value(first);
        let mut bytes = self.last.unwrap_or_else(|| self.first.clone());
        bytes[start..].iter_mut().zip(last).for_each(|(byte, last)| *byte = *last);
        Self { last: Some(bytes), ..self }
    }

    /// The bytes, of ranges the first value: what a map has as its data.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_padded_to_four_bytes() {
        let address = "10.96.0.1".parse().unwrap();
        let bytes = Concat::new().address(address).protocol(6).port(443).mark(7).bytes();
        let mark = 7_u32.to_ne_bytes();
        assert_eq!(bytes, [&[10, 96, 0, 1, 6, 0, 0, 0, 1, 187, 0, 0], &mark[..]].concat());
        let bytes = Concat::new().ether([2, 0, 0, 0, 0, 1]).if_name("eth0").icmp_type(8).bytes();
        assert_eq!(
            (bytes.len(), &bytes[..8], &bytes[8..12]),
            (28, &[2, 0, 0, 0, 0, 1, 0, 0][..], &b"eth0"[..])
        );
    }

    #[test]
    fn ranges_have_a_first_and_a_last_value_in_each_field() {
        let single = Key::from(Concat::new().prefix("10.0.0.1/32".parse().unwrap()).ports(80..=80));
        let bytes = vec![10, 0, 0, 1, 0, 80, 0, 0];
        assert_eq!(single, Key::Ranges(bytes.clone(), bytes.clone()));
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(Key::from(Concat::ranges().address(address).port(80)), single);
        assert_eq!(Key::from(Concat::new().address(address).port(80)), Key::Value(bytes));
        let range = Key::from(Concat::new().prefix("fd00::/120".parse().unwrap()).port(80));
        let last = range.last().unwrap();
        assert_eq!((range.first()[15], last[15]), (0, 255));
        assert_eq!((&range.first()[16..], &last[16..]), (&[0, 80, 0, 0][..], &[0, 80, 0, 0][..]));
        let prefix: IpNet = "10.0.0.1/32".parse().unwrap();
        assert_eq!(Key::from(prefix), Key::Range(vec![10, 0, 0, 1], vec![10, 0, 0, 1]));
    }
}
