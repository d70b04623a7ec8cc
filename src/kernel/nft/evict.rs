//! Deletes chains of a program from a table that has other owners, too.

use super::connection::attempt;
use super::socket::Socket;
use super::{Changes, Error, Family, read, retry};

/// Deletes the table's chains whose names `is_one` picks, and the rules of other chains that lead to them, in one transaction.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn evict_chains(family: Family, table: &str, is_one: impl Fn(&str) -> bool) -> Result<Changes, Error> {
    let socket = Socket::open()?;
    retry(|| {
        attempt(&socket, |transaction| {
            let chains = read::chains(&socket, family, table)?.into_keys();
            let chains: Vec<String> = chains.filter(|name| is_one(name)).collect();
            if chains.is_empty() {
                return Ok(());
            }
            let rules = read::rules_with_handles(&socket, family, table)?;
            let mut inside = transaction.inside(family, table);
            for (chain, handle, rule) in rules {
                if !is_one(&chain) && rule.leads().any(&is_one) {
                    inside.delete_rule(&chain, handle);
                }
            }
            chains.iter().for_each(|chain| inside.flush_chain(chain));
            chains.iter().for_each(|chain| inside.delete_chain(chain));
            Ok(())
        })
    })
}
