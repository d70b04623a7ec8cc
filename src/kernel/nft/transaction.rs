//! A batch of changes that the kernel does whole or not at all.

use super::codec::{encode, encode_verdict};
use super::message::*;
use super::set::{Data, DataType, Key, Set};
use super::table::{Chain, Family};
use super::wire::Writer;
use super::{Error, Rule};

/// Room left in one message's element list, whose length field ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 60_000;

/// Changes to one table or several, in order.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    out: Writer,
    /// What each message does, by sequence number: 1 for the first.
    steps: Vec<String>,
    last: usize,
}

impl Transaction {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn steps(&self) -> &[String] {
        &self.steps
    }

    /// What the message with this sequence number does.
    pub(super) fn step(&self, sequence: u32) -> String {
        let index = usize::try_from(sequence).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| self.steps.get(index)).cloned().unwrap_or_else(|| "commit".into())
    }

    /// The whole batch. With a `generation`, the kernel refuses it when the ruleset is no longer that one.
    pub(super) fn batch(&mut self, generation: Option<u32>) -> Result<Vec<u8>, Error> {
        self.out.add_flags(self.last, ACK);
        let mut batch = Writer::default();
        batch.message(BATCH_BEGIN, REQUEST, 0, &header(0, SUBSYSTEM), |m| {
            generation.iter().for_each(|generation| m.put_u32(BATCH_GENERATION, *generation));
        });
        let mut end = Writer::default();
        end.message(BATCH_END, REQUEST, 0, &header(0, SUBSYSTEM), |_| {});
        let parts = [batch.finish(), self.out.finish(), end.finish()];
        let parts: Option<Vec<_>> = parts.into_iter().collect();
        Ok(parts.ok_or(Error::TooLong)?.concat())
    }

    fn add(
        &mut self,
        message: u16,
        flags: u16,
        family: Family,
        step: String,
        body: impl FnOnce(&mut Writer),
    ) {
        self.last = self.out.len();
        self.steps.push(step);
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.out.message(kind(message), REQUEST | flags, sequence, &header(family.number(), 0), body);
    }

    /// Starts a table, or wakes it up if it is dormant.
    pub(super) fn add_table(&mut self, family: Family, table: &str) {
        self.add(NEW_TABLE, CREATE, family, format!("add table {family} {table}"), |m| {
            m.put_str(TABLE, table);
            m.put_u32(TABLE_FLAGS, 0);
        });
    }

    pub(super) fn delete_table(&mut self, family: Family, table: &str) {
        self.add(DELETE_TABLE, 0, family, format!("delete table {family} {table}"), |m| {
            m.put_str(TABLE, table);
        });
    }

    /// A message that this type has no method for.
    #[cfg(test)]
    pub(super) fn raw(&mut self, message: u16, family: Family, body: impl FnOnce(&mut Writer)) {
        self.add(message, 0, family, "raw".into(), body);
    }

    /// Steps on what is inside one table.
    pub(super) fn inside<'a>(&'a mut self, family: Family, table: &'a str) -> Inside<'a> {
        Inside { transaction: self, family, table }
    }
}

/// Steps on what is inside one table.
pub(super) struct Inside<'a> {
    transaction: &'a mut Transaction,
    family: Family,
    table: &'a str,
}

impl Inside<'_> {
    fn add(&mut self, message: u16, flags: u16, step: &str, name: &str, body: impl FnOnce(&mut Writer)) {
        let Self { family, table, .. } = *self;
        let step = format!("{step} {name} in table {family} {table}");
        self.transaction.add(message, flags, family, step, |m| {
            m.put_str(TABLE, table);
            body(m);
        });
    }

    pub(super) fn add_counter(&mut self, name: &str) {
        self.add(NEW_OBJECT, CREATE, "add counter", name, |m| {
            m.put_str(OBJECT_NAME, name);
            m.put_u32(OBJECT_TYPE, COUNTER);
            m.nest(OBJECT_DATA, |m| {
                m.put_u64(COUNTER_BYTES, 0);
                m.put_u64(COUNTER_PACKETS, 0);
            });
        });
    }

    pub(super) fn delete_counter(&mut self, name: &str) {
        self.add(DELETE_OBJECT, 0, "delete counter", name, |m| {
            m.put_str(OBJECT_NAME, name);
            m.put_u32(OBJECT_TYPE, COUNTER);
        });
    }

    pub(super) fn add_chain(&mut self, name: &str, chain: &Chain) {
        self.add(NEW_CHAIN, CREATE, "add chain", name, |m| {
            m.put_str(CHAIN_NAME, name);
            let Some(base) = &chain.base else { return };
            m.nest(CHAIN_HOOK, |m| {
                m.put_u32(HOOK_NUMBER, base.hook.number());
                m.put_u32(HOOK_PRIORITY, base.priority.cast_unsigned());
                base.device.iter().for_each(|device| m.put_str(HOOK_DEVICE, device));
            });
            m.put_u32(CHAIN_POLICY, u32::from(base.policy == super::Policy::Accept));
            m.put_str(CHAIN_TYPE, base.kind.name());
        });
    }

    pub(super) fn delete_chain(&mut self, name: &str) {
        self.add(DELETE_CHAIN, 0, "delete chain", name, |m| m.put_str(CHAIN_NAME, name));
    }

    /// Deletes all rules of a chain.
    pub(super) fn flush_chain(&mut self, name: &str) {
        self.add(DELETE_RULE, 0, "flush chain", name, |m| m.put_str(RULE_CHAIN, name));
    }

    pub(super) fn add_rule(&mut self, chain: &str, number: usize, rule: &Rule) {
        let name = match &rule.comment {
            Some(comment) => format!("{number} of chain {chain} ({comment})"),
            None => format!("{number} of chain {chain}"),
        };
        self.add(NEW_RULE, CREATE | APPEND, "add rule", &name, |m| {
            m.put_str(RULE_CHAIN, chain);
            m.nest(RULE_EXPRESSIONS, |m| encode(m, &rule.expressions));
            rule.comment.iter().for_each(|comment| m.put(RULE_USERDATA, &comment_data(comment)));
        });
    }

    pub(super) fn add_set(&mut self, name: &str, set: &Set) {
        let id = u32::try_from(self.transaction.steps.len()).unwrap_or(u32::MAX);
        self.add(NEW_SET, CREATE, "add set", name, |m| {
            m.put_str(SET_NAME, name);
            m.put_u32(SET_FLAGS, set_flags(set));
            m.put_u32(SET_KEY_TYPE, set.key.number());
            m.put_u32(SET_KEY_LENGTH, length(set.key.len()));
            match &set.data {
                Some(DataType::Verdict) => {
                    m.put_u32(SET_DATA_TYPE, DATA_VERDICT);
                    m.put_u32(SET_DATA_LENGTH, 0);
                }
                Some(DataType::Value(data)) => {
                    m.put_u32(SET_DATA_TYPE, data.number());
                    m.put_u32(SET_DATA_LENGTH, length(data.len()));
                }
                None => {}
            }
            describe_concatenation(m, set);
            m.put_u32(SET_ID, id);
            m.put(SET_USERDATA, &set_data(set));
        });
    }

    pub(super) fn delete_set(&mut self, name: &str) {
        self.add(DELETE_SET, 0, "delete set", name, |m| m.put_str(SET_NAME, name));
    }

    pub(super) fn add_elements<'e>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Data)>,
    ) {
        self.elements(NEW_ELEMENT, CREATE, "add elements to set", set, elements);
    }

    pub(super) fn delete_elements<'e>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Data)>,
    ) {
        self.elements(DELETE_ELEMENT, 0, "delete elements of set", set, elements);
    }

    /// As many messages as the elements need.
    fn elements<'e>(
        &mut self,
        message: u16,
        flags: u16,
        step: &str,
        set: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Data)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.add(message, flags, step, set, |m| {
                m.put_str(ELEMENTS_SET, set);
                m.nest(ELEMENTS, |m| {
                    let start = m.len();
                    while m.len() - start < ELEMENTS_PER_MESSAGE {
                        let Some((key, data)) = elements.next() else { break };
                        element(m, key, data);
                    }
                });
            });
        }
    }
}

fn element(out: &mut Writer, key: &Key, data: &Data) {
    out.nest(LIST_ELEMENT, |m| {
        m.nest(ELEMENT_KEY, |m| m.put(1, &key.first));
        match data {
            Data::None => {}
            Data::Value(value) => m.nest(ELEMENT_DATA, |m| m.put(1, value)),
            Data::Verdict(verdict) => m.nest(ELEMENT_DATA, |m| encode_verdict(m, verdict)),
        }
    });
    if let Some(behind) = key.last.as_deref().and_then(successor) {
        out.nest(LIST_ELEMENT, |m| {
            m.put_u32(ELEMENT_FLAGS, RANGE_END);
            m.nest(ELEMENT_KEY, |m| m.put(1, &behind));
        });
    }
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

fn set_flags(set: &Set) -> u32 {
    let mut flags = 0;
    for (set_it, flag) in
        [(set.interval, SET_INTERVAL), (set.data.is_some(), SET_MAP), (is_ranged_concat(set), SET_CONCAT)]
    {
        flags |= if set_it { flag } else { 0 };
    }
    flags
}

fn is_ranged_concat(set: &Set) -> bool {
    set.interval && set.key.0.len() > 1
}

fn describe_concatenation(out: &mut Writer, set: &Set) {
    if !is_ranged_concat(set) {
        return;
    }
    out.nest(SET_DESCRIPTION, |m| {
        m.nest(SET_DESCRIPTION_CONCAT, |m| {
            for field in &set.key.0 {
                m.nest(LIST_ELEMENT, |m| m.put_u32(SET_FIELD_LENGTH, length(field.len())));
            }
        });
    });
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What `nft list` wants to know of a set: the byte order of its keys, of its data, and whether it may merge
/// elements (nftables' `NFTNL_UDATA_SET_*`).
fn set_data(set: &Set) -> Vec<u8> {
    const KEY_ORDER: u8 = 0;
    const DATA_ORDER: u8 = 1;
    const MERGE: u8 = 2;
    let order = |kind: &super::Type| match kind.0.as_slice() {
        [field] if field.is_network_order() => 2_u32,
        [_] => 1,
        _ => 0,
    };
    let mut data = user_data(KEY_ORDER, &order(&set.key).to_ne_bytes());
    if let Some(kind) = &set.data {
        let order = if let DataType::Value(kind) = kind { order(kind) } else { 0 };
        data.extend(user_data(DATA_ORDER, &order.to_ne_bytes()));
    }
    data.extend(user_data(MERGE, &0_u32.to_ne_bytes()));
    data
}

fn comment_data(comment: &str) -> Vec<u8> {
    let mut text = comment.as_bytes().to_vec();
    text.push(0);
    user_data(COMMENT, &text)
}

/// One entry of user data: type, length, value.
fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut data = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    data.extend_from_slice(value);
    data
}
