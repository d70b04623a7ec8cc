//! The guard's table. Pure.

use ipnet::{IpNet, Ipv6Net};

use super::{GuardConfig, MARK, MARK_ARRIVING, TABLE};
use crate::kernel::LINK_GROUP;
use crate::kernel::nft::{
    Chain, ChainKind, Comparison, End, Family, Field, Hook, Ip, Meta, PayloadBase, Rule, Set, Table, octets,
};

/// Loopback is the first device of every network namespace.
const LOOPBACK: u32 = 1;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMPV6_REDIRECT: u8 = 137;
/// The types of ICMP messages that quote a packet: RFC 792, sections on 3, 4, 5, 11 and 12.
const ICMP_ERRORS: &str = "icmp-errors";
/// The first byte of an IPv4 header without options: version 4, five words (RFC 791, section 3.1).
const NO_OPTIONS: [u8; 1] = [0x45];
/// Hop-by-hop options, routing header, destination options, mobility, host identity, shim6: those that may hold
/// addresses. Any other that comes behind one of them is stopped with it.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
const EXTENSION_HEADERS: &str = "extension-headers";
/// `filter` in nftables.
const FILTER: i32 = 0;
/// `raw` in nftables: before connection tracking, which undoes NAT.
const BEFORE_NAT: i32 = -300;
/// Behind `srcnat`, which is 100.
const AFTER_NAT: i32 = 300;
/// Behind all who may set other marks, just before the packet's route is looked up.
const LAST: i32 = 300;

/// A way past the guard.
#[derive(Clone, Copy)]
enum Way {
    Leaving,
    Arriving,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Arriving => "arriving",
        }
    }

    /// The end that a pod is at, and the end that a trusted source is at.
    fn ends(self) -> (End, End) {
        match self {
            Self::Leaving => (End::Source, End::Destination),
            Self::Arriving => (End::Destination, End::Source),
        }
    }

    fn chain(self, rules: Vec<Rule>) -> Chain {
        match self {
            Self::Leaving => Chain::base(ChainKind::Filter, Hook::Postrouting, AFTER_NAT, rules),
            Self::Arriving => Chain::base(ChainKind::Filter, Hook::Prerouting, BEFORE_NAT, rules),
        }
    }

    fn device(self, key: Device) -> Rule {
        let rule = Rule::new();
        match (self, key) {
            (Self::Leaving, Device::Loopback) => rule.oif(LOOPBACK),
            (Self::Leaving, Device::Ours) => rule.oif_group(LINK_GROUP),
            (Self::Arriving, Device::Loopback) => rule.iif(LOOPBACK),
            (Self::Arriving, Device::Ours) => rule.iif_group(LINK_GROUP),
        }
    }
}

enum Device {
    Loopback,
    Ours,
}

/// The desired table. The same for the same ranges, in whatever order and notation.
#[must_use]
pub fn table(config: &GuardConfig) -> Table {
    let mut table = Table::new(Family::Inet, TABLE);
    let mut errors = Set::new(Field::IcmpType);
    for kind in [3, 4, 5, 11, 12] {
        errors.insert([kind]);
    }
    table.set(ICMP_ERRORS, errors);
    let ranges = Ip::BOTH.map(|ip| Ranges::new(ip, config));
    for ranges in &ranges {
        ranges.sets(&mut table);
    }
    for way in [Way::Leaving, Way::Arriving] {
        let mut rules = vec![
            way.device(Device::Loopback).accept(),
            way.device(Device::Ours).accept().comment("devices of the fabric"),
        ];
        for ranges in ranges.iter().filter(|ranges| !ranges.protected.is_empty()) {
            rules.extend(ranges.rules(way, &mut table));
        }
        table.chain(way.name(), way.chain(rules));
    }
    let mut marks = vec![Rule::new().iif_group(LINK_GROUP).mark(MARK).comment("for the routing rules")];
    // There is no check of the way back for IPv6.
    for ranges in ranges.iter().filter(|ranges| ranges.ip == Ip::V4 && !ranges.pods.is_empty()) {
        let arriving = Rule::new().meta_not(Meta::IifGroup, LINK_GROUP.to_ne_bytes()).ip(ranges.ip);
        let to_pods = arriving.address_in(ranges.ip, End::Destination, &ranges.name("pods"));
        marks.push(to_pods.mark(MARK_ARRIVING).comment("for the check of the way back"));
    }
    table.chain("mark", Chain::base(ChainKind::Filter, Hook::Prerouting, LAST, marks));
    let mut headers = Set::new(Field::Protocol);
    for header in EXTENSIONS {
        headers.insert([header]);
    }
    table.set(EXTENSION_HEADERS, headers);
    let rules = ranges.iter().map(|ranges| ranges.options(&mut table)).collect();
    table.chain("options", Chain::base(ChainKind::Filter, Hook::Forward, FILTER, rules));
    table
}

/// The ranges of one IP version, each set in as few prefixes as can be.
struct Ranges {
    ip: Ip,
    pods: Vec<IpNet>,
    /// Pods and Services.
    protected: Vec<IpNet>,
    trusted: Vec<IpNet>,
}

impl Ranges {
    fn new(ip: Ip, config: &GuardConfig) -> Self {
        let all = config.cluster_pod_cidrs.iter().chain(&config.service_cidrs);
        let mapped = all.clone().filter_map(mapped).filter(|_| ip == Ip::V6);
        let protected: Vec<IpNet> = all.copied().chain(mapped).collect();
        Self {
            ip,
            pods: of(ip, &config.cluster_pod_cidrs),
            protected: of(ip, &protected),
            trusted: of(ip, &config.trusted_sources),
        }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}{}", self.ip.digit())
    }

    fn sets(&self, table: &mut Table) {
        for (name, nets) in [("pods", &self.pods), ("protected", &self.protected), ("trusted", &self.trusted)]
        {
            table.set(self.name(name), Set::prefixes(self.ip, nets));
        }
    }

    /// What leaves for, or comes from, an address of the cluster is dropped first: a trusted range cannot open
    /// the cluster's own ones.
    fn rules(&self, way: Way, table: &mut Table) -> Vec<Rule> {
        let (pod, other) = way.ends();
        let (protected, counter) = (self.name("protected"), self.name(way.name()));
        let match_ip = || Rule::new().ip(self.ip);
        let drop = |end| match_ip().address_in(self.ip, end, &protected).count(&counter).drop();
        let mut rules = vec![drop(other)];
        if !self.trusted.is_empty() {
            let from_pod = match_ip().address_in(self.ip, pod, &self.name("pods"));
            rules.push(from_pod.address_in(self.ip, other, &self.name("trusted")).accept());
        }
        rules.push(drop(pod));
        table.counter(&counter);
        let quoted = format!("{counter}-quoted");
        rules.push(self.icmp_errors().jump(&quoted));
        table.counter(&quoted).chain(&quoted, Chain::regular(self.quoted(&quoted)));
        if self.ip == Ip::V6 {
            let redirects = format!("{counter}-redirects");
            let rule = match_ip().protocol(ICMPV6).payload(PayloadBase::Transport, 0, [ICMPV6_REDIRECT]);
            rules.push(rule.jump(&redirects));
            table.chain(&redirects, Chain::regular(self.redirects(&quoted)));
        }
        rules
    }

    /// Redirects of IPv6 have a type of their own, name a target and a destination, and quote the packet further back
    /// (RFC 4861, section 4.5). The kernel sends one about a packet that leaves by the device that it came by, such as a
    /// Service's from peer to peer, to wherever its source is. Those of IPv4 are like other errors.
    fn redirects(&self, counter: &str) -> Vec<Rule> {
        const TARGET: u32 = 8;
        const DESTINATION: u32 = 24;
        let about = |net: &IpNet, offset| {
            let (mask, value) = (octets(net.netmask()), octets(net.network()));
            let rule = Rule::new().payload_masked(PayloadBase::Transport, offset, mask, value);
            rule.comment(format!("redirects {net}")).count(counter).drop()
        };
        self.protected.iter().flat_map(|net| [TARGET, DESTINATION].map(|offset| about(net, offset))).collect()
    }

    /// Options of IPv4 and extension headers of IPv6 hold addresses that NAT leaves as they are: the pod's own, for
    /// example, where it asks for the route to be recorded. The internet needs none of them and drops most (RFC 7126,
    /// RFC 9288). In the forward hook, because behind the NAT a pod's packet looks like the node's own.
    fn options(&self, table: &mut Table) -> Rule {
        let counter = format!("{}-options", self.name(Way::Leaving.name()));
        table.counter(&counter);
        let leaving = Rule::new().ip(self.ip).meta_not(Meta::OifGroup, LINK_GROUP.to_ne_bytes());
        let from_pod = leaving.address_in(self.ip, End::Source, &self.name("pods"));
        let with_options = match self.ip {
            Ip::V4 => from_pod.payload_not(PayloadBase::Network, 0, NO_OPTIONS),
            Ip::V6 => from_pod.payload_in(PayloadBase::Network, 6, 1, EXTENSION_HEADERS),
        };
        with_options.count(counter).drop()
    }

    fn icmp_errors(&self) -> Rule {
        let rule = Rule::new().ip(self.ip);
        match self.ip {
            Ip::V4 => rule.protocol(ICMP).payload_in(PayloadBase::Transport, 0, 1, ICMP_ERRORS),
            // RFC 4443, section 2.1: error messages have types below 128.
            Ip::V6 => {
                rule.protocol(ICMPV6).load(PayloadBase::Transport, 0, 1).compare(Comparison::Less, [128])
            }
        }
    }

    /// Rules about the addresses in the packet behind the 8 bytes of the error itself. Without sets, because `nft`
    /// can list, but not read, a lookup of unnamed bytes.
    fn quoted(&self, counter: &str) -> Vec<Rule> {
        let both = |nets: &[IpNet]| -> Vec<Rule> {
            let ends = [End::Source, End::Destination];
            nets.iter().flat_map(|net| ends.map(|end| quotes(self.ip, end, net))).collect()
        };
        let mut rules: Vec<Rule> = both(&self.trusted).into_iter().map(Rule::end).collect();
        rules.extend(both(&self.protected).into_iter().map(|rule| rule.count(counter).drop()));
        rules
    }
}

/// If the quoted packet has such an address.
fn quotes(ip: Ip, end: End, net: &IpNet) -> Rule {
    let offset = 8 + ip.address(end).0;
    let (mask, value) = (octets(net.netmask()), octets(net.network()));
    Rule::new().payload_masked(PayloadBase::Transport, offset, mask, value).comment(format!("quotes {net}"))
}

fn of(ip: Ip, nets: &[IpNet]) -> Vec<IpNet> {
    let mine: Vec<IpNet> = nets.iter().filter(|net| Ip::of(net.addr()) == ip).copied().collect();
    let mut nets = IpNet::aggregate(&mine);
    nets.sort_unstable();
    nets
}

/// The IPv4-mapped form of an IPv4 range (RFC 4291, section 2.5.5.2), which has no place on a wire.
fn mapped(net: &IpNet) -> Option<IpNet> {
    let IpNet::V4(net) = net else { return None };
    Ipv6Net::new(net.network().to_ipv6_mapped(), 96 + net.prefix_len()).ok().map(IpNet::from)
}
