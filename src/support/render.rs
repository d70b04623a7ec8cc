//! What netlink shows, as text for people.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::kernel::link::Link;
use crate::kernel::nft::{Chain, Data, DataType, Field, Key, Set, TableState, Type};

/// A device a line.
pub(super) fn link(link: &Link) -> String {
    let Link { index, name, kind, mtu, group, up, carrier, master, .. } = link;
    let kind = kind.as_deref().unwrap_or("-");
    let master = master.map(|index| format!(" master {index}")).unwrap_or_default();
    format!("{index}: {name} kind {kind} mtu {mtu} group {group} up {up} carrier {carrier}{master}\n")
}

/// A table with everything in it, and what its counters have counted.
pub(super) fn table(state: &TableState) -> String {
    let table = &state.table;
    let mut text =
        format!("table {} {}{}\n", table.family, table.name, if state.dormant { " (dormant)" } else { "" });
    for (name, counter) in &state.counters {
        put(&mut text, 1, &format!("counter {name}: {} packets, {} bytes", counter.packets, counter.bytes));
    }
    for (name, set) in &table.sets {
        put_set(&mut text, name, set);
    }
    for (name, chain) in &table.chains {
        put_chain(&mut text, name, chain);
    }
    text
}

fn put(text: &mut String, depth: usize, line: &str) {
    writeln!(text, "{}{line}", "  ".repeat(depth)).expect("a String takes any text");
}

fn put_set(text: &mut String, name: &str, set: &Set) {
    let kind = if set.data.is_some() { "map" } else { "set" };
    let number =
        if set.dynamic { "filled by packets".into() } else { format!("{} elements", set.elements.len()) };
    put(text, 1, &format!("{kind} {name}: {number}"));
    for (key, element) in &set.elements {
        put(text, 2, &(self::key(key, &set.key) + &data(&element.data, set.data.as_ref())));
    }
}

fn key(key: &Key, kind: &Type) -> String {
    match key.last() {
        Some(last) if last != key.first() => format!("{}-{}", value(key.first(), kind), value(last, kind)),
        _ => value(key.first(), kind),
    }
}

fn data(data: &Data, kind: Option<&DataType>) -> String {
    match (data, kind) {
        (Data::None, _) => String::new(),
        (Data::Value(bytes), Some(DataType::Value(kind))) => format!(" : {}", value(bytes, kind)),
        (Data::Value(bytes), _) => format!(" : {}", hex(bytes)),
        (Data::Verdict(verdict), _) => format!(" : {verdict:?}"),
    }
}

/// The parts of a concatenation stand in four bytes each, or a multiple.
fn value(mut bytes: &[u8], kind: &Type) -> String {
    let alone = kind.0.len() == 1;
    let mut parts = Vec::new();
    for field in &kind.0 {
        let length = field.len();
        let Some(part) = bytes.get(..length).filter(|_| length > 0) else { return hex(bytes) };
        parts.push(one(part, *field));
        let taken = if alone { length } else { length.next_multiple_of(4) };
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    parts.join(" . ")
}

fn one(bytes: &[u8], field: Field) -> String {
    match (field, bytes) {
        (Field::Ipv4, bytes) => <[u8; 4]>::try_from(bytes)
            .map_or_else(|_| hex(bytes), |octets| Ipv4Addr::from(octets).to_string()),
        (Field::Ipv6, bytes) => <[u8; 16]>::try_from(bytes)
            .map_or_else(|_| hex(bytes), |octets| Ipv6Addr::from(octets).to_string()),
        (Field::Protocol | Field::IcmpType, [number]) => number.to_string(),
        (Field::Port, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (Field::IfName, bytes) => String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned(),
        (_, bytes) => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn put_chain(text: &mut String, name: &str, chain: &Chain) {
    let base = chain.base.as_ref().map(|base| {
        let device = base.device.as_ref().map(|device| format!(" device {device}")).unwrap_or_default();
        format!(
            ": {:?} hook {:?} priority {} policy {:?}{device}",
            base.kind, base.hook, base.priority, base.policy
        )
    });
    put(text, 1, &format!("chain {name}{}", base.unwrap_or_default()));
    for rule in &chain.rules {
        let comment = rule.comment.as_ref().map(|comment| format!("  # {comment}")).unwrap_or_default();
        let expressions: Vec<_> =
            rule.expressions.iter().map(|expression| format!("{expression:?}")).collect();
        put(text, 2, &(expressions.join("; ") + &comment));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nft::{Counter, Family, Ip, Table};

    #[test]
    fn addresses_ports_and_names_are_readable() {
        let mut table = Table::new(Family::Inet, "selvedge-x");
        table.counter("dropped");
        table.set("nets", Set::prefixes(Ip::V4, &["10.244.0.0/16".parse().unwrap()]));
        let kind = Type(vec![Field::Ipv4, Field::Protocol, Field::Port]);
        let mut ports = Set::map(kind, DataType::Value(Field::Ipv4.into()));
        ports.insert_data([10, 0, 0, 1, 6, 0, 0, 0, 1, 187, 0, 0], Data::Value(vec![10, 0, 0, 9]));
        table.set("ports", ports);
        let counters = [("dropped".to_owned(), Counter { packets: 3, bytes: 180 })].into();
        let text = super::table(&TableState { table, counters, dormant: false });
        for part in [
            "table inet selvedge-x\n",
            "  counter dropped: 3 packets, 180 bytes\n",
            "  set nets: 1 elements\n    10.244.0.0-10.244.255.255\n",
            "    10.0.0.1 . 6 . 443 : 10.0.0.9\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
