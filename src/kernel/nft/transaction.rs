//! A batch of changes that the kernel does whole or not at all.

use super::codec::encode;
use super::element::Element;
use super::key::Key;
use super::message::*;
use super::set::Set;
use super::table::{Chain, Family};
use super::wire::Writer;
use super::{Error, Rule, definition, element, user_data};

/// Room left in one message's element list, whose length field ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 60_000;

/// How the steps begin that delete elements.
pub(super) const DELETE_ELEMENTS: &str = "delete elements of set";

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
        let family = self.family;
        self.add(NEW_CHAIN, CREATE, "add chain", name, |m| {
            m.put_str(CHAIN_NAME, name);
            let Some(base) = &chain.base else { return };
            m.nest(CHAIN_HOOK, |m| {
                m.put_u32(HOOK_NUMBER, base.hook.number_in(family));
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
        self.add(NEW_RULE, CREATE | APPEND, "add rule", &name, |m| rule_body(m, chain, rule));
    }

    /// Puts a rule in front of all others of its chain.
    pub(super) fn insert_rule(&mut self, chain: &str, rule: &Rule) {
        let name = format!("({}) in chain {chain}", rule.comment.as_deref().unwrap_or_default());
        self.add(NEW_RULE, CREATE, "insert rule", &name, |m| rule_body(m, chain, rule));
    }

    /// Deletes one rule, by the number that it was read with.
    pub(super) fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.add(DELETE_RULE, 0, "delete rule", &format!("{handle} of chain {chain}"), |m| {
            m.put_str(RULE_CHAIN, chain);
            m.put_u64(RULE_HANDLE, handle);
        });
    }

    pub(super) fn add_set(&mut self, name: &str, set: &Set) {
        let id = u32::try_from(self.transaction.steps.len()).unwrap_or(u32::MAX);
        self.add(NEW_SET, CREATE, "add set", name, |m| {
            m.put_str(SET_NAME, name);
            definition::encode(m, set);
            m.put_u32(SET_ID, id);
        });
    }

    pub(super) fn delete_set(&mut self, name: &str) {
        self.add(DELETE_SET, 0, "delete set", name, |m| m.put_str(SET_NAME, name));
    }

    /// Adds elements; those that are there already stay.
    pub(super) fn add_elements<'e>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Element)>,
    ) {
        let elements = elements.into_iter().map(|(key, element)| (key, Some(element)));
        self.elements(NEW_ELEMENT, CREATE, "add elements to set", set, elements);
    }

    /// Adds elements; refused with EEXIST if one is there already.
    pub(super) fn add_new_elements<'e>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = (&'e Key, &'e Element)>,
    ) {
        let elements = elements.into_iter().map(|(key, element)| (key, Some(element)));
        self.elements(NEW_ELEMENT, CREATE | EXCLUSIVE, "add elements to set", set, elements);
    }

    /// Deletes elements; refused with ENOENT if one is not there.
    pub(super) fn delete_elements<'e>(&mut self, set: &str, keys: impl IntoIterator<Item = &'e Key>) {
        let elements = keys.into_iter().map(|key| (key, None));
        self.elements(DELETE_ELEMENT, 0, DELETE_ELEMENTS, set, elements);
    }

    /// As many messages as the elements need.
    fn elements<'e>(
        &mut self,
        message: u16,
        flags: u16,
        step: &str,
        set: &str,
        elements: impl Iterator<Item = (&'e Key, Option<&'e Element>)>,
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.add(message, flags, step, set, |m| {
                m.put_str(ELEMENTS_SET, set);
                m.nest(ELEMENTS, |m| {
                    let start = m.len();
                    while m.len() - start < ELEMENTS_PER_MESSAGE {
                        let Some((key, element)) = elements.next() else { break };
                        element::encode(m, key, element);
                    }
                });
            });
        }
    }
}

fn rule_body(out: &mut Writer, chain: &str, rule: &Rule) {
    out.put_str(RULE_CHAIN, chain);
    out.nest(RULE_EXPRESSIONS, |m| encode(m, &rule.expressions));
    rule.comment.iter().for_each(|comment| out.put(RULE_USERDATA, &user_data::of_comment(comment)));
}
