//! nftables over netlink: whole tables as values, compared with what the kernel has, changed in one transaction.
//!
//! A controller owns a table, makes the [`Table`] it wants (pure), and calls [`apply`]. That reads the kernel's
//! table, and changes what differs: named counters and sets that stay keep their content. Everything here acts in
//! the network namespace of the calling thread, and blocks for about a millisecond.
//!
//! While the kernel resizes a large hash set in the background, its dump can miss elements. They are then added
//! once more, which changes nothing.

mod codec;
mod difference;
mod error;
mod expression;
pub(crate) mod message;
mod part;
mod read;
mod rule;
mod set;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};

pub use error::Error;
pub use expression::{
    Comparison, Conntrack, End, Expression, FIB_DESTINATION, FibResult, Ip, Meta, NAT_RANDOM_FULLY, NatKind,
    Numgen, PayloadBase, Register, Reject, Verdict, ct_state,
};
pub use part::{base_chains, chain_names, delete_chain, put_chain, read_chain};
pub use rule::{Rule, octets, padded};
pub use set::{Data, DataType, Field, Key, Set, Type};
pub use table::{Base, Chain, ChainKind, Counter, Family, Hook, Policy, Table, TableState};

use socket::Socket;
use transaction::Transaction;

/// How often somebody else may change the ruleset between our reading and writing.
const ATTEMPTS: usize = 200;

/// What was changed in the kernel, step by step, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes(pub Vec<String>);

impl Changes {
    /// Nothing was to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// Makes the kernel's tables equal to `tables`, all in one transaction, and leaves all other tables alone.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn apply(tables: &[Table]) -> Result<Changes, Error> {
    let socket = Socket::open()?;
    attempt(&socket, |transaction| {
        for wanted in tables {
            let have = read::table(&socket, wanted.family, &wanted.name)?;
            difference::steps(transaction, have.as_ref(), wanted);
        }
        Ok(())
    })
}

/// Changes one table from what it is: `edit` gets it as the kernel has it (empty when there is none) and is called
/// again whenever somebody else was faster, so that concurrent edits of different parts all survive.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn edit(family: Family, name: &str, mut edit: impl FnMut(&mut Table)) -> Result<Changes, Error> {
    let socket = Socket::open()?;
    attempt(&socket, |transaction| {
        let have = read::table(&socket, family, name)?;
        let mut wanted = have.as_ref().map_or_else(|| Table::new(family, name), |have| have.table.clone());
        edit(&mut wanted);
        difference::steps(transaction, have.as_ref(), &wanted);
        Ok(())
    })
}

/// Deletes a table with all it has. True when it was there.
///
/// # Errors
/// [`Error`]; then it is still there.
pub fn delete(family: Family, name: &str) -> Result<bool, Error> {
    let socket = Socket::open()?;
    let changes = attempt(&socket, |transaction| {
        if read::tables(&socket, family)?.contains(name) {
            transaction.delete_table(family, name);
        }
        Ok(())
    })?;
    Ok(!changes.is_empty())
}

/// A table as the kernel has it; nothing when there is none.
///
/// # Errors
/// [`Error`].
pub fn read(family: Family, name: &str) -> Result<Option<TableState>, Error> {
    let socket = Socket::open()?;
    retry(|| {
        let before = socket.generation()?;
        let state = read::table(&socket, family, name)?;
        if socket.generation()? == before { Ok(state) } else { Err(Error::Conflict) }
    })
}

/// The named counters of a table; none when there is no such table.
///
/// # Errors
/// [`Error`].
pub fn counters(family: Family, name: &str) -> Result<BTreeMap<String, Counter>, Error> {
    let socket = Socket::open()?;
    retry(|| read::counters(&socket, family, name))
}

/// The names of all tables of a family, anybody's.
///
/// # Errors
/// [`Error`].
pub fn tables(family: Family) -> Result<BTreeSet<String>, Error> {
    let socket = Socket::open()?;
    retry(|| read::tables(&socket, family))
}

/// Reads, plans and commits, until nobody has changed the ruleset in between.
fn attempt(
    socket: &Socket,
    mut plan: impl FnMut(&mut Transaction) -> Result<(), Error>,
) -> Result<Changes, Error> {
    retry(|| {
        let generation = socket.generation()?;
        let mut transaction = Transaction::default();
        plan(&mut transaction)?;
        if !transaction.is_empty() {
            socket.commit(&mut transaction, Some(generation))?;
        }
        Ok(Changes(transaction.steps().to_vec()))
    })
}

fn retry<T>(mut action: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 0..ATTEMPTS {
        match action() {
            Err(Error::Conflict) => {}
            result => return result,
        }
    }
    Err(Error::Busy)
}
