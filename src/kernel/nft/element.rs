//! Elements of sets and maps, and how they look in netlink messages.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Verdict;
use super::codec::{decode_value, decode_verdict, encode_verdict};
use super::key::{Concat, Key};
use super::message::*;
use super::wire::{Writer, be32, be64, find, milliseconds};

/// What belongs to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// What a map has for the key.
    pub data: Data,
    /// The element's own timeout, counted from when it is added, where it is not the set's. The kernel counts in
    /// jiffies, so only multiples of 10 ms are sure to be read back as they were written.
    pub timeout: Option<Duration>,
}

impl Element {
    /// The element with a timeout of its own, for sets whose elements expire.
    #[must_use]
    pub fn expiring(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }
}

impl From<Data> for Element {
    fn from(data: Data) -> Self {
        Self { data, timeout: None }
    }
}

/// An element's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// None: the element is of a set.
    None,
    /// A value.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// Several fields, as a map's value.
impl From<Concat> for Data {
    fn from(concat: Concat) -> Self {
        Self::Value(concat.bytes())
    }
}

/// Writes an element as members of an element list.
pub(super) fn encode(out: &mut Writer, key: &Key, element: Option<&Element>) {
    out.nest(LIST_ELEMENT, |m| {
        m.nest(ELEMENT_KEY, |m| m.put(DATA_VALUE, key.first()));
        if let Key::Ranges(_, last) = key {
            m.nest(ELEMENT_KEY_END, |m| m.put(DATA_VALUE, last));
        }
        let Some(element) = element else { return };
        match &element.data {
            Data::None => {}
            Data::Value(value) => m.nest(ELEMENT_DATA, |m| m.put(DATA_VALUE, value)),
            Data::Verdict(verdict) => m.nest(ELEMENT_DATA, |m| encode_verdict(m, verdict)),
        }
        element.timeout.iter().for_each(|timeout| m.put_u64(ELEMENT_TIMEOUT, milliseconds(*timeout)));
    });
    // A range of one field is two elements: the second one is the first value behind it.
    let Key::Range(_, last) = key else { return };
    if let Some(behind) = successor(last) {
        out.nest(LIST_ELEMENT, |m| {
            m.put_u32(ELEMENT_FLAGS, RANGE_END);
            m.nest(ELEMENT_KEY, |m| m.put(DATA_VALUE, &behind));
        });
    }
}

/// An element as the kernel lists it. Its ever-changing expiration is not read.
#[derive(Debug)]
pub(super) struct Raw {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    /// The key is the first value behind a range.
    ends: bool,
    element: Element,
}

pub(super) fn decode(element: &[u8]) -> Option<Raw> {
    let data = find(element, ELEMENT_DATA).unwrap_or_default();
    Some(Raw {
        key: decode_value(find(element, ELEMENT_KEY)?)?,
        key_end: find(element, ELEMENT_KEY_END).and_then(decode_value),
        ends: find(element, ELEMENT_FLAGS).and_then(be32).unwrap_or(0) & RANGE_END != 0,
        element: Element {
            data: decode_data(data),
            timeout: find(element, ELEMENT_TIMEOUT).and_then(be64).map(Duration::from_millis),
        },
    })
}

fn decode_data(bytes: &[u8]) -> Data {
    decode_verdict(bytes)
        .map(Data::Verdict)
        .or_else(|| decode_value(bytes).map(Data::Value))
        .unwrap_or(Data::None)
}

/// The elements of a set of single values.
pub(super) fn values(found: Vec<Raw>) -> BTreeMap<Key, Element> {
    found.into_iter().map(|raw| (Key::Value(raw.key), raw.element)).collect()
}

/// The elements of an interval set of concatenations. Other programs leave out the last value where it is the first.
pub(super) fn concatenated_ranges(found: Vec<Raw>) -> BTreeMap<Key, Element> {
    let last = |raw: &mut Raw| raw.key_end.take().unwrap_or_else(|| raw.key.clone());
    let ranges = found.into_iter().map(|mut raw| (last(&mut raw), raw));
    ranges.map(|(last, raw)| (Key::Ranges(raw.key, last), raw.element)).collect()
}

/// Pairs starts and ends. At one key an end comes before a start; a start with no end goes to the last value.
pub(super) fn ranges(mut found: Vec<Raw>) -> BTreeMap<Key, Element> {
    found.sort_by(|one, other| (&one.key, !one.ends).cmp(&(&other.key, !other.ends)));
    let mut ranges = BTreeMap::new();
    let mut open: Option<Raw> = None;
    for raw in found {
        if let Some(start) = open.take() {
            ranges.insert(Key::Range(start.key, predecessor(&raw.key)), start.element);
        }
        open = (!raw.ends).then_some(raw);
    }
    if let Some(start) = open {
        let last = vec![u8::MAX; start.key.len()];
        ranges.insert(Key::Range(start.key, last), start.element);
    }
    ranges
}

/// The next number, as long as there is one of the same length.
fn successor(number: &[u8]) -> Option<Vec<u8>> {
    let mut next = number.to_vec();
    for digit in next.iter_mut().rev() {
        *digit = digit.wrapping_add(1);
        if *digit != 0 {
            return Some(next);
        }
    }
    None
}

fn predecessor(number: &[u8]) -> Vec<u8> {
    let mut before = number.to_vec();
    for digit in before.iter_mut().rev() {
        *digit = digit.wrapping_sub(1);
        if *digit != u8::MAX {
            break;
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::{attributes, messages};
    use super::*;

    fn decoded(key: &Key, element: &Element) -> Vec<Raw> {
        let mut out = Writer::default();
        out.message(0, 0, 0, &[], |m| encode(m, key, Some(element)));
        let bytes = out.finish().unwrap();
        let message = messages(bytes).next().unwrap();
        attributes(message.payload).map(|(_, element)| decode(element).unwrap()).collect()
    }

    #[test]
    fn concatenated_ranges_are_one_element_and_others_two() {
        let element =
            Element::from(Data::Verdict(Verdict::Goto("there".into()))).expiring(Duration::from_secs(90));
        for (key, number) in [
            (Key::from(Concat::new().prefix("10.0.0.0/8".parse().unwrap()).ports(80..=89)), 1),
            (Key::from(Concat::new().prefix("10.0.0.1/32".parse().unwrap()).port(80)), 1),
        ] {
            let found = decoded(&key, &element);
            assert_eq!(found.len(), number);
            assert_eq!(concatenated_ranges(found), BTreeMap::from([(key, element.clone())]));
        }
        for (prefix, number) in [("10.0.0.0/8", 2), ("255.0.0.0/8", 1)] {
            let key = Key::from(prefix.parse::<ipnet::IpNet>().unwrap());
            let found = decoded(&key, &element);
            assert_eq!(found.len(), number);
            assert_eq!(ranges(found), BTreeMap::from([(key, element.clone())]));
        }
    }

    proptest! {
        #[test]
        fn reading_noise_ends(elements in prop::collection::vec(prop::collection::vec(0..16_u8, 0..60), 0..5)) {
            let found = || elements.iter().filter_map(|bytes| decode(bytes)).collect::<Vec<_>>();
            for read in [values, ranges, concatenated_ranges] {
                prop_assert!(read(found()).len() <= elements.len());
            }
        }
    }
}
