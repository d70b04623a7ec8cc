//! What a pod may send: its own addresses as source, ARP and ND about itself, and nothing that claims to be a router.
//!
//! The rules of a port stand in two places. At the netdev ingress hook, before the bridge and before any other table, they
//! are a base chain for each port. A plugin that is chained behind ours may redirect what arrives at the port before it comes
//! to that hook; what comes back skips it, so the rules stand where the bridge and the IP stack take packets, too
//! ([`behind`]).

mod behind;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use super::attachment;
use super::lease::Lease;
use super::node::{Datapath, NodeInfo};
use super::pool::Addresses;
use crate::kernel::mac::Mac;
use crate::kernel::nft::{self, Branch, Chain, Element, Family, Key, Table};

pub use behind::{FAMILIES, empty};

/// The name of the tables, one of each family.
pub const TABLE: &str = "selvedge-ports";

/// Before anybody else's chains, and before connection tracking puts fragments together.
const PRIORITY: i32 = -500;

/// nftables did not do it.
#[derive(Debug, thiserror::Error)]
#[error("rules against spoofing on {port}: {source}")]
pub struct Error {
    port: String,
    source: nft::Error,
}

/// A pod's port and what it may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The device.
    pub name: String,
    /// The pod's Ethernet address.
    pub mac: Mac,
    /// The pod's addresses, as far as they are this node's to use.
    pub addresses: Addresses,
    /// Where the pod's packets go from the port.
    pub datapath: Datapath,
}

impl Port {
    /// The port of a lease. An address that is in none of the node's pod CIDRs any more belongs to another node.
    #[must_use]
    pub fn new(lease: &Lease, node: &NodeInfo) -> Self {
        let names = lease.attachment.port();
        let addresses = lease.addresses.within(&node.pod_cidrs);
        Self { name: names.name, mac: names.pod_mac, addresses, datapath: lease.datapath }
    }

    /// Its chains by family.
    fn chains(&self) -> impl Iterator<Item = (Family, Chain)> {
        let ingress = (Family::Netdev, Chain::ingress(&self.name, PRIORITY, self.rules(Family::Netdev)));
        let behind = behind::families(self.datapath).iter();
        let behind = behind.map(|family| (*family, Chain::regular(self.rules(*family))));
        std::iter::once(ingress).chain(behind)
    }

    fn rules(&self, family: Family) -> Vec<nft::Rule> {
        rules::rules(family, self.mac, &self.addresses)
    }
}

/// Puts the rules of a port in place, in one transaction.
///
/// # Errors
/// nftables refuses it; then they are as they were.
pub fn protect(port: &Port) -> Result<(), Error> {
    let chains: Vec<_> = port.chains().map(|(family, chain)| (branch(family, &port.name), chain)).collect();
    nft::put_chains(&chains, &rules::COUNTERS).map_err(about(&port.name))
}

/// Takes the rules of a port away; gone already is fine.
///
/// # Errors
/// nftables refuses it; then they are as they were.
pub fn unprotect(port: &str) -> Result<(), Error> {
    nft::delete_chains(&branches(port)).map_err(about(port))
}

/// The same for many ports at once.
///
/// # Errors
/// nftables refuses it; then they are as they were.
pub fn unprotect_all(ports: &BTreeSet<String>) -> Result<(), Error> {
    let all: Vec<_> = ports.iter().flat_map(|port| branches(port)).collect();
    nft::delete_chains(&all).map_err(about("ports that are gone"))
}

/// Makes the tables behind the ingress hook be there, if they are not as they have to be, with the rules of all these ports
/// from the first moment on: a port without rules passes nothing there. Other ports' rules stay.
///
/// # Errors
/// nftables refuses it.
pub fn ensure_behind(leases: &[Lease], node: &NodeInfo) -> Result<(), Error> {
    let ports: Vec<Port> = leases.iter().map(|lease| Port::new(lease, node)).collect();
    behind::ensure(&ports).map_err(about("all ports"))
}

/// The same, also where the tables are there and some of these ports' rules are missing.
///
/// # Errors
/// nftables refuses it.
pub fn restore_behind(ports: &[Port]) -> Result<(), Error> {
    behind::restore(ports).map_err(about("all ports"))
}

/// The ports that have rules anywhere.
///
/// # Errors
/// nftables can't be read.
pub fn protected() -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    for family in std::iter::once(Family::Netdev).chain(FAMILIES) {
        names.extend(nft::chain_names(family, TABLE).map_err(about("all ports"))?);
    }
    names.retain(|name| attachment::is_port(name));
    Ok(names)
}

/// The rules of all ports, read at once.
#[derive(Debug)]
pub struct Chains(BTreeMap<Family, Table>);

impl Chains {
    /// Reads them.
    ///
    /// # Errors
    /// nftables can't be read.
    pub fn read() -> Result<Self, Error> {
        let mut tables = BTreeMap::new();
        for family in std::iter::once(Family::Netdev).chain(FAMILIES) {
            let found = nft::read(family, TABLE).map_err(about("all ports"))?;
            tables.extend(found.filter(|state| !state.dormant).map(|state| (family, state.table)));
        }
        Ok(Self(tables))
    }

    /// What is wrong with the rules of a port, if anything.
    #[must_use]
    pub fn problem(&self, port: &Port) -> Option<String> {
        let name = &port.name;
        for (family, chain) in port.chains() {
            let Some(found) = self.0.get(&family).and_then(|table| table.chains.get(name)) else {
                return Some(format!("the rules against spoofing on {name} are missing ({family})"));
            };
            if *found != chain {
                return Some(format!("the rules against spoofing on {name} have been changed ({family})"));
            }
        }
        self.behind_problem(port)
    }

    /// What is wrong behind the ingress hook.
    #[must_use]
    pub fn behind_problem(&self, port: &Port) -> Option<String> {
        let right = |family: &Family| self.0.get(family).is_some_and(|table| behind::has(table, port));
        let wrong = behind::needed(port.datapath).find(|family| !right(family))?;
        Some(format!(
            "the rules against spoofing on {} are missing or changed behind the port ({wrong})",
            port.name
        ))
    }
}

/// The chain of a port in one table.
fn branch(family: Family, port: &str) -> Branch<'_> {
    let entry = (family != Family::Netdev).then(|| (behind::MAP, key(port)));
    Branch { family, table: TABLE, name: port, entry }
}

fn branches(port: &str) -> Vec<Branch<'_>> {
    std::iter::once(Family::Netdev).chain(FAMILIES).map(|family| branch(family, port)).collect()
}

fn key(port: &str) -> Key {
    Key::Value(nft::padded(port))
}

fn jump(port: &str) -> Element {
    nft::Data::Verdict(nft::Verdict::Jump(port.to_owned())).into()
}

fn about(port: &str) -> impl FnOnce(nft::Error) -> Error {
    move |source| Error { port: port.to_owned(), source }
}
