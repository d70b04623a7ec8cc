//! Accept rules for pods' packets in the chain by which iptables forwards, for nodes where Docker, ufw or an administrator
//! has that chain drop all else.
//!
//! The table is somebody else's, so this is off unless `iptablesForwardRules` says otherwise, and what is ours there is
//! known by its comment. iptables-nft alone is handled: the old iptables keeps its rules elsewhere, and an accept there is
//! no business of nftables. An accept lets a packet past the rest of that table; the guard and all other tables still see it.

pub(crate) mod naming;
#[cfg(test)]
mod tests;
pub(crate) mod walk;

use std::fmt;
use std::io;

use ipnet::IpNet;

use crate::config::Config;
use crate::kernel::iptables::{DOCKER_USER, FAMILIES, FILTER, FORWARD};
use crate::kernel::nft::{self, Changes, Family, Guest, Hook, Ip, PayloadBase, Policy, Rule, octets};
use crate::kernel::xtables;
use naming::{Named, Pods};
use walk::{End, Walk};

/// How the comments of our rules begin.
const MARK: &str = "selvedge:";
const COMMENT: &str = "selvedge: packets of pods";

/// The reason of Events about nodes that need such rules and are not to have them.
pub const REASON: &str = "PodsNotForwarded";
/// What to do on such a node.
pub const REMEDY: &str = "set iptablesForwardRules = true (`selvedge install --iptables-forward-rules --reconfigure`), or \
                          accept clusterPodCIDRs there yourself, from and to them";

/// Why the chains could not be looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Those in nftables.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// Those of the old iptables.
    #[error("cannot read the {family} table filter of iptables-legacy: {source}")]
    Legacy {
        /// Whose.
        family: Family,
        /// Why.
        source: io::Error,
    },
}

/// A chain `FORWARD` that drops what pods send to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropping {
    /// Of the packets.
    pub family: Family,
    /// It is one of the old iptables, in which no rules of ours are kept.
    pub legacy: bool,
}

impl Dropping {
    /// Why rules of ours are no help there, and what to do.
    #[must_use]
    pub fn refusal(&self, config: &Config) -> String {
        if !self.legacy {
            return format!("{self} although it has rules that accept it: look at the rules before these");
        }
        let program = if self.family == Family::Ipv6 { "ip6tables" } else { "iptables" };
        let nets = config.cluster_pod_cidrs.iter().filter(|net| Ip::of(net.addr()) == ip(self.family));
        let accept = |net: &IpNet| {
            format!(
                "{program}-legacy -I {FORWARD} -s {net} -j ACCEPT; {program}-legacy -I {FORWARD} -d {net} -j ACCEPT"
            )
        };
        let commands: Vec<String> = nets.map(accept).collect();
        format!(
            "{self}, and iptablesForwardRules keeps rules in iptables-nft alone: switch the node to iptables-nft \
             (update-alternatives --set {program} /usr/sbin/{program}-nft, and reboot), or run `{}`",
            commands.join("; ")
        )
    }
}

impl fmt::Display for Dropping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let old = if self.legacy { " of iptables-legacy" } else { "" };
        write!(f, "chain {FORWARD} of table {} {FILTER}{old} drops what pods send to each other", self.family)
    }
}

/// Makes the chains have an accept rule for packets from and to each of `ranges`, and none other of ours. Where there is no
/// such chain there is nothing to do.
///
/// # Errors
/// [`Error`]; a family may have been done by then.
pub fn ensure(ranges: &[IpNet]) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    for family in FAMILIES {
        changes.0.extend(guest(family).keep(&rules(family, ranges))?.0);
    }
    Ok(changes)
}

/// Our rules, each with the family of its table and the name of its chain.
///
/// # Errors
/// [`Error`].
pub fn kept() -> Result<Vec<(Family, String, Rule)>, Error> {
    let mut kept = Vec::new();
    for family in FAMILIES {
        kept.extend(guest(family).kept()?.into_iter().map(|(chain, rule)| (family, chain, rule)));
    }
    Ok(kept)
}

/// The rules that a chain for this family has to have.
#[must_use]
pub fn rules(family: Family, ranges: &[IpNet]) -> Vec<Rule> {
    let ip = ip(family);
    let ranges = ranges.iter().filter(|net| Ip::of(net.addr()) == ip).copied().collect::<Vec<_>>();
    let mut ranges = IpNet::aggregate(&ranges);
    ranges.sort_unstable();
    let accept = |net: &IpNet, end| {
        let ((offset, _), mask, value) = (ip.address(end), octets(net.netmask()), octets(net.network()));
        let rule = Rule::new().payload_masked(PayloadBase::Network, offset, mask, value);
        rule.counted().accept().comment(COMMENT)
    };
    ranges
        .iter()
        .flat_map(|net| [nft::End::Source, nft::End::Destination].map(|end| accept(net, end)))
        .collect()
}

/// The chains that drop what pods send to each other: that have no rule about pods.
///
/// # Errors
/// [`Error`].
pub fn dropping(config: &Config) -> Result<Vec<Dropping>, Error> {
    let mut dropping = Vec::new();
    for family in FAMILIES {
        let has_pods = config.cluster_pod_cidrs.iter().any(|net| Ip::of(net.addr()) == ip(family));
        if !has_pods {
            continue;
        }
        let pods = Pods::new(Some(config));
        let names = |rules: &[Rule]| pods.named_by(rules) != Named::No;
        if forward_drops(family, &names)? {
            dropping.push(Dropping { family, legacy: false });
        }
        if legacy_drops(family, &names).map_err(|source| Error::Legacy { family, source })? {
            dropping.push(Dropping { family, legacy: true });
        }
    }
    Ok(dropping)
}

fn guest(family: Family) -> Guest<'static> {
    Guest { family, table: FILTER, chain: FORWARD, preferred: DOCKER_USER, mark: MARK }
}

fn ip(family: Family) -> Ip {
    if family == Family::Ipv6 { Ip::V6 } else { Ip::V4 }
}

fn forward_drops(family: Family, names: &impl Fn(&[Rule]) -> bool) -> Result<bool, Error> {
    let chain = nft::read_chain(family, FILTER, FORWARD)?;
    let Some(base) = chain.and_then(|chain| chain.base).filter(|base| base.hook == Hook::Forward) else {
        return Ok(false);
    };
    let read = |name: &str| {
        nft::read_chain(family, FILTER, name).map(|found| found.map(|found| found.rules).unwrap_or_default())
    };
    let (end, rules) = Walk::through(FORWARD, read)?;
    let drops = end == End::Drops || (end == End::Through && base.policy == Policy::Drop);
    Ok(drops && !names(&rules))
}

/// A table is asked for only where it is listed: asking makes it.
fn legacy_drops(family: Family, names: &impl Fn(&[Rule]) -> bool) -> io::Result<bool> {
    let list = match ip(family) {
        Ip::V4 => "/proc/thread-self/net/ip_tables_names",
        Ip::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let listed = match std::fs::read_to_string(list) {
        Ok(listed) => listed,
        // The kernel has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if listed.lines().all(|table| table != FILTER) {
        return Ok(false);
    }
    let builtins = xtables::filter(ip(family))?;
    let forward = builtins.into_iter().find(|builtin| builtin.hook == Hook::Forward);
    Ok(forward.is_some_and(|forward| forward.policy == Policy::Drop && !names(&forward.rules)))
}
