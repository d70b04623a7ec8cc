//! The nftables table of all host ports of a node. Pure.
//!
//! One map a family for host ports on one address, one for those on all, so a packet costs two lookups however many
//! there are. Only packets to the node's own addresses are looked up: a pod that asks for a host port on somebody
//! else's address gets nobody's traffic.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::mapping::{HostPort, Key};
use crate::kernel::nft::{
    Chain, ChainKind, Comparison, Concat, Data, DataType, End, Expression, FIB_DESTINATION, Family,
    FibResult, Field, Hook, Ip, PayloadBase, Register, Rule, Selector, Set, Table, Type, octets,
};
use crate::pod::pool::Addresses;

/// Name of the nftables table, of family inet.
pub const TABLE: &str = "selvedge-hostports";

/// Behind `dstnat` (-100), where Services are looked up: a Service's external address wins.
const BEHIND_SERVICES: i32 = -90;
/// Before `srcnat` (100), where others masquerade.
const BEFORE_SOURCE_NAT: i32 = 90;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// The chain with the lookups.
const LOOKUP: &str = "lookup";

/// The pods whose host ports are wanted.
pub(super) type Pods<'a> = Vec<(&'a Addresses, &'a [HostPort])>;

/// What leads where. Of two pods that want the same, the first has it.
#[must_use]
pub(super) fn targets(pods: &Pods<'_>) -> BTreeMap<Key, SocketAddr> {
    let mut targets = BTreeMap::new();
    for (addresses, ports) in pods {
        for (key, target) in ports.iter().flat_map(|port| port.targets(addresses)) {
            targets.entry(key).or_insert(target);
        }
    }
    targets
}

/// The desired table.
#[must_use]
pub(super) fn table(targets: &BTreeMap<Key, SocketAddr>) -> Table {
    let mut table = Table::new(Family::Inet, TABLE);
    let mut lookup = vec![];
    let mut source = vec![];
    for ip in Ip::BOTH {
        for on in [On::One, On::All] {
            table.set(on.name(ip), on.map(ip, targets));
            lookup.push(on.rule(ip));
        }
        table.set(own(ip), pairs(ip, targets.values()));
        source.push(hairpin(ip));
    }
    let base = |hook, priority, rules| Chain::base(ChainKind::Nat, hook, priority, rules);
    table.chain(LOOKUP, Chain::regular(lookup));
    table.chain("arriving", base(Hook::Prerouting, BEHIND_SERVICES, dispatch(End::Destination)));
    table.chain("own", base(Hook::Output, BEHIND_SERVICES, dispatch(End::Source)));
    table.chain("hairpin", base(Hook::Postrouting, BEFORE_SOURCE_NAT, source));
    table
}

/// Whether it leads anywhere: without a host port there need be no table.
#[must_use]
pub(super) fn is_empty(table: &Table) -> bool {
    table.sets.values().all(|set| set.elements.is_empty())
}

/// Whether `found` does all that `table` does; it may do more.
#[must_use]
pub(super) fn covers(found: &Table, table: &Table) -> bool {
    let has = |(name, set): (&String, &Set)| {
        found.sets.get(name).is_some_and(|there| {
            set.elements.iter().all(|(key, element)| there.elements.get(key) == Some(element))
        })
    };
    found.chains == table.chains && table.sets.iter().all(has)
}

/// Rules that send what is for the node itself to the lookups, unless `loopback` end of it is a loopback address: as
/// destination in what arrives, because such a packet is forged; as source in what the node sends, because it can't
/// leave the node with that.
fn dispatch(loopback: End) -> Vec<Rule> {
    let to = Register::FIRST;
    let kind = Expression::Fib { result: FibResult::AddressType, flags: FIB_DESTINATION, to };
    let elsewhere = Rule::new().with(kind).compare(Comparison::NotEqual, LOCAL.to_ne_bytes());
    let (offset4, _) = Ip::V4.address(loopback);
    let loopback4 = Rule::new().ip(Ip::V4).payload(PayloadBase::Network, offset4, [127]);
    let loopback6 = Rule::new().ip(Ip::V6).address(loopback, IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
    vec![
        elsewhere.end().comment("not for the node"),
        loopback4.end(),
        loopback6.end(),
        Rule::new().jump(LOOKUP),
    ]
}

/// The kinds of maps.
#[derive(Clone, Copy)]
enum On {
    /// On one address.
    One,
    /// On all of the node's.
    All,
}

impl On {
    fn name(self, ip: Ip) -> String {
        match self {
            Self::One => format!("address{}", ip.digit()),
            Self::All => format!("any{}", ip.digit()),
        }
    }

    /// What a packet is looked up by.
    fn fields(self, ip: Ip) -> Vec<Selector> {
        let service = [Selector::Protocol, Selector::Port(End::Destination)];
        match self {
            Self::One => [&[Selector::Address(ip, End::Destination)][..], &service].concat(),
            Self::All => service.to_vec(),
        }
    }

    fn map(self, ip: Ip, targets: &BTreeMap<Key, SocketAddr>) -> Set {
        let key = Type(self.fields(ip).into_iter().map(Selector::field).collect());
        let mut map = Set::map(key, DataType::Value([ip.field(), Field::Port].into()));
        for (key, target) in targets.iter().filter(|(key, _)| key.ip == ip) {
            let address = match (self, key.address) {
                (Self::One, Some(address)) => Concat::new().address(address),
                (Self::All, None) => Concat::new(),
                _ => continue,
            };
            let service = address.protocol(key.protocol.number()).port(key.port);
            map.insert_data(service, Data::from(Concat::new().address(target.ip()).port(target.port())));
        }
        map
    }

    /// Looks a packet up, and translates it if there is a host port.
    fn rule(self, ip: Ip) -> Rule {
        Rule::new().ip(ip).map(&self.fields(ip), &self.name(ip)).dnat_to_mapped(ip)
    }
}

/// Name of the set of pairs of a pod's address with itself.
fn own(ip: Ip) -> String {
    format!("own{}", ip.digit())
}

fn pairs<'a>(ip: Ip, targets: impl Iterator<Item = &'a SocketAddr>) -> Set {
    let mut pairs = Set::new([ip.field(), ip.field()]);
    for address in targets.map(SocketAddr::ip).filter(|address| Ip::of(*address) == ip) {
        pairs.insert(Concat::new().address(address).address(address));
    }
    pairs
}

/// A pod that reaches itself by its host port gets an address of the node as source: answers to its own address would
/// not come by the node, which has to translate them back.
fn hairpin(ip: Ip) -> Rule {
    let both = [Selector::Address(ip, End::Source), Selector::Address(ip, End::Destination)];
    Rule::new().ip(ip).in_set(&both, &own(ip)).masquerade(0).comment("a pod to itself")
}

/// Puts what `found` has for `addresses` into `table`: host ports whose pods are not known well enough to say that
/// they are wrong.
pub(super) fn keep(table: &mut Table, found: &Table, addresses: &[IpAddr]) {
    for (name, set) in &mut table.sets {
        for (key, element) in found.sets.get(name).into_iter().flat_map(|set| &set.elements) {
            // A set of pairs begins with the address too.
            let bytes = match &element.data {
                Data::Value(value) => value,
                _ => key.first(),
            };
            if addresses.iter().any(|address| bytes.starts_with(&octets(*address))) {
                set.elements.entry(key.clone()).or_insert_with(|| element.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::mapping::Protocol;
    use super::super::mapping::tests::{port as host_port, some_port};
    use super::*;
    use crate::kernel::nft::{Meta, NatKind};

    fn addresses(number: u8) -> Addresses {
        Addresses::parse(&format!("10.1.0.{number},fd00::{number}")).unwrap()
    }

    fn all(ports: &[Vec<HostPort>]) -> BTreeMap<Key, SocketAddr> {
        let pods: Vec<Addresses> = (2..).take(ports.len()).map(addresses).collect();
        targets(&pods.iter().zip(ports.iter().map(Vec::as_slice)).collect())
    }

    #[test]
    fn nobody_has_a_host_port() {
        assert!(is_empty(&table(&all(&[vec![], vec![]]))));
    }

    #[test]
    fn one_of_both_families() {
        let table = table(&all(&[vec![host_port(Protocol::Udp, "", 53)]]));
        assert!(!is_empty(&table));
        let elements = |name: &str| table.sets[name].elements.len();
        assert_eq!(["any4", "any6", "address4", "address6"].map(elements), [1, 1, 0, 0]);
        let (key, element) = table.sets["any4"].elements.first_key_value().unwrap();
        assert_eq!(key.first(), [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!(element.data, Data::Value(vec![10, 1, 0, 2, 0, 80, 0, 0]));
        assert_eq!(table.sets["own4"].elements.keys().next().unwrap().first(), [10, 1, 0, 2, 10, 1, 0, 2]);
    }

    #[test]
    fn the_rules_load_key_and_result_into_consecutive_registers() {
        let table = table(&all(&[]));
        let expressions =
            |chain: &str, rule: usize| table.chains[chain].rules[rule].expressions[2..].to_vec();
        let load = |base, offset, length, to| Expression::Payload { base, offset, length, to: Register(to) };
        let protocol = |to| Expression::Meta { key: Meta::L4Proto, to: Register(to) };
        let lookup = |set: &str| {
            let (from, to) = (Register(0), Some(Register(0)));
            Expression::Lookup { set: set.into(), from, to, inverted: false }
        };
        let nat = |ip, port| {
            let (address, port) = (Some(Register(0)), Some(Register(port)));
            Expression::Nat { kind: NatKind::Destination, ip, address, port, flags: 0 }
        };
        let (network, transport) = (PayloadBase::Network, PayloadBase::Transport);
        let any = |ip, set, words| vec![protocol(0), load(transport, 2, 2, 1), lookup(set), nat(ip, words)];
        let one = |address, ip, set, words| {
            vec![address, protocol(words), load(transport, 2, 2, words + 1), lookup(set), nat(ip, words)]
        };
        assert_eq!(expressions(LOOKUP, 0), one(load(network, 16, 4, 0), Ip::V4, "address4", 1));
        assert_eq!(expressions(LOOKUP, 1), any(Ip::V4, "any4", 1));
        assert_eq!(expressions(LOOKUP, 2), one(load(network, 24, 16, 0), Ip::V6, "address6", 4));
        assert_eq!(expressions(LOOKUP, 3), any(Ip::V6, "any6", 4));
        let own = |set: &str| {
            let from = Register(0);
            let lookup = Expression::Lookup { set: set.into(), from, to: None, inverted: false };
            vec![lookup, Expression::Masquerade { flags: 0 }]
        };
        let both4 = [vec![load(network, 12, 4, 0), load(network, 16, 4, 1)], own("own4")].concat();
        let both6 = [vec![load(network, 8, 16, 0), load(network, 24, 16, 4)], own("own6")].concat();
        assert_eq!([expressions("hairpin", 0), expressions("hairpin", 1)], [both4, both6]);
    }

    #[test]
    fn a_family_that_the_pod_has_not_leads_nowhere() {
        let pod = Addresses::parse("10.1.0.2").unwrap();
        let ports = [host_port(Protocol::Tcp, "", 80), host_port(Protocol::Tcp, "2001:db8::1", 81)];
        let targets = targets(&vec![(&pod, &ports)]);
        assert!(targets.keys().all(|key| key.ip == Ip::V4) && targets.len() == 1, "{targets:?}");
    }

    #[test]
    fn what_is_not_known_well_enough_is_kept() {
        let ports = [vec![host_port(Protocol::Tcp, "", 80)], vec![host_port(Protocol::Tcp, "192.0.2.1", 81)]];
        let both = table(&all(&ports));
        let mut one = table(&all(&ports[..1]));
        assert!(covers(&both, &one) && !covers(&one, &both));
        let (first, second): (Vec<_>, Vec<_>) =
            (addresses(2).iter().collect(), addresses(3).iter().collect());
        let before = one.clone();
        keep(&mut one, &both, &first);
        assert_eq!(one, before);
        keep(&mut one, &both, &second);
        assert_eq!(one, both);
    }

    proptest! {
        /// Every host port leads somewhere, and nowhere that nobody asked for.
        #[test]
        fn the_table_says_what_the_pods_ask_for(ports in prop::collection::vec(prop::collection::vec(some_port(), 0..3), 1..4)) {
            let targets = all(&ports);
            let number: usize = ["address4", "any4", "address6", "any6"].iter()
                .map(|name| table(&targets).sets[*name].elements.len()).sum();
            prop_assert_eq!(number, targets.len());
            for (key, target) in &targets {
                prop_assert_eq!(Ip::of(target.ip()), key.ip);
                let asked = ports.iter().zip(2..).any(|(ports, number)| {
                    ports.iter().any(|port| port.targets(&addresses(number)).contains(&(*key, *target)))
                });
                prop_assert!(asked, "{:?} {}", key, target);
            }
            for (ports, number) in ports.iter().zip(2..) {
                for (key, _) in ports.iter().flat_map(|port| port.targets(&addresses(number))) {
                    prop_assert!(targets.contains_key(&key));
                }
            }
        }
    }
}
