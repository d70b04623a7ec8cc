//! A socket that a controller opens once and keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::element::Element;
use super::key::Key;
use super::socket::{Sent, Socket};
use super::table::{Counter, Family, Table, TableState};
use super::transaction::{DELETE_ELEMENTS, Transaction};
use super::update::Update;
use super::{Changes, Error, difference, read, retry};

/// How often a table is read again because somebody changed the ruleset meanwhile, any table of it.
const STRICT_ATTEMPTS: usize = 5;

/// A connection to nftables in the network namespace of the thread that opened it, whichever thread uses it.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
}

impl Connection {
    /// Opens a socket.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open()? })
    }

    /// A connection as somebody else's process has it.
    #[cfg(test)]
    pub(in crate::kernel) fn of_others() -> Self {
        let bind = |socket: &mut rtnetlink::sys::Socket| socket.bind_auto().map(drop);
        Self { socket: Socket::bound(bind).expect("a test has a socket") }
    }

    /// Makes the kernel's tables equal to `tables`, all in one transaction, and leaves all other tables alone.
    ///
    /// # Errors
    /// [`Error`]; then the kernel has what it had before.
    pub fn apply(&mut self, tables: &[Table]) -> Result<Changes, Error> {
        self.patiently(|socket| {
            attempt(socket, |transaction| {
                for wanted in tables {
                    let have = read::table(socket, wanted.family, &wanted.name)?;
                    difference::steps(transaction, have.as_ref(), wanted);
                }
                Ok(())
            })
        })
    }

    /// Changes elements without reading anything, in one transaction. [`Update`] says what it takes for granted.
    ///
    /// # Errors
    /// [`Error::Stale`] when the kernel does not have what the update assumes: compare the whole table
    /// ([`apply`](Self::apply)). Any other [`Error`]. In each case the kernel has what it had before.
    pub fn update(&mut self, update: &Update) -> Result<Changes, Error> {
        let mut transaction = update.transaction();
        if !transaction.is_empty() {
            let committed = self.socket.commit(&mut transaction, update.generation());
            committed.map_err(Error::of_update)?;
        }
        Ok(Changes(transaction.steps().to_vec()))
    }

    /// Changes one table from what it is: `edit` gets it as the kernel has it (empty when there is none) and is called
    /// again whenever somebody else was faster, so that concurrent edits of different parts all survive.
    ///
    /// # Errors
    /// [`Error`]; then the kernel has what it had before.
    pub fn edit(
        &mut self,
        family: Family,
        name: &str,
        mut edit: impl FnMut(&mut Table),
    ) -> Result<Changes, Error> {
        let socket = &self.socket;
        let mut plan = |transaction: &mut Transaction| {
            let have = read::table(socket, family, name)?;
            let mut wanted =
                have.as_ref().map_or_else(|| Table::new(family, name), |have| have.table.clone());
            edit(&mut wanted);
            difference::steps(transaction, have.as_ref(), &wanted);
            Ok(())
        };
        retry(|| attempt(socket, &mut plan))
    }

    /// Deletes a table with all it has, first the chains that packets enter. Together with their table they would go on deciding
    /// for as long as the kernel takes to delete all of it, about packets that no element of a map fits any more. True when it was
    /// there.
    ///
    /// # Errors
    /// [`Error`]; then it is still there, without those chains maybe.
    pub fn delete(&mut self, family: Family, name: &str) -> Result<bool, Error> {
        let socket = &self.socket;
        let is_there = || Ok::<_, Error>(read::tables(socket, family)?.contains(name));
        let chains = |transaction: &mut Transaction| {
            if is_there()? {
                let entered = read::chains(socket, family, name)?;
                let entered = entered.iter().filter(|(_, chain)| chain.base.is_some());
                let mut inside = transaction.inside(family, name);
                for (chain, _) in entered {
                    inside.flush_chain(chain);
                    inside.delete_chain(chain);
                }
            }
            Ok(())
        };
        retry(|| attempt(socket, chains))?;
        let table = |transaction: &mut Transaction| {
            if is_there()? {
                transaction.delete_table(family, name);
            }
            Ok(())
        };
        Ok(!retry(|| attempt(socket, table))?.is_empty())
    }

    /// A table as the kernel has it, without the elements of dynamic sets; nothing when there is none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(&mut self, family: Family, name: &str) -> Result<Option<TableState>, Error> {
        self.patiently(|socket| {
            let before = socket.generation()?;
            let state = read::table(socket, family, name)?;
            if socket.is_lenient() || socket.generation()? == before {
                Ok(state)
            } else {
                Err(Error::Conflict)
            }
        })
    }

    /// The elements that a set or map has now, also those that packets added; none when there is no such set.
    ///
    /// # Errors
    /// [`Error`].
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<BTreeMap<Key, Element>, Error> {
        self.patiently(|socket| match read::set(socket, family, table, set)? {
            Some(definition) => read::elements(socket, family, table, set, &definition),
            None => Ok(BTreeMap::new()),
        })
    }

    /// The named counters of a table; none when there is no such table.
    ///
    /// # Errors
    /// [`Error`].
    pub fn counters(&mut self, family: Family, name: &str) -> Result<BTreeMap<String, Counter>, Error> {
        retry(|| read::counters(&self.socket, family, name))
    }

    /// The names of all tables of a family, anybody's.
    ///
    /// # Errors
    /// [`Error`].
    pub fn tables(&mut self, family: Family) -> Result<BTreeSet<String>, Error> {
        retry(|| read::tables(&self.socket, family))
    }

    /// The number of the ruleset, for [`Update::if_generation`]: each committed transaction, anybody's, makes a new one.
    ///
    /// # Errors
    /// [`Error`].
    pub fn generation(&mut self) -> Result<u32, Error> {
        retry(|| self.socket.generation())
    }

    /// What this connection has sent since it was opened.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.socket.sent()
    }

    /// Calls `action` until nobody changes the ruleset meanwhile, but not for ever: reading a large table takes longer
    /// than others leave theirs alone, and their tables do not matter. A change of the same table that slips through is
    /// reported by the [monitor](crate::kernel::monitor), as any other.
    fn patiently<T>(&mut self, mut action: impl FnMut(&Socket) -> Result<T, Error>) -> Result<T, Error> {
        let mut attempts = 0;
        let result = retry(|| {
            self.socket.set_lenient(attempts >= STRICT_ATTEMPTS);
            attempts += 1;
            action(&self.socket)
        });
        self.socket.set_lenient(false);
        result
    }
}

/// Reads and plans, and commits if nobody has changed the ruleset in between.
pub(super) fn attempt(
    socket: &Socket,
    mut plan: impl FnMut(&mut Transaction) -> Result<(), Error>,
) -> Result<Changes, Error> {
    let generation = if socket.is_lenient() { None } else { Some(socket.generation()?) };
    let mut transaction = Transaction::default();
    plan(&mut transaction)?;
    if !transaction.is_empty() {
        socket.commit(&mut transaction, generation).map_err(expired)?;
    }
    Ok(Changes(transaction.steps().to_vec()))
}

/// Elements that are to be deleted may have expired since they were read, which makes no new generation.
fn expired(error: Error) -> Error {
    match error {
        Error::Refused { step, source, .. }
            if step.starts_with(DELETE_ELEMENTS) && source.raw_os_error() == Some(libc::ENOENT) =>
        {
            Error::Conflict
        }
        error => error,
    }
}
