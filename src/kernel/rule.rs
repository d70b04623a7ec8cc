//! Policy routing rules.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::ROUTE_PROTOCOL;
use super::netlink::{Change, Error, Netlink};

/// One of our rules: protocol 83.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// IPv6 or IPv4.
    pub ipv6: bool,
    /// The lower, the earlier.
    pub priority: u32,
    /// Packets with such a source; nothing: any.
    pub source: Option<IpNet>,
    /// Packets with such a destination; nothing: any.
    pub destination: Option<IpNet>,
    /// Packets that came in by this device; `lo` stands for the node's own. Nothing: any.
    pub input: Option<String>,
    /// Packets whose mark has none of these bits. Nothing: any.
    pub unmarked: Option<u32>,
    /// Packets whose mark has all of these bits; excludes the other. Nothing: any.
    pub marked: Option<u32>,
    /// Take no notice of routes with prefixes of at most this length.
    pub suppress_prefix_length: Option<u32>,
    /// What to do.
    pub action: Action,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Look into this table.
    Table(u32),
    /// Refuse, with an ICMP error.
    Unreachable,
    /// Drop silently.
    Blackhole,
}

impl Rule {
    /// Packets from `source` look into `table`.
    #[must_use]
    pub fn from_source(source: impl Into<IpNet>, priority: u32, table: u32) -> Self {
        let source = source.into();
        let any = Self::any(source.addr().is_ipv6(), priority, Action::Table(table));
        Self { source: Some(source), ..any }
    }

    /// Packets of one family that came in by the device `input`.
    #[must_use]
    pub fn from_device(input: &str, ipv6: bool, priority: u32, action: Action) -> Self {
        Self { input: Some(input.to_owned()), ..Self::any(ipv6, priority, action) }
    }

    fn any(ipv6: bool, priority: u32, action: Action) -> Self {
        let (source, destination, input) = (None, None, None);
        let (unmarked, marked, suppress_prefix_length) = (None, None, None);
        Self { ipv6, priority, source, destination, input, unmarked, marked, suppress_prefix_length, action }
    }

    /// The same for packets to `destination` only.
    #[must_use]
    pub fn to_destination(self, destination: impl Into<IpNet>) -> Self {
        Self { destination: Some(destination.into()), ..self }
    }

    /// Adds it; there already is fine.
    pub fn add(&self) -> Change {
        let what = format!("add rule {self}");
        Change::new(what, Message::NewRule(self.message()), NLM_F_CREATE | NLM_F_EXCL)
            .tolerating(&[libc::EEXIST])
    }

    /// Takes it away; gone already is fine.
    pub fn delete(&self) -> Change {
        let what = format!("delete rule {self}");
        Change::new(what, Message::DelRule(self.message()), 0).tolerating(&[libc::ENOENT])
    }

    fn normal(&self) -> Self {
        let trunc = |net: &IpNet| net.trunc();
        Self {
            source: self.source.as_ref().map(trunc),
            destination: self.destination.as_ref().map(trunc),
            ..self.clone()
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let header = &mut message.header;
        header.family = if self.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        header.src_len = self.source.map_or(0, |net| net.prefix_len());
        header.dst_len = self.destination.map_or(0, |net| net.prefix_len());
        header.action = match self.action {
            Action::Table(_) => RuleAction::ToTable,
            Action::Unreachable => RuleAction::Unreachable,
            Action::Blackhole => RuleAction::Blackhole,
        };
        let table = match self.action {
            Action::Table(table) => Some(RuleAttribute::Table(table)),
            _ => None,
        };
        let attributes = [
            Some(RuleAttribute::Priority(self.priority)),
            Some(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL))),
            self.source.map(|net| RuleAttribute::Source(net.trunc().addr())),
            self.destination.map(|net| RuleAttribute::Destination(net.trunc().addr())),
            self.input.clone().map(RuleAttribute::Iifname),
            // Compared under the mask: no mark at all, and then the mask, which a mark would set to all ones.
            self.unmarked.map(|_| 0).or(self.marked).map(RuleAttribute::FwMark),
            self.unmarked.or(self.marked).map(RuleAttribute::FwMask),
            self.suppress_prefix_length.map(RuleAttribute::SuppressPrefixLen),
            table,
        ];
        message.attributes = attributes.into_iter().flatten().collect();
        message
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.priority)?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(destination) = self.destination {
            write!(f, " to {destination}")?;
        }
        if let Some(input) = &self.input {
            write!(f, " iif {input}")?;
        }
        if let Some(bits) = self.unmarked {
            write!(f, " fwmark 0/{bits:#x}")?;
        }
        if let Some(bits) = self.marked {
            write!(f, " fwmark {bits:#x}/{bits:#x}")?;
        }
        match self.action {
            Action::Table(table) => write!(f, " table {table}"),
            other => write!(f, " {other:?}"),
        }
    }
}

/// The difference between what is wanted and what is there. `found` holds rules of ours only.
#[must_use]
pub fn diff(desired: &[Rule], found: &[Rule]) -> Vec<Change> {
    let desired: BTreeSet<Rule> = desired.iter().map(Rule::normal).collect();
    let found: BTreeSet<Rule> = found.iter().map(Rule::normal).collect();
    let missing = desired.difference(&found).map(Rule::add);
    missing.chain(found.difference(&desired).map(Rule::delete)).collect()
}

impl Netlink {
    /// Our rules (protocol 83), of both families.
    pub async fn rules(&self) -> Result<Vec<Rule>, Error> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            match self.dump("list rules", &Message::GetRule(request)).await {
                Ok(list) => rules.extend(list.into_iter().filter_map(from_message)),
                // A kernel without this family has no rules for it.
                Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rules)
    }

    /// Makes our rules be exactly `desired`, changing only what differs. Tells what was changed.
    pub async fn sync_rules(&self, desired: &[Rule]) -> Result<Vec<String>, Error> {
        let changes = diff(desired, &self.rules().await?);
        let what = changes.iter().map(|change| change.what().to_owned()).collect();
        self.apply(changes).await?;
        Ok(what)
    }
}

fn from_message(message: Message) -> Option<Rule> {
    let Message::NewRule(message) = message else { return None };
    let header = &message.header;
    let action = match header.action {
        RuleAction::ToTable => Action::Table(u32::from(header.table)),
        RuleAction::Unreachable => Action::Unreachable,
        RuleAction::Blackhole => Action::Blackhole,
        _ => return None,
    };
    let mut rule = Rule::any(header.family == AddressFamily::Inet6, 0, action);
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == ROUTE_PROTOCOL,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => rule.source = IpNet::new(*address, header.src_len).ok(),
            RuleAttribute::Destination(address) => {
                rule.destination = IpNet::new(*address, header.dst_len).ok();
            }
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::FwMark(bits) if *bits != 0 => rule.marked = Some(*bits),
            RuleAttribute::FwMask(bits) => rule.unmarked = Some(*bits),
            RuleAttribute::Table(table) if matches!(rule.action, Action::Table(_)) => {
                rule.action = Action::Table(*table);
            }
            // The kernel shows u32::MAX where none is set.
            RuleAttribute::SuppressPrefixLen(length) if *length != u32::MAX => {
                rule.suppress_prefix_length = Some(*length);
            }
            _ => {}
        }
    }
    if rule.marked.is_some() {
        rule.unmarked = None;
    }
    ours.then_some(rule)
}
