//! The structure of the kernel's table of Services: chains, rules, and empty sets and maps. docs/services.md explains it.
//!
//! Only the first packet of a connection comes here. It is looked up in a map of targets, whose value is a *plan*, a number;
//! that leads to a chain, which draws the index of a backend, and one chain for all counts of backends looks that up and translates
//! the destination. Numbers, not verdicts: the kernel checks all chains again that a map leads to whenever one of its verdicts
//! changes. Plan and index are in turn the packet's priority, which nothing has a use for before the packet leaves, and which is
//! taken away before that.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::affinity;
use super::class::Class;
use super::draw::{draw, translate};
pub use super::names::TABLE;
use super::names::{name, set_name};
use super::number::{affinity_plan, plan_number};
use super::plan::Action;
use super::target::selectors;
use crate::kernel::LINK_GROUP;
use crate::kernel::nft::{
    self, Chain, ChainKind, Counter, Data, DataType, End, Error, Expression, Family, Field, Hook, Ip,
    NAT_RANDOM_FULLY, Register, Reject, Rule, Selector, Set, Table, Verdict, ct_state, ct_status,
};

/// Bit of the packet mark: its source is to be translated.
pub const MARK_MASQUERADE: u32 = 1 << 26;

/// `srcnat` in nftables, and just before its `dstnat`, where kube-proxy is: rules that it has left must not come first.
const DESTINATION_NAT: i32 = -101;
const SOURCE_NAT: i32 = 100;
/// `filter` in nftables.
const FILTER: i32 = 0;
const TCP: u8 = 6;
/// Map of plans to chains.
const PLAN: &str = "plan";
/// `NFT_REJECT_ICMPX_PORT_UNREACH`.
const PORT_UNREACHABLE: u8 = 1;

/// What the structure follows from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Structure {
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// This node's fabric addresses, at most one a family.
    pub fabric_addresses: Vec<IpAddr>,
}

impl Structure {
    /// The table without any Service.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table_for(Class::all())
    }

    /// The same with chains for some counts of backends alone.
    pub(super) fn table_for(&self, classes: impl Iterator<Item = Class>) -> Table {
        let mut table = Table::new(Family::Inet, TABLE);
        for counter in
            ["rejected", "dropped", "refused", "masqueraded", "hairpins", "invalid", affinity::FULL]
        {
            table.counter(counter);
        }
        for ip in Ip::BOTH {
            self.sets(ip, &mut table);
        }
        let nat = |hook, priority, rules| Chain::base(ChainKind::Nat, hook, priority, rules);
        table.chain("prerouting", nat(Hook::Prerouting, DESTINATION_NAT, prerouting()));
        table.chain("output", nat(Hook::Output, DESTINATION_NAT, vec![Rule::new().goto("from-inside")]));
        table.chain("postrouting", nat(Hook::Postrouting, SOURCE_NAT, self.postrouting()));
        table.chain("forward", Chain::base(ChainKind::Filter, Hook::Forward, FILTER, forward()));
        table.chain("from-inside", Chain::regular(from_inside()));
        table.chain("from-outside", Chain::regular(from_outside()));
        actions(classes, &mut table);
        table
    }

    fn sets(&self, ip: Ip, table: &mut Table) {
        let field = ip.field();
        let target = [field, Field::Protocol, Field::Port];
        let backend = [field, Field::Protocol, Field::Port, Field::Priority];
        let mut add = |name, set| {
            table.set(set_name(name, ip), set);
        };
        for map in [name::INSIDE, name::OUTSIDE] {
            add(map, Set::map(target, DataType::Value(Field::Priority.into())));
        }
        for map in [name::CLUSTER, name::LOCAL] {
            add(map, Set::map(backend, DataType::Value([field, Field::Port].into())));
        }
        for (index, scope) in name::AFFINITY.into_iter().enumerate() {
            add(scope, Set::map(target, DataType::Verdict));
            add(name::SLOTS[index], Set::map(backend, DataType::Value(Field::Priority.into())));
            add(name::NUMBERS[index], Set::map(backend, DataType::Value([field, Field::Port].into())));
        }
        add(name::RESTRICTED, Set::new(target));
        add(name::ALLOWED, Set::new([field, Field::Protocol, Field::Port, field]).of_ranges());
        add(name::CLUSTER_IPS, Set::new(field));
        add(name::HAIRPINS, Set::new([field, field]));
        add("pods", Set::prefixes(ip, &self.pod_cidrs));
    }

    /// A source is translated to the fabric address on the way into the fabric, so that pods and peers take it, and to the
    /// uplink's address elsewhere.
    fn postrouting(&self) -> Vec<Rule> {
        let none = Expression::Load { to: Register::FIRST, value: 0_u32.to_ne_bytes().to_vec() };
        let mut rules = vec![Rule::new().ct_status(ct_status::DST_NAT).with(none).set_priority()];
        for ip in Ip::BOTH {
            let Some(fabric) = self.fabric_addresses.iter().find(|address| Ip::of(**address) == ip) else {
                continue;
            };
            let ends = [Selector::Address(ip, End::Source), Selector::Address(ip, End::Destination)];
            let hairpin = Rule::new().ct_status(ct_status::DST_NAT).ip(ip);
            let hairpin = hairpin.in_set(&ends, &set_name(name::HAIRPINS, ip)).count("hairpins");
            rules.push(hairpin.snat(*fabric, NAT_RANDOM_FULLY));
            let inwards =
                Rule::new().marked(MARK_MASQUERADE).oif_group(LINK_GROUP).ip(ip).count("masqueraded");
            rules.push(inwards.snat(*fabric, NAT_RANDOM_FULLY));
        }
        rules.push(Rule::new().marked(MARK_MASQUERADE).count("masqueraded").masquerade(NAT_RANDOM_FULLY));
        rules
    }
}

/// Connections begun: `rejected`, `dropped`, `refused`, `masqueraded`, `hairpins`,
/// `affinity-full`; and packets: `invalid`.
///
/// # Errors
/// [`Error`].
pub fn counters() -> Result<BTreeMap<String, Counter>, Error> {
    nft::counters(Family::Inet, TABLE)
}

fn prerouting() -> Vec<Rule> {
    let inside = Ip::BOTH.into_iter().map(|ip| {
        let by_ours = Rule::new().iif_group(LINK_GROUP).ip(ip);
        by_ours.address_in(ip, End::Source, &set_name("pods", ip)).goto("from-inside")
    });
    inside.chain([Rule::new().goto("from-outside")]).collect()
}

/// What conntrack cannot place, such as a segment out of the window, is not translated back: the client would get it from an
/// address that it never spoke to, and reset the connection.
fn forward() -> Vec<Rule> {
    vec![Rule::new().iif_group(LINK_GROUP).ct_state(ct_state::INVALID).count("invalid").drop()]
}

/// Refused is who may not use the target, then its plan is followed.
fn planned(ip: Ip, map: &str) -> [Rule; 2] {
    let from = [&selectors(ip)[..], &[Selector::Address(ip, End::Source)]].concat();
    let restricted = Rule::new().ip(ip).in_set(&selectors(ip), &set_name(name::RESTRICTED, ip));
    let refused = restricted.not_in_set(&from, &set_name(name::ALLOWED, ip)).goto("refused");
    [refused, Rule::new().ip(ip).map(&selectors(ip), &set_name(map, ip)).set_priority().goto("planned")]
}

/// A port that a Service does not have is rejected. A Service address that no Service has is left to the guard.
fn from_inside() -> Vec<Rule> {
    let rules = Ip::BOTH.into_iter().flat_map(|ip| {
        let other_port =
            Rule::new().ip(ip).address_in(ip, End::Destination, &set_name(name::CLUSTER_IPS, ip));
        planned(ip, name::INSIDE).into_iter().chain([other_port.goto("rejected")])
    });
    rules.collect()
}

fn from_outside() -> Vec<Rule> {
    Ip::BOTH.into_iter().flat_map(|ip| planned(ip, name::OUTSIDE)).collect()
}

/// The chains that plans lead to.
fn actions(classes: impl Iterator<Item = Class>, table: &mut Table) {
    let mut plans = Set::map(Field::Priority, DataType::Verdict);
    let mut lead = |plan: u32, chain: &str| {
        let verdict = Data::Verdict(Verdict::Goto(chain.to_owned()));
        plans.insert_data(plan.to_ne_bytes(), verdict);
    };
    lead(plan_number(Action::Reject, 0), "rejected");
    lead(plan_number(Action::Drop, 0), "dropped");
    for class in classes {
        let size = class.size as usize;
        let chain = |name: &str| format!("{name}-{size}");
        for (action, map) in [(Action::Cluster, name::CLUSTER), (Action::Local, name::LOCAL)] {
            lead(plan_number(action, size), &chain(map));
            table.chain(chain(map), Chain::regular(draw(class, map)));
        }
        lead(plan_number(Action::Masquerade, size), &chain("masquerade"));
        let rule = Rule::new().mark(MARK_MASQUERADE).goto(chain(name::CLUSTER));
        table.chain(chain("masquerade"), Chain::regular(vec![rule]));
    }
    lead(affinity_plan(Action::Cluster), name::AFFINITY[0]);
    lead(affinity_plan(Action::Masquerade), "affinity-masquerade");
    lead(affinity_plan(Action::Local), name::AFFINITY[1]);
    for map in [name::CLUSTER, name::LOCAL] {
        table.chain(map, Chain::regular(translate(map)));
    }
    for scope in 0..name::AFFINITY.len() {
        for (chain, rules) in affinity::shared(scope) {
            table.chain(chain, Chain::regular(rules));
        }
    }
    for chain in name::AFFINITY {
        let by_port = |ip| Rule::new().ip(ip).vmap(&selectors(ip), &set_name(chain, ip));
        let rules = Ip::BOTH.into_iter().map(by_port).chain([Rule::new().goto("dropped")]);
        table.chain(chain, Chain::regular(rules.collect()));
    }
    let rule = Rule::new().mark(MARK_MASQUERADE).goto(name::AFFINITY[0]);
    table.chain("affinity-masquerade", Chain::regular(vec![rule]));
    table.set(PLAN, plans);
    table.chain(
        "planned",
        Chain::regular(vec![Rule::new().vmap(&[Selector::Priority], PLAN), Rule::new().goto("dropped")]),
    );
    let reset = Rule::new().protocol(TCP).count("rejected");
    let reset = reset.with(Expression::Reject { kind: Reject::TcpReset, code: 0 });
    let unreachable = Rule::new().count("rejected");
    let unreachable = unreachable.with(Expression::Reject { kind: Reject::Icmpx, code: PORT_UNREACHABLE });
    table.chain("rejected", Chain::regular(vec![reset, unreachable]));
    for chain in ["dropped", "refused"] {
        table.chain(chain, Chain::regular(vec![Rule::new().count(chain).drop()]));
    }
}
