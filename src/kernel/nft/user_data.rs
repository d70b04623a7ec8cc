//! What `nft` keeps beside sets and rules for itself, as entries of type, length and value (`NFTNL_UDATA_*`).

use super::field::{Field, Type};
use super::message::COMMENT;
use super::set::{DataType, Set};

/// What `nft` wants to know of a set: the byte order of its keys and of its data, whether it may merge elements, and
/// from which expressions types come that have no name.
pub(super) fn of_set(set: &Set) -> Vec<u8> {
    const KEY_ORDER: u8 = 0;
    const DATA_ORDER: u8 = 1;
    const MERGE: u8 = 2;
    const KEY_TYPE: u8 = 3;
    const DATA_TYPE: u8 = 4;
    let value = match &set.data {
        Some(DataType::Value(kind)) => Some(kind),
        _ => None,
    };
    let mut data = entry(KEY_ORDER, &order(&set.key).to_ne_bytes());
    if set.data.is_some() {
        data.extend(entry(DATA_ORDER, &value.map_or(0, order).to_ne_bytes()));
    }
    data.extend(entry(MERGE, &0_u32.to_ne_bytes()));
    // `nft` takes the expressions of both or of none.
    let kinds = [(KEY_TYPE, Some(&set.key)), (DATA_TYPE, value)];
    if kinds.iter().any(|(_, kind)| kind.is_some_and(|kind| kind.0.contains(&Field::Number))) {
        let expressions = kinds.iter().filter_map(|(entry, kind)| Some((*entry, type_of((*kind)?)?)));
        expressions.for_each(|(kind, expression)| data.extend(entry(kind, &expression)));
    }
    data
}

/// What is shown of a rule's comment.
pub(super) fn of_comment(comment: &str) -> Vec<u8> {
    let mut text = comment.as_bytes().to_vec();
    text.push(0);
    entry(COMMENT, &text)
}

/// nftables' `enum byteorder`: none for a concatenation.
fn order(kind: &Type) -> u32 {
    match kind.0.as_slice() {
        [field] if field.is_network_order() => 2,
        [_] => 1,
        _ => 0,
    }
}

/// An expression of this type: what a set is declared with after `typeof`.
fn type_of(kind: &Type) -> Option<Vec<u8>> {
    const CONCATENATION: u8 = 13; // EXPR_CONCAT
    match kind.0.as_slice() {
        [field] => expression_of(*field),
        fields => {
            let parts =
                fields.iter().zip(0_u8..).map(|(field, index)| Some(entry(index, &expression_of(*field)?)));
            Some(expression(CONCATENATION, &parts.collect::<Option<Vec<_>>>()?.concat()))
        }
    }
}

/// An expression of a field's type, by nftables' numbers (`enum expr_types`, `proto_desc_id`, `*_hdr_fields`).
fn expression_of(field: Field) -> Option<Vec<u8>> {
    const PAYLOAD: u8 = 7;
    const META: u8 = 9;
    const NUMGEN: u8 = 23;
    const TRANSPORT_PORT: [u32; 2] = [11, 2]; // th dport
    const IPV4_ADDRESS: [u32; 2] = [12, 12]; // ip daddr
    const IPV6_ADDRESS: [u32; 2] = [13, 9]; // ip6 daddr
    const RANDOM_BELOW_65536: [u32; 3] = [1, 1 << 16, 0];
    let of = |kind, numbers: &[u32]| {
        let numbers = numbers.iter().zip(0_u8..).map(|(number, index)| entry(index, &number.to_ne_bytes()));
        expression(kind, &numbers.collect::<Vec<_>>().concat())
    };
    Some(match field {
        Field::Ipv4 => of(PAYLOAD, &IPV4_ADDRESS),
        Field::Ipv6 => of(PAYLOAD, &IPV6_ADDRESS),
        Field::Port => of(PAYLOAD, &TRANSPORT_PORT),
        Field::Protocol => of(META, &[super::Meta::L4Proto.number()]),
        Field::Mark => of(META, &[super::Meta::Mark.number()]),
        Field::Priority => of(META, &[super::Meta::Priority.number()]),
        Field::IfName => of(META, &[super::Meta::IifName.number()]),
        Field::Number => of(NUMGEN, &RANDOM_BELOW_65536),
        Field::Ether | Field::IcmpType | Field::Unknown(_) => return None,
    })
}

/// An expression: its kind, and what belongs to that.
fn expression(kind: u8, content: &[u8]) -> Vec<u8> {
    const KIND: u8 = 0;
    const CONTENT: u8 = 1;
    [entry(KIND, &u32::from(kind).to_ne_bytes()), entry(CONTENT, content)].concat()
}

fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut data = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    data.extend_from_slice(value);
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The bytes that nft 1.0.6 has written for the same types, with another modulus.
    #[test]
    fn expressions_are_those_of_nft() {
        let key = Type::from([Field::Ipv4, Field::Protocol, Field::Port, Field::Number]);
        let expected = "00040d00000001580014000407000000010c00040c00000001040c000000010e000409000000010600041000\
                        00000214000407000000010c00040b000000010402000000031a00041700000001120004010000000104000001\
                        00020400000000";
        assert_eq!(hex(&type_of(&key).unwrap()), expected);
    }
}
