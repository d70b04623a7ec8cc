//! The typed model of a table: what a controller wants, and what is read back from the kernel.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rule, Set};

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// ARP.
    Arp,
    /// Everything that one device receives, before the IP stack.
    Netdev,
    /// Everything that a bridge forwards or receives.
    Bridge,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Inet, Self::Ipv4, Self::Ipv6, Self::Arp, Self::Netdev, Self::Bridge];

    /// `NFPROTO_*`.
    pub(in crate::kernel) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ipv6 => 10,
        }
    }

    /// As `nft` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A table as it should be, whole: what is not in here does not belong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name, unique in the family.
    pub name: String,
    /// Names of its counters, which keep their values as long as they stay.
    pub counters: BTreeSet<String>,
    /// Its sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self {
            family,
            name: name.into(),
            counters: BTreeSet::new(),
            sets: BTreeMap::new(),
            chains: BTreeMap::new(),
        }
    }

    /// Adds a named counter.
    pub fn counter(&mut self, name: impl Into<String>) -> &mut Self {
        self.counters.insert(name.into());
        self
    }

    /// Adds a set or map.
    pub fn set(&mut self, name: impl Into<String>, set: Set) -> &mut Self {
        self.sets.insert(name.into(), set);
        self
    }

    /// Adds a chain.
    pub fn chain(&mut self, name: impl Into<String>, chain: Chain) -> &mut Self {
        self.chains.insert(name.into(), chain);
        self
    }
}

/// A chain and its rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Where packets enter it; nothing for one that rules jump to.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that rules and maps jump to.
    #[must_use]
    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { base: None, rules }
    }

    /// A chain that packets enter from a hook, with policy accept.
    #[must_use]
    pub fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Self {
        Self { base: Some(Base { kind, hook, priority, policy: Policy::Accept, device: None }), rules }
    }

    /// A chain on what `device` receives, in a table of family netdev.
    #[must_use]
    pub fn ingress(device: impl Into<String>, priority: i32, rules: Vec<Rule>) -> Self {
        let device = Some(device.into());
        let (kind, hook, policy) = (ChainKind::Filter, Hook::Ingress, Policy::Accept);
        Self { base: Some(Base { kind, hook, priority, policy, device }), rules }
    }
}

/// How a base chain hangs in the packet path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its type.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
    /// What becomes of packets that no rule decides about.
    pub policy: Policy,
    /// The device, for family netdev.
    pub device: Option<String>,
}

/// The type of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainKind {
    /// Filters.
    Filter,
    /// Sees the first packet of a connection and may translate it.
    Nat,
    /// Reroutes what local processes send.
    Route,
    /// One that this model does not know.
    Unknown(String),
}

impl ChainKind {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Unknown(name) => name,
        }
    }

    pub(super) fn from_name(name: String) -> Self {
        match name.as_str() {
            "filter" => Self::Filter,
            "nat" => Self::Nat,
            "route" => Self::Route,
            _ => Self::Unknown(name),
        }
    }
}

/// A place in the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Received, not yet routed.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host, routed once.
    Output,
    /// About to leave.
    Postrouting,
    /// Received by one device (family netdev).
    Ingress,
    /// One that this model does not know.
    Unknown(u32),
}

impl Hook {
    pub(in crate::kernel) fn number(self) -> u32 {
        match self {
            Self::Prerouting | Self::Ingress => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
            Self::Unknown(number) => number,
        }
    }

    /// `NF_*`: ARP numbers its hooks differently (`NF_ARP_*`).
    pub(super) fn number_in(self, family: Family) -> u32 {
        match (family, self) {
            (Family::Arp, Self::Input) => 0,
            (Family::Arp, Self::Output) => 1,
            (_, hook) => hook.number(),
        }
    }

    pub(super) fn from_number(family: Family, number: u32) -> Self {
        match (family, number) {
            (Family::Arp, 0) => Self::Input,
            (Family::Arp, 1) => Self::Output,
            (Family::Arp, _) => Self::Unknown(number),
            (Family::Netdev, 0) => Self::Ingress,
            (Family::Netdev, _) => Self::Unknown(number),
            (_, 0) => Self::Prerouting,
            (_, 1) => Self::Input,
            (_, 2) => Self::Forward,
            (_, 3) => Self::Output,
            (_, 4) => Self::Postrouting,
            _ => Self::Unknown(number),
        }
    }
}

/// The verdict of a base chain whose rules gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Go on to the next chain.
    Accept,
    /// Drop.
    Drop,
}

/// What a named counter has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the network header on.
    pub bytes: u64,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    /// Its content, in the form in which it would be wanted.
    pub table: Table,
    /// Values of its counters.
    pub counters: BTreeMap<String, Counter>,
    /// It is switched off: it is there and does nothing.
    pub dormant: bool,
}
