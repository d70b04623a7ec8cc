//! Definitions of sets and maps to and from netlink attributes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::field::Type;
use super::message::*;
use super::set::{DataType, Expiry, Set};
use super::user_data;
use super::wire::milliseconds;
use super::wire::{Writer, be32, be64, find};

/// Writes all of a set but its elements.
pub(super) fn encode(out: &mut Writer, set: &Set) {
    out.put_u32(SET_FLAGS, flags(set));
    out.put_u32(SET_KEY_TYPE, set.key.number());
    out.put_u32(SET_KEY_LENGTH, length(set.key.len()));
    match &set.data {
        Some(DataType::Verdict) => {
            out.put_u32(SET_DATA_TYPE, DATA_VERDICT);
            out.put_u32(SET_DATA_LENGTH, 0);
        }
        Some(DataType::Value(data)) => {
            out.put_u32(SET_DATA_TYPE, data.number());
            out.put_u32(SET_DATA_LENGTH, length(data.len()));
        }
        None => {}
    }
    describe(out, set);
    if let Expiry::After(timeout) = set.expiry {
        out.put_u64(SET_TIMEOUT, milliseconds(timeout));
    }
    out.put(SET_USERDATA, &user_data::of_set(set));
}

/// Reads all of a set but its elements.
pub(super) fn decode(set: &[u8]) -> Set {
    let number = |attributes, kind| find(attributes, kind).and_then(be32);
    let flags = number(set, SET_FLAGS).unwrap_or(0);
    let data = (flags & SET_MAP != 0).then(|| match number(set, SET_DATA_TYPE).unwrap_or(0) {
        DATA_VERDICT => DataType::Verdict,
        kind => DataType::Value(Type::from_number(kind)),
    });
    let timeout = find(set, SET_TIMEOUT).and_then(be64).filter(|timeout| *timeout != 0);
    Set {
        key: Type::from_number(number(set, SET_KEY_TYPE).unwrap_or(0)),
        data,
        interval: flags & SET_INTERVAL != 0,
        expiry: match timeout {
            _ if flags & SET_EXPIRES == 0 => Expiry::Never,
            Some(timeout) => Expiry::After(Duration::from_millis(timeout)),
            None => Expiry::PerElement,
        },
        dynamic: flags & SET_DYNAMIC != 0,
        size: find(set, SET_DESCRIPTION).and_then(|description| number(description, SET_DESCRIPTION_SIZE)),
        elements: BTreeMap::new(),
    }
}

fn flags(set: &Set) -> u32 {
    [
        (set.interval, SET_INTERVAL),
        (set.data.is_some(), SET_MAP),
        (set.expiry != Expiry::Never, SET_EXPIRES),
        (set.dynamic, SET_DYNAMIC),
        (is_ranged_concatenation(set), SET_CONCAT),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .sum()
}

fn is_ranged_concatenation(set: &Set) -> bool {
    set.interval && set.key.is_concatenation()
}

fn describe(out: &mut Writer, set: &Set) {
    let concatenated = is_ranged_concatenation(set);
    if !concatenated && set.size.is_none() {
        return;
    }
    out.nest(SET_DESCRIPTION, |m| {
        set.size.iter().for_each(|size| m.put_u32(SET_DESCRIPTION_SIZE, *size));
        if concatenated {
            m.nest(SET_DESCRIPTION_CONCAT, |m| {
                for field in &set.key.0 {
                    m.nest(LIST_ELEMENT, |m| m.put_u32(SET_FIELD_LENGTH, length(field.len())));
                }
            });
        }
    });
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Field;
    use super::super::wire::messages;
    use super::*;

    #[test]
    fn definitions_round_trip() {
        let minute = Duration::from_secs(60);
        let concatenation = [Field::Ipv4, Field::Protocol, Field::Port];
        for set in [
            Set::new(Field::IfName),
            Set::new(concatenation).of_ranges(),
            Set::new(Field::Mark).expiring(Expiry::PerElement),
            Set::map(concatenation, DataType::Verdict).of_ranges().expiring(Expiry::After(minute)),
            Set::map(Field::Ipv6, DataType::Value([Field::Ipv6, Field::Port].into()))
                .expiring(Expiry::After(minute))
                .dynamic(1000),
        ] {
            let mut out = Writer::default();
            out.message(0, 0, 0, &[], |m| encode(m, &set));
            assert_eq!(decode(messages(out.finish().unwrap()).next().unwrap().payload), set);
        }
    }
}
