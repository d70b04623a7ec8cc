//! The rules of the ports where bridge and IP stack take packets: for what comes by a port but past its ingress hook.
//!
//! What `tc` redirects from a port to another device, such as an `ifb`, comes back to the port with a mark of the kernel's
//! that skips `tc` and the ingress hook (`tc_skip_classify`; `drivers/net/ifb.c`, `__netif_receive_skb_core`). It is met by
//! the bridge's prerouting hook, or without a bridge by those of IP and ARP. The latter also see what the bridge leaves to
//! the IP stack as received by the port itself: frames to reserved group addresses (`br_handle_frame`), which no pod has a
//! use for, so ports in the bridge have no entry there.
//!
//! A verdict map leads from the port's name to its rules. What comes by a port of ours that is not in the map is dropped.

use crate::kernel::LINK_GROUP;
use crate::kernel::nft::{
    self, Chain, ChainKind, DataType, Family, Field, Hook, Meta, Rule, Selector, Set, Table,
};
use crate::pod::attachment::PREFIX;
use crate::pod::node::Datapath;

use super::rules::{COUNTERS, UNKNOWN_PORT};
use super::{PRIORITY, Port, TABLE, jump, key};

/// The families of the tables.
pub const FAMILIES: [Family; 3] = [Family::Bridge, Family::Inet, Family::Arp];

/// The map from a port's name to its rules.
pub(super) const MAP: &str = "ports";

/// Where packets enter the tables.
const BASE: &str = "arriving";

/// Where the rules of a port stand.
pub(super) fn families(datapath: Datapath) -> &'static [Family] {
    match datapath {
        Datapath::Bridge => &[Family::Bridge],
        Datapath::Routed => &[Family::Inet, Family::Arp],
    }
}

/// The tables that have to be there for a port. A kernel without nftables' family `bridge` has none of it, and can do without
/// where no pod has a bridge.
pub(super) fn needed(datapath: Datapath) -> impl Iterator<Item = Family> {
    let bridge = (datapath == Datapath::Bridge).then_some(Family::Bridge);
    bridge.into_iter().chain([Family::Inet, Family::Arp])
}

/// A table without ports.
#[must_use]
pub fn empty(family: Family) -> Table {
    let mut table = Table::new(family, TABLE);
    complete(&mut table);
    table
}

/// Makes a table have all but its ports.
fn complete(table: &mut Table) {
    for counter in COUNTERS {
        table.counter(counter);
    }
    table.sets.entry(MAP.to_owned()).or_insert_with(map);
    table.chain(BASE, base(table.family));
}

fn map() -> Set {
    Set::map(Field::IfName, DataType::Verdict)
}

fn base(family: Family) -> Chain {
    let hook = if family == Family::Arp { Hook::Input } else { Hook::Prerouting };
    let rules = vec![
        Rule::new().meta_not(Meta::IifGroup, LINK_GROUP.to_ne_bytes()).accept(),
        Rule::new().meta_not(Meta::IifName, PREFIX).accept(),
        Rule::new().vmap(&[Selector::IifName], MAP),
        Rule::new().count(UNKNOWN_PORT).drop(),
    ];
    Chain::base(ChainKind::Filter, hook, PRIORITY, rules)
}

/// Whether a table has what it needs for a port, and for a port that has no rules in it, no more than that.
pub(super) fn has(table: &Table, port: &Port) -> bool {
    let there = families(port.datapath).contains(&table.family);
    let chain = there.then(|| Chain::regular(port.rules(table.family)));
    let element = there.then(|| jump(&port.name));
    table.chains.get(BASE) == Some(&base(table.family))
        && table.chains.get(&port.name) == chain.as_ref()
        && table.sets.get(MAP).and_then(|map| map.elements.get(&key(&port.name))) == element.as_ref()
}

/// [`super::ensure_behind`].
pub(super) fn ensure(ports: &[Port]) -> Result<(), nft::Error> {
    for family in families_of(ports) {
        if nft::read_chain(family, TABLE, BASE)? != Some(base(family)) {
            put(family, ports)?;
        }
    }
    Ok(())
}

/// [`super::restore_behind`].
pub(super) fn restore(ports: &[Port]) -> Result<(), nft::Error> {
    families_of(ports).try_for_each(|family| put(family, ports))
}

fn families_of(ports: &[Port]) -> impl Iterator<Item = Family> {
    FAMILIES
        .into_iter()
        .filter(|family| ports.iter().any(|port| needed(port.datapath).any(|one| one == *family)))
}

fn put(family: Family, ports: &[Port]) -> Result<(), nft::Error> {
    nft::edit(family, TABLE, |table| {
        complete(table);
        for port in ports {
            let map = table.sets.entry(MAP.to_owned()).or_insert_with(map);
            if families(port.datapath).contains(&family) {
                map.insert_data(key(&port.name), jump(&port.name));
                table.chains.insert(port.name.clone(), Chain::regular(port.rules(family)));
            } else {
                map.elements.remove(&key(&port.name));
                table.chains.remove(&port.name);
            }
        }
    })
    .map(drop)
}
