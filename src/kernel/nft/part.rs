//! One chain of a table at a time, for tables of many independent chains: costs the same however many there are.

use std::collections::BTreeSet;

use super::read;
use super::socket::Socket;
use super::transaction::Transaction;
use super::{Base, Chain, Error, Family, retry};

/// Makes the table have `chain`, in place of one of that name, and the named counters that its rules count in.
/// Everything else in the table stays.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn put_chain(
    family: Family,
    table: &str,
    counters: &[&str],
    name: &str,
    chain: &Chain,
) -> Result<(), Error> {
    let socket = Socket::open()?;
    let is_there = || Ok(read::chain(&socket, family, table, name)?.is_some());
    retry(|| {
        let there = is_there()?;
        let mut transaction = Transaction::default();
        transaction.add_table(family, table);
        let mut inside = transaction.inside(family, table);
        if there {
            inside.flush_chain(name);
            inside.delete_chain(name);
        }
        counters.iter().for_each(|counter| inside.add_counter(counter));
        inside.add_chain(name, chain);
        for (index, rule) in chain.rules.iter().enumerate() {
            inside.add_rule(name, index + 1, rule);
        }
        commit(&socket, &mut transaction, there, is_there)
    })
}

/// Deletes a chain that nothing jumps to. True when it was there.
///
/// # Errors
/// [`Error`]; then it is still there.
pub fn delete_chain(family: Family, table: &str, name: &str) -> Result<bool, Error> {
    let socket = Socket::open()?;
    let is_there = || Ok(read::chain(&socket, family, table, name)?.is_some());
    retry(|| {
        if !is_there()? {
            return Ok(false);
        }
        let mut transaction = Transaction::default();
        let mut inside = transaction.inside(family, table);
        inside.flush_chain(name);
        inside.delete_chain(name);
        commit(&socket, &mut transaction, true, is_there).map(|()| true)
    })
}

/// Deletes those of these chains that are there, in one transaction. Nothing jumps to them.
///
/// # Errors
/// [`Error`]; then all are still there.
pub fn delete_chains(family: Family, table: &str, names: &BTreeSet<String>) -> Result<(), Error> {
    let socket = Socket::open()?;
    let there = || -> Result<BTreeSet<String>, Error> {
        Ok(read::chains(&socket, family, table)?.into_keys().filter(|name| names.contains(name)).collect())
    };
    retry(|| {
        let found = there()?;
        if found.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::default();
        let mut inside = transaction.inside(family, table);
        for name in &found {
            inside.flush_chain(name);
            inside.delete_chain(name);
        }
        match socket.commit(&mut transaction, None) {
            Err(Error::Refused { .. }) if there()? != found => Err(Error::Conflict),
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

/// Commits what was planned while the chain was `there` or not.
fn commit(
    socket: &Socket,
    transaction: &mut Transaction,
    there: bool,
    is_there: impl Fn() -> Result<bool, Error>,
) -> Result<(), Error> {
    match socket.commit(transaction, None) {
        Err(Error::Refused { .. }) if is_there()? != there => Err(Error::Conflict),
        result => result,
    }
}
