//! Rules of ours in a chain of somebody else's table, which stays as it is otherwise.

use super::connection::attempt;
use super::socket::Socket;
use super::transaction::Transaction;
use super::{Changes, Error, Family, Rule, read, retry};

/// A table in which rules of ours are guests.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    /// The table's family.
    pub family: Family,
    /// The table.
    pub table: &'a str,
    /// The chain that packets come by.
    pub chain: &'a str,
    /// A chain that the table's owner has for rules of others: they belong there where `chain` leads to it.
    pub preferred: &'a str,
    /// The comments of our rules begin so, and nobody else's.
    pub mark: &'a str,
}

impl Guest<'_> {
    /// Makes our rules be `rules`, in this order, in one of the two chains, in front of all others when they have to be
    /// written; others may put theirs in front later, unless these leave no packet to ours. Changes nothing where the table
    /// or the chain is not there.
    ///
    /// # Errors
    /// [`Error`]; then the kernel has what it had before.
    pub fn keep(&self, rules: &[Rule]) -> Result<Changes, Error> {
        let socket = Socket::open()?;
        retry(|| {
            attempt(&socket, |transaction| {
                let chains = [self.chain, self.preferred].map(|name| Held::read(&socket, self, name));
                let [chain, preferred] = chains;
                self.plan(&[chain?, preferred?], rules, transaction);
                Ok(())
            })
        })
    }

    /// Our rules, each with the name of its chain.
    ///
    /// # Errors
    /// [`Error`].
    pub fn kept(&self) -> Result<Vec<(String, Rule)>, Error> {
        let socket = Socket::open()?;
        let mut kept = Vec::new();
        for name in [self.chain, self.preferred] {
            let held = retry(|| Held::read(&socket, self, name))?;
            kept.extend(held.ours().map(|(_, rule)| (name.to_owned(), rule.clone())));
        }
        Ok(kept)
    }

    fn plan(&self, chains: &[Held<'_>; 2], rules: &[Rule], transaction: &mut Transaction) {
        let [chain, preferred] = chains;
        let leads = preferred.is_there && chain.rules.iter().any(|(_, rule)| rule.leads_to(self.preferred));
        let place = if leads { preferred.name } else { chain.name };
        for held in chains.iter().filter(|held| held.is_there) {
            let wanted = if held.name == place { rules } else { &[] };
            if held.has(wanted) {
                continue;
            }
            let mut inside = transaction.inside(self.family, self.table);
            held.ours().for_each(|(handle, _)| inside.delete_rule(held.name, *handle));
            wanted.iter().rev().for_each(|rule| inside.insert_rule(held.name, rule));
        }
    }
}

/// A chain as the kernel has it.
struct Held<'a> {
    name: &'a str,
    mark: &'a str,
    is_there: bool,
    rules: Vec<(u64, Rule)>,
}

impl<'a> Held<'a> {
    fn read(socket: &Socket, guest: &Guest<'a>, name: &'a str) -> Result<Self, Error> {
        let Guest { family, table, mark, .. } = *guest;
        let is_there = read::chain(socket, family, table, name)?.is_some();
        let rules = match is_there {
            true => read::chain_rules_with_handles(socket, family, table, name)?,
            false => Vec::new(),
        };
        Ok(Self { name, mark, is_there, rules })
    }

    fn ours(&self) -> impl Iterator<Item = &(u64, Rule)> {
        self.rules.iter().filter(|(_, rule)| self.is_ours(rule))
    }

    fn is_ours(&self, rule: &Rule) -> bool {
        rule.comment.as_deref().is_some_and(|comment| comment.starts_with(self.mark))
    }

    /// Whether our rules are these, and packets come to all of them.
    fn has(&self, wanted: &[Rule]) -> bool {
        let reached = self.rules.iter().take_while(|(_, rule)| !rule.ends_chain()).map(|(_, rule)| rule);
        let reached = reached.filter(|rule| self.is_ours(rule));
        self.ours().map(|(_, rule)| rule).eq(wanted) && reached.eq(wanted)
    }
}
