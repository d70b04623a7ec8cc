//! nftables over netlink: whole tables as values, compared with what the kernel has, and changes of elements alone.
//!
//! A controller owns a table, and there are two ways to change it:
//!
//! - [`apply`] makes the kernel's table be a [`Table`] that the controller wants (pure): it reads the kernel's table and
//!   changes what differs, in one transaction; named counters and sets that stay keep their content. It assumes nothing,
//!   so it is what to call at start, when somebody else changed the table, at a slow resync, and when the structure
//!   changes: chains, rules, definitions of sets. It costs as much as there is in the table (45,000 elements: 0.2 s).
//! - [`Connection::update`] deletes and adds the elements of an [`Update`], in one transaction, and reads nothing: it
//!   costs as much as there is to change (one element: 4 us, whatever is in the table; only interval sets of
//!   concatenations cost in proportion to their size). It is for changes that
//!   follow from an event, made from the event alone. It assumes that the kernel has what the controller believes; where
//!   it has not, nothing is done, and [`Error::Stale`] asks for an `apply`.
//!
//! Rules in somebody else's table, which has to stay as it is otherwise, are for a [`Guest`]; [`evict_chains`] takes chains out of
//! one.
//!
//! Elements that packets add to a [dynamic](Set::dynamic) set are the packets': neither way touches them.
//!
//! A [`Connection`] acts in the network namespace of the thread that opened it, the functions here in that of the
//! calling thread; all of them block, `apply` of a small table for about a millisecond.
//!
//! While the kernel resizes a large hash set in the background, its dump can miss elements. They are then added
//! once more, which changes nothing.

mod codec;
mod connection;
mod definition;
mod difference;
mod element;
mod error;
mod evict;
mod expression;
mod field;
mod guest;
mod key;
pub(crate) mod message;
mod part;
mod read;
mod rule;
mod selector;
mod set;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod update;
mod user_data;
pub(crate) mod wire;

use std::collections::{BTreeMap, BTreeSet};

pub use connection::Connection;
pub use element::{Data, Element};
pub use error::Error;
pub use evict::evict_chains;
pub use expression::{
    Comparison, Conntrack, ConntrackTuple, End, Expression, FIB_DESTINATION, FibResult, Ip, Meta,
    NAT_RANDOM_FULLY, NatKind, Numgen, PayloadBase, Register, Reject, SetOperation, Verdict, ct_direction,
    ct_state, ct_status,
};
pub use field::{Field, Type};
pub use guest::Guest;
pub use key::{Concat, Key};
pub use part::{Branch, base_chains, chain_names, delete_chains, put_chains, read_chain};
pub use rule::{Rule, octets, padded};
pub use selector::Selector;
pub use set::{DataType, Expiry, Set};
pub use socket::Sent;
pub use table::{Base, Chain, ChainKind, Counter, Family, Hook, Policy, Table, TableState};
pub use update::Update;

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

/// [`Connection::apply`] on a connection of its own.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn apply(tables: &[Table]) -> Result<Changes, Error> {
    Connection::open()?.apply(tables)
}

/// [`Connection::edit`] on a connection of its own.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn edit(family: Family, name: &str, edit: impl FnMut(&mut Table)) -> Result<Changes, Error> {
    Connection::open()?.edit(family, name, edit)
}

/// [`Connection::delete`] on a connection of its own.
///
/// # Errors
/// [`Error`]; then it is still there.
pub fn delete(family: Family, name: &str) -> Result<bool, Error> {
    Connection::open()?.delete(family, name)
}

/// [`Connection::read`] on a connection of its own.
///
/// # Errors
/// [`Error`].
pub fn read(family: Family, name: &str) -> Result<Option<TableState>, Error> {
    Connection::open()?.read(family, name)
}

/// [`Connection::counters`] on a connection of its own.
///
/// # Errors
/// [`Error`].
pub fn counters(family: Family, name: &str) -> Result<BTreeMap<String, Counter>, Error> {
    Connection::open()?.counters(family, name)
}

/// The bytes that [`Connection::apply`] sends where the kernel does not have the table; for measurements.
///
/// # Errors
/// [`Error::TooLong`].
#[doc(hidden)]
pub fn batch(table: &Table) -> Result<Vec<u8>, Error> {
    let mut transaction = transaction::Transaction::default();
    difference::steps(&mut transaction, None, table);
    transaction.batch(None)
}

/// The names of all tables of a family, anybody's.
///
/// # Errors
/// [`Error`].
pub fn tables(family: Family) -> Result<BTreeSet<String>, Error> {
    Connection::open()?.tables(family)
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
