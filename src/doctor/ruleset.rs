//! What of others' nftables, and of both kinds of iptables, the doctor looks at. Read, never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::host::Host;
use crate::forwarding::walk::{End, Walk};
use crate::kernel::nft::{self, ChainKind, Error, Family, Hook, Ip, Policy, Rule};
use crate::kernel::xtables;

/// Tables whose chains' names tell whose they are: those of iptables.
const COMPAT: [&str; 2] = ["filter", "nat"];
/// Where packets of pods and of the tunnel come by.
const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

/// Everybody's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) tables: BTreeSet<(Family, String)>,
    /// Chains that drop what no rule decides about.
    pub(super) dropping: Vec<Dropping>,
    /// Names of the chains in iptables' tables, by family and table.
    pub(super) compat: BTreeMap<(Family, String), Vec<String>>,
    /// The old iptables, which nftables does not show, is in use: its tables.
    pub(super) legacy: BTreeSet<(Family, String)>,
    /// Families whose old iptables cannot be read, and why.
    pub(super) unread: Vec<(Family, String)>,
}

/// A base chain that drops what no rule picks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dropping {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) hook: Hook,
    /// It does so by its policy, not by a rule.
    pub(super) by_policy: bool,
    /// It is one of the old iptables.
    pub(super) legacy: bool,
    /// The rules that a packet may come to, of chains that it leads to as well.
    pub(super) rules: Vec<Rule>,
}

impl Ruleset {
    /// In the network namespace of the caller.
    pub(super) fn gather(host: &Host) -> Result<Self, Error> {
        let mut ruleset = Self::default();
        for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
            for table in nft::tables(family)? {
                if !table.starts_with("selvedge-") {
                    ruleset.look_into(family, &table)?;
                }
                ruleset.tables.insert((family, table));
            }
        }
        ruleset.look_into_legacy(host, Ip::V4, Family::Ipv4, "ip_tables_names");
        ruleset.look_into_legacy(host, Ip::V6, Family::Ipv6, "ip6_tables_names");
        Ok(ruleset)
    }

    fn look_into(&mut self, family: Family, table: &str) -> Result<(), Error> {
        for (chain, base) in nft::base_chains(family, table)? {
            // Chains of nat see only the first packet of a connection, and are not to filter.
            if base.kind == ChainKind::Nat || !HOOKS.contains(&base.hook) {
                continue;
            }
            let read = |name: &str| {
                nft::read_chain(family, table, name)
                    .map(|found| found.map(|found| found.rules).unwrap_or_default())
            };
            let (end, rules) = Walk::through(&chain, read)?;
            let by_policy = end == End::Through && base.policy == Policy::Drop;
            if by_policy || end == End::Drops {
                let (table, hook) = (table.to_owned(), base.hook);
                self.dropping.push(Dropping { family, table, chain, hook, by_policy, legacy: false, rules });
            }
        }
        if COMPAT.contains(&table) {
            self.compat.insert((family, table.to_owned()), nft::chain_names(family, table)?);
        }
        Ok(())
    }

    /// A table is asked for only when it is listed: asking makes it.
    fn look_into_legacy(&mut self, host: &Host, ip: Ip, family: Family, names: &str) {
        let listed = match host.try_read(format!("/proc/net/{names}")) {
            Ok(listed) => listed,
            // The kernel has none, or the doctor sees no /proc at all.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unread.push((family, error.to_string())),
        };
        self.legacy.extend(listed.lines().map(|table| (family, table.to_owned())));
        if !self.legacy.contains(&(family, "filter".to_owned())) {
            return;
        }
        match xtables::filter(ip) {
            Ok(builtins) => self.dropping.extend(builtins.into_iter().filter_map(|it| legacy(family, it))),
            Err(error) => self.unread.push((family, error.to_string())),
        }
    }

    pub(super) fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|(_, table)| table == name)
    }

    pub(super) fn has_legacy(&self, name: &str) -> bool {
        self.legacy.iter().any(|(_, table)| table == name)
    }

    /// Whether a chain of iptables' tables has a name that begins so.
    pub(super) fn has_compat(&self, start: &str) -> bool {
        self.compat.values().flatten().any(|chain| chain.starts_with(start))
    }

    /// Whether a chain of this table has a name that begins so.
    pub(super) fn has_compat_in(&self, family: Family, table: &str, start: &str) -> bool {
        let chains = self.compat.get(&(family, table.to_owned()));
        chains.into_iter().flatten().any(|chain| chain.starts_with(start))
    }
}

fn legacy(family: Family, builtin: xtables::Builtin) -> Option<Dropping> {
    let xtables::Builtin { hook, policy, rules } = builtin;
    let chain = match hook {
        Hook::Input => "INPUT",
        Hook::Forward => "FORWARD",
        _ => "OUTPUT",
    };
    let (table, chain) = ("filter".to_owned(), chain.to_owned());
    let dropping = Dropping { family, table, chain, hook, by_policy: true, legacy: true, rules };
    (policy == Policy::Drop).then_some(dropping)
}
