//! One chain of a table at a time, for tables of many independent chains: costs the same however many there are.

use super::socket::Socket;
use super::transaction::Transaction;
use super::{Base, Chain, Data, DataType, Error, Family, Field, Key, Set, Verdict, read, retry};

/// A chain of its own in a table, and how packets come to it.
#[derive(Debug)]
pub struct Branch<'a> {
    /// The family of the table.
    pub family: Family,
    /// The table's name.
    pub table: &'a str,
    /// The chain's name.
    pub name: &'a str,
    /// The table's verdict map that leads to it, and for which key. Nothing for a base chain.
    pub entry: Option<(&'a str, Key)>,
}

impl Branch<'_> {
    /// What the kernel has of it: the chain, and the element that leads there.
    fn found(&self, socket: &Socket) -> Result<(bool, bool), Error> {
        if read::chain(socket, self.family, self.table, self.name)?.is_none() {
            return Ok((false, false));
        }
        let Some((map, key)) = &self.entry else { return Ok((true, false)) };
        let element = match read::set(socket, self.family, self.table, map)? {
            Some(set) => read::elements(socket, self.family, self.table, map, &set)?.contains_key(key),
            None => false,
        };
        Ok((true, element))
    }

    fn delete(&self, transaction: &mut Transaction, (chain, element): (bool, bool)) {
        let mut inside = transaction.inside(self.family, self.table);
        if let (true, Some((map, key))) = (element, &self.entry) {
            inside.delete_elements(map, [key]);
        }
        if chain {
            inside.flush_chain(self.name);
            inside.delete_chain(self.name);
        }
    }

    fn put(&self, transaction: &mut Transaction, counters: &[&str], chain: &Chain) {
        transaction.add_table(self.family, self.table);
        let mut inside = transaction.inside(self.family, self.table);
        counters.iter().for_each(|counter| inside.add_counter(counter));
        inside.add_chain(self.name, chain);
        for (index, rule) in chain.rules.iter().enumerate() {
            inside.add_rule(self.name, index + 1, rule);
        }
        if let Some((map, key)) = &self.entry {
            let definition = Set::map(Field::IfName, DataType::Verdict);
            inside.add_set(map, &definition);
            let verdict = Data::Verdict(Verdict::Jump(self.name.to_owned())).into();
            inside.add_elements(map, [(key, &verdict)]);
        }
    }
}

/// Makes the tables have these chains, in place of those of their names, in one transaction: with the named counters that
/// their rules count in, and the elements that lead there, in maps from device names to verdicts. All else in the tables stays.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn put_chains(chains: &[(Branch<'_>, Chain)], counters: &[&str]) -> Result<(), Error> {
    let branches: Vec<&Branch<'_>> = chains.iter().map(|(branch, _)| branch).collect();
    change(&branches, |transaction, found| {
        for ((branch, chain), found) in chains.iter().zip(found) {
            branch.delete(transaction, *found);
            branch.put(transaction, counters, chain);
        }
    })
}

/// Deletes those of these chains that are there, and the elements that lead to them, in one transaction.
///
/// # Errors
/// [`Error`]; then all are still there.
pub fn delete_chains(branches: &[Branch<'_>]) -> Result<(), Error> {
    change(&branches.iter().collect::<Vec<_>>(), |transaction, found| {
        for (branch, found) in branches.iter().zip(found) {
            branch.delete(transaction, *found);
        }
    })
}

/// Commits what is planned from what the kernel has of some chains, again if somebody else changes that meanwhile.
fn change(branches: &[&Branch<'_>], plan: impl Fn(&mut Transaction, &[(bool, bool)])) -> Result<(), Error> {
    let socket = Socket::open()?;
    let read = || branches.iter().map(|branch| branch.found(&socket)).collect::<Result<Vec<_>, _>>();
    retry(|| {
        let found = read()?;
        let mut transaction = Transaction::default();
        plan(&mut transaction, &found);
        if transaction.is_empty() {
            return Ok(());
        }
        match socket.commit(&mut transaction, None) {
            Err(Error::Refused { .. }) if read()? != found => Err(Error::Conflict),
            result => result,
        }
    })
}

/// A chain with its rules as the kernel has it; nothing when there is none.
///
/// # Errors
/// [`Error`].
pub fn read_chain(family: Family, table: &str, name: &str) -> Result<Option<Chain>, Error> {
    let socket = Socket::open()?;
    retry(|| {
        let Some(mut chain) = read::chain(&socket, family, table, name)? else { return Ok(None) };
        chain.rules = read::chain_rules(&socket, family, table, name)?;
        Ok(Some(chain))
    })
}

/// The names of a table's chains.
///
/// # Errors
/// [`Error`].
pub fn chain_names(family: Family, table: &str) -> Result<Vec<String>, Error> {
    let socket = Socket::open()?;
    retry(|| Ok(read::chains(&socket, family, table)?.into_keys().collect()))
}

/// The base chains of a table, anybody's: where packets enter it. None when there is no such table.
///
/// # Errors
/// [`Error`].
pub fn base_chains(family: Family, table: &str) -> Result<Vec<(String, Base)>, Error> {
    let socket = Socket::open()?;
    let chains = retry(|| read::chains(&socket, family, table))?;
    Ok(chains.into_iter().filter_map(|(name, chain)| Some((name, chain.base?))).collect())
}
