//! Whether a rule is about pods. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Config;
use crate::config::range::overlap;
use crate::kernel::LINK_GROUP;
use crate::kernel::nft::{Comparison, Expression, Ip, Meta, PayloadBase, Rule, Verdict};
use crate::pod::attachment::PREFIX;
use crate::pod::gateway::BRIDGE;

/// What pods are known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pods<'a> {
    pub(crate) ranges: &'a [IpNet],
    interface: &'a str,
}

/// Whether one packet or another of pods is let through, better last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    No,
    /// By a set, whose content is not looked at.
    Perhaps,
    Yes,
}

/// What is in a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    /// So many leading bits of an address.
    Address(Ip, u8),
    Device,
    Group,
}

impl<'a> Pods<'a> {
    pub(crate) fn new(config: Option<&'a Config>) -> Self {
        let ranges = config.map(|config| config.cluster_pod_cidrs.as_slice()).unwrap_or_default();
        Self { ranges, interface: config.map_or("selvedge0", |config| &config.interface) }
    }

    /// The best of what `rules` let through.
    pub(crate) fn named_by(&self, rules: &[Rule]) -> Named {
        let accepting = rules.iter().filter(|rule| accepts(rule));
        accepting.map(|rule| self.named_in(rule)).max().unwrap_or(Named::No)
    }

    /// By one of our devices, or from or to an address of a pod.
    fn named_in(&self, rule: &Rule) -> Named {
        let mut loaded = BTreeMap::new();
        let mut named = Named::No;
        for expression in &rule.expressions {
            let now = match expression {
                Expression::Compare { from, operation: Comparison::Equal, value } => {
                    let is_pods = loaded.get(&from.0).is_some_and(|loaded| self.is_pods(*loaded, value));
                    if is_pods { Named::Yes } else { Named::No }
                }
                Expression::Lookup { inverted: false, .. } | Expression::VerdictMap { .. }
                    if !loaded.is_empty() =>
                {
                    Named::Perhaps
                }
                Expression::Match(name) if name == "set" => Named::Perhaps,
                expression => {
                    load(&mut loaded, expression);
                    Named::No
                }
            };
            named = named.max(now);
        }
        named
    }

    fn is_pods(&self, loaded: Loaded, value: &[u8]) -> bool {
        match loaded {
            Loaded::Address(ip, bits) => prefix(ip, bits, value)
                .is_some_and(|net| self.ranges.iter().any(|range| overlap(&net, range))),
            Loaded::Device => self.is_our_device(value),
            Loaded::Group => value == LINK_GROUP.to_ne_bytes(),
        }
    }

    /// A name ends with a zero byte; what has none is the beginning of one.
    fn is_our_device(&self, value: &[u8]) -> bool {
        let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
        let whole = name.len() < value.len();
        let is = |ours: &str| if whole { name == ours.as_bytes() } else { ours.as_bytes().starts_with(name) };
        !name.is_empty() && (is(self.interface) || is(BRIDGE) || name.starts_with(PREFIX.as_bytes()))
    }
}

/// Whether a rule lets through, or leads to where that may be done.
fn accepts(rule: &Rule) -> bool {
    rule.expressions.iter().any(|expression| {
        matches!(
            expression,
            Expression::Verdict(Verdict::Accept | Verdict::Jump(_) | Verdict::Goto(_))
                | Expression::VerdictMap { .. }
        )
    })
}

/// Notes what an expression puts into its register.
fn load(loaded: &mut BTreeMap<u8, Loaded>, expression: &Expression) {
    let (to, what) = match expression {
        Expression::Payload { base, offset, length, to } => (to, address(*base, *offset, *length)),
        Expression::Meta { key, to } => (to, device(*key)),
        Expression::Bitwise { from, to, mask, .. } => (to, masked(loaded.get(&from.0).copied(), mask)),
        Expression::Load { to, .. }
        | Expression::Conntrack { to, .. }
        | Expression::Fib { to, .. }
        | Expression::Numgen { to, .. } => (to, None),
        _ => return,
    };
    match what {
        Some(what) => drop(loaded.insert(to.0, what)),
        None => drop(loaded.remove(&to.0)),
    }
}

/// A prefix of whole bytes is loaded alone.
fn address(base: PayloadBase, offset: u32, length: u32) -> Option<Loaded> {
    let ip = match offset {
        12 | 16 => Ip::V4,
        8 | 24 => Ip::V6,
        _ => return None,
    };
    let bits = u8::try_from(length.checked_mul(8)?).ok()?;
    (base == PayloadBase::Network && bits <= width(ip)).then_some(Loaded::Address(ip, bits))
}

fn device(key: Meta) -> Option<Loaded> {
    match key {
        Meta::IifName | Meta::OifName => Some(Loaded::Device),
        Meta::IifGroup | Meta::OifGroup => Some(Loaded::Group),
        _ => None,
    }
}

fn masked(loaded: Option<Loaded>, mask: &[u8]) -> Option<Loaded> {
    let ones = mask.iter().map(|byte| byte.leading_ones()).take_while(|ones| *ones > 0).sum::<u32>();
    match loaded? {
        Loaded::Address(ip, bits) => Some(Loaded::Address(ip, bits.min(u8::try_from(ones).ok()?))),
        other => Some(other),
    }
}

fn width(ip: Ip) -> u8 {
    if ip == Ip::V4 { 32 } else { 128 }
}

fn prefix(ip: Ip, bits: u8, value: &[u8]) -> Option<IpNet> {
    let mut bytes = value.to_vec();
    bytes.resize(usize::from(width(ip) / 8), 0);
    let address: IpAddr = match ip {
        Ip::V4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        Ip::V6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    IpNet::new(address, bits).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;
    use crate::kernel::nft::{End, Register};

    fn named(rule: Rule) -> Named {
        let text = "nodeName = \"n1\"\nclusterPodCIDRs = [\"10.244.0.0/16\", \"fd00:1::/56\"]\n\
                    serviceCIDRs = [\"10.96.0.0/12\"]\ninterface = \"mesh0\"\n";
        let config = Config::parse(Path::new("x"), text, &Overrides::default()).unwrap();
        Pods::new(Some(&config)).named_by(&[rule])
    }

    fn address(text: &str) -> Rule {
        Rule::new().address(End::Source, text.parse().unwrap())
    }

    #[test]
    fn addresses_count_where_addresses_are_asked_for() {
        let source = PayloadBase::Network;
        for (rule, expected) in [
            (address("10.244.3.4"), Named::Yes),
            (address("fd00:1::7"), Named::Yes),
            (address("10.245.0.1"), Named::No),
            (Rule::new().payload(source, 16, [10]), Named::Yes),
            (Rule::new().payload_masked(source, 12, vec![255, 192, 0, 0], vec![10, 192, 0, 0]), Named::Yes),
            (Rule::new().payload_masked(source, 12, vec![255, 255, 0, 0], vec![10, 96, 0, 0]), Named::No),
            (Rule::new().payload(PayloadBase::Transport, 12, [10, 244, 0, 0]), Named::No),
            (Rule::new().meta(Meta::Mark, [10, 244, 0, 0]), Named::No),
            (Rule::new().payload_not(source, 12, [10, 244]), Named::No),
            (Rule::new().load(source, 12, 4).meta(Meta::L4Proto, [10, 244, 0, 0]), Named::No),
        ] {
            let text = format!("{rule:?}");
            assert_eq!(named(rule.accept()), expected, "{text}");
        }
        assert_eq!(named(address("10.244.3.4").drop()), Named::No);
        assert_eq!(named(address("10.244.3.4").jump("x")), Named::Yes);
    }

    #[test]
    fn devices_are_those_of_the_configuration() {
        let prefix = |name: &str| Rule::new().meta(Meta::OifName, name.as_bytes());
        for (rule, expected) in [
            (Rule::new().iif_name("mesh0"), Named::Yes),
            (Rule::new().oif_name("selvedge-br"), Named::Yes),
            (Rule::new().iif_name("slv0123456789a"), Named::Yes),
            (Rule::new().iif_name("selvedge0"), Named::No),
            (Rule::new().iif_group(LINK_GROUP), Named::Yes),
            (prefix("selv"), Named::Yes),
            (prefix("cali"), Named::No),
        ] {
            let text = format!("{rule:?}");
            assert_eq!(named(rule.accept()), expected, "{text}");
        }
    }

    #[test]
    fn sets_may_name_them() {
        let load = || Rule::new().load(PayloadBase::Network, 12, 4);
        assert_eq!(named(load().lookup("allowed", false).accept()), Named::Perhaps);
        assert_eq!(named(load().lookup("refused", true).accept()), Named::No);
        let map = Expression::VerdictMap { set: "m".into(), from: Register::FIRST };
        assert_eq!(named(load().with(map)), Named::Perhaps);
        assert_eq!(named(Rule::new().with(Expression::Match("set".into())).accept()), Named::Perhaps);
        let ports = Rule::new().load(PayloadBase::Transport, 2, 2).lookup("ports", false).accept();
        assert_eq!(named(ports), Named::No);
    }
}
