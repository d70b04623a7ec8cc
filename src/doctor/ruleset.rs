//! What of others' nftables, and of iptables by way of it, the doctor looks at. Read, never changed.

use std::collections::{BTreeMap, BTreeSet};

use super::host::Host;
use crate::kernel::nft::{self, Base, Error, Family, Policy, Rule};

/// Tables whose chains' names tell whose they are: those of iptables.
const COMPAT: [&str; 2] = ["filter", "nat"];

/// Everybody's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) tables: BTreeSet<(Family, String)>,
    /// Chains that drop what no rule decides about.
    pub(super) dropping: Vec<Dropping>,
    /// Names of the chains in iptables' tables, by family and table.
    pub(super) compat: BTreeMap<(Family, String), Vec<String>>,
    /// The old iptables, which nftables does not show, is in use: its tables.
    pub(super) legacy: Vec<String>,
}

/// A base chain of policy drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropping {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) base: Base,
    pub(super) rules: Vec<Rule>,
}

impl Ruleset {
    /// In the network namespace of the caller.
    pub(super) fn gather(host: &Host) -> Result<Self, Error> {
        let mut ruleset = Self { legacy: legacy(host), ..Self::default() };
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            for table in nft::tables(family)? {
                if !table.starts_with("selvedge-") {
                    ruleset.look_into(family, &table)?;
                }
                ruleset.tables.insert((family, table));
            }
        }
        Ok(ruleset)
    }

    fn look_into(&mut self, family: Family, table: &str) -> Result<(), Error> {
        for (chain, base) in nft::base_chains(family, table)? {
            if base.policy == Policy::Drop {
                let rules = nft::read_chain(family, table, &chain)?.map(|found| found.rules);
                let (table, rules) = (table.to_owned(), rules.unwrap_or_default());
                self.dropping.push(Dropping { family, table, chain, base, rules });
            }
        }
        if COMPAT.contains(&table) {
            self.compat.insert((family, table.to_owned()), nft::chain_names(family, table)?);
        }
        Ok(())
    }

    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|(_, table)| table == name)
    }

    /// Whether a chain of iptables' tables has a name that begins so.
    pub(super) fn has_compat(&self, start: &str) -> bool {
        self.compat.values().flatten().any(|chain| chain.starts_with(start))
    }
}

fn legacy(host: &Host) -> Vec<String> {
    let files = ["ip_tables_names", "ip6_tables_names"];
    let texts = files.into_iter().filter_map(|file| host.read(format!("/proc/net/{file}")));
    let tables: BTreeSet<String> =
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    tables.into_iter().collect()
}
