//! Reads what the kernel has.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{comment_match, decode};
use super::element::Element;
use super::key::Key;
use super::message::*;
use super::set::Set;
use super::socket::Socket;
use super::table::{Base, Chain, ChainKind, Counter, Family, Hook, Policy, Table, TableState};
use super::wire::{Message, Writer, attributes, be32, be64, find, text};
use super::{Error, Rule, definition, element};

/// The table and everything in it; nothing when there is none.
pub(super) fn table(socket: &Socket, family: Family, name: &str) -> Result<Option<TableState>, Error> {
    let mut dormant = None;
    socket.get(
        GET_TABLE,
        family.number(),
        |m| m.put_str(TABLE, name),
        |message| {
            dormant = Some(number(body(&message), TABLE_FLAGS) & DORMANT != 0);
        },
    )?;
    let Some(dormant) = dormant else { return Ok(None) };
    let counters = counters(socket, family, name)?;
    let mut table = Table::new(family, name);
    table.counters = counters.keys().cloned().collect();
    table.sets = sets(socket, family, name)?;
    table.chains = chains(socket, family, name)?;
    for (chain, rule) in rules(socket, family, name)? {
        table.chains.entry(chain).or_default().rules.push(rule);
    }
    Ok(Some(TableState { table, counters, dormant }))
}

/// The names of all tables of a family.
pub(super) fn tables(socket: &Socket, family: Family) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    socket.dump(
        GET_TABLE,
        family.number(),
        |_| {},
        |message| {
            names.extend(string(body(&message), TABLE));
        },
    )?;
    Ok(names)
}

/// The named counters of a table.
pub(super) fn counters(
    socket: &Socket,
    family: Family,
    table: &str,
) -> Result<BTreeMap<String, Counter>, Error> {
    let mut counters = BTreeMap::new();
    let filter = |m: &mut Writer| {
        m.put_str(TABLE, table);
        m.put_u32(OBJECT_TYPE, COUNTER);
    };
    socket.dump(GET_OBJECT, family.number(), filter, |message| {
        let body = body(&message);
        if string(body, TABLE).as_deref() == Some(table) && number(body, OBJECT_TYPE) == COUNTER {
            let data = find(body, OBJECT_DATA).unwrap_or_default();
            let value = |kind| find(data, kind).and_then(be64).unwrap_or(0);
            let counter = Counter { packets: value(COUNTER_PACKETS), bytes: value(COUNTER_BYTES) };
            counters.extend(string(body, OBJECT_NAME).map(|name| (name, counter)));
        }
    })?;
    Ok(counters)
}

/// One chain, without its rules.
pub(super) fn chain(
    socket: &Socket,
    family: Family,
    table: &str,
    name: &str,
) -> Result<Option<Chain>, Error> {
    let mut chain = None;
    let named = |m: &mut Writer| {
        m.put_str(TABLE, table);
        m.put_str(CHAIN_NAME, name);
    };
    socket.get(GET_CHAIN, family.number(), named, |message| {
        let body = body(&message);
        let base = find(body, CHAIN_HOOK).map(|hook| base(family, body, hook));
        chain = Some(Chain { base, rules: Vec::new() });
    })?;
    Ok(chain)
}

pub(super) fn chains(socket: &Socket, family: Family, table: &str) -> Result<BTreeMap<String, Chain>, Error> {
    let mut chains = BTreeMap::new();
    socket.dump(
        GET_CHAIN,
        family.number(),
        |m| m.put_str(TABLE, table),
        |message| {
            let body = body(&message);
            if string(body, TABLE).as_deref() == Some(table) {
                let base = find(body, CHAIN_HOOK).map(|hook| base(family, body, hook));
                let chain = Chain { base, rules: Vec::new() };
                chains.extend(string(body, CHAIN_NAME).map(|name| (name, chain)));
            }
        },
    )?;
    Ok(chains)
}

fn base(family: Family, chain: &[u8], hook: &[u8]) -> Base {
    let devices = find(hook, HOOK_DEVICES).unwrap_or_default();
    let names: Vec<_> = attributes(devices).map(|(_, name)| text(name)).collect();
    let device = if names.is_empty() { string(hook, HOOK_DEVICE) } else { Some(names.join(",")) };
    Base {
        kind: ChainKind::from_name(string(chain, CHAIN_TYPE).unwrap_or_default()),
        hook: Hook::from_number(family, number(hook, HOOK_NUMBER)),
        priority: number(hook, HOOK_PRIORITY).cast_signed(),
        policy: if number(chain, CHAIN_POLICY) == 0 { Policy::Drop } else { Policy::Accept },
        device,
    }
}

fn rules(socket: &Socket, family: Family, table: &str) -> Result<Vec<(String, Rule)>, Error> {
    let rules = rules_of(socket, family, table, None)?;
    Ok(rules.into_iter().map(|found| (found.chain, found.rule)).collect())
}

/// The rules of one chain in order.
pub(super) fn chain_rules(
    socket: &Socket,
    family: Family,
    table: &str,
    chain: &str,
) -> Result<Vec<Rule>, Error> {
    Ok(chain_rules_with_handles(socket, family, table, chain)?.into_iter().map(|(_, rule)| rule).collect())
}

/// The same, each with the number by which the kernel knows it.
pub(super) fn chain_rules_with_handles(
    socket: &Socket,
    family: Family,
    table: &str,
    chain: &str,
) -> Result<Vec<(u64, Rule)>, Error> {
    let rules = rules_of(socket, family, table, Some(chain))?;
    let mine = rules.into_iter().filter(|found| found.chain == chain);
    Ok(mine.map(|found| (found.handle, found.rule)).collect())
}

/// The rules of a table: the chain of each, its handle, and the rule.
pub(super) fn rules_with_handles(
    socket: &Socket,
    family: Family,
    table: &str,
) -> Result<Vec<(String, u64, Rule)>, Error> {
    let rules = rules_of(socket, family, table, None)?;
    Ok(rules.into_iter().map(|found| (found.chain, found.handle, found.rule)).collect())
}

/// A rule, and where it is.
struct Found {
    chain: String,
    handle: u64,
    rule: Rule,
}

fn rules_of(socket: &Socket, family: Family, table: &str, chain: Option<&str>) -> Result<Vec<Found>, Error> {
    let mut rules = Vec::new();
    socket.dump(
        GET_RULE,
        family.number(),
        |m| {
            m.put_str(TABLE, table);
            chain.iter().for_each(|chain| m.put_str(RULE_CHAIN, chain));
        },
        |message| {
            let body = body(&message);
            if string(body, TABLE).as_deref() == Some(table) {
                let list = find(body, RULE_EXPRESSIONS).unwrap_or_default();
                let comment = find(body, RULE_USERDATA).and_then(comment).or_else(|| comment_match(list));
                let rule = Rule { comment, expressions: decode(list) };
                let handle = find(body, RULE_HANDLE).and_then(be64).unwrap_or_default();
                rules.extend(string(body, RULE_CHAIN).map(|chain| Found { chain, handle, rule }));
            }
        },
    )?;
    Ok(rules)
}

/// The comment in a rule's user data: entries of type, length, value.
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        data = &rest[value.len()..];
    }
    None
}

/// The definition of one set, without its elements.
pub(super) fn set(socket: &Socket, family: Family, table: &str, name: &str) -> Result<Option<Set>, Error> {
    let mut set = None;
    let named = |m: &mut Writer| {
        m.put_str(TABLE, table);
        m.put_str(SET_NAME, name);
    };
    socket.get(GET_SET, family.number(), named, |message| set = Some(definition::decode(body(&message))))?;
    Ok(set)
}

fn sets(socket: &Socket, family: Family, table: &str) -> Result<BTreeMap<String, Set>, Error> {
    /// `NFT_SET_ANONYMOUS`: part of a rule.
    const ANONYMOUS: u32 = 1;
    let mut sets = BTreeMap::new();
    socket.dump(
        GET_SET,
        family.number(),
        |m| m.put_str(TABLE, table),
        |message| {
            let body = body(&message);
            let ours = string(body, TABLE).as_deref() == Some(table);
            if ours && number(body, SET_FLAGS) & ANONYMOUS == 0 {
                sets.extend(string(body, SET_NAME).map(|name| (name, definition::decode(body))));
            }
        },
    )?;
    for (name, set) in sets.iter_mut().filter(|(_, set)| !set.dynamic) {
        set.elements = elements(socket, family, table, name, set)?;
    }
    Ok(sets)
}

/// The elements of one set of a definition that is known.
pub(super) fn elements(
    socket: &Socket,
    family: Family,
    table: &str,
    name: &str,
    set: &Set,
) -> Result<BTreeMap<Key, Element>, Error> {
    let mut found = Vec::new();
    let filter = |m: &mut Writer| {
        m.put_str(TABLE, table);
        m.put_str(ELEMENTS_SET, name);
    };
    socket.dump(GET_ELEMENT, family.number(), filter, |message| {
        let list = find(body(&message), ELEMENTS).unwrap_or_default();
        found.extend(attributes(list).filter_map(|(_, element)| element::decode(element)));
    })?;
    Ok(match (set.interval, set.key.is_concatenation()) {
        (false, _) => element::values(found),
        (true, false) => element::ranges(found),
        (true, true) => element::concatenated_ranges(found),
    })
}

/// The attributes, behind `struct nfgenmsg`.
fn body<'a>(message: &Message<'a>) -> &'a [u8] {
    message.payload.get(4..).unwrap_or_default()
}

fn number(attributes: &[u8], kind: u16) -> u32 {
    find(attributes, kind).and_then(be32).unwrap_or(0)
}

fn string(attributes: &[u8], kind: u16) -> Option<String> {
    find(attributes, kind).map(text)
}
