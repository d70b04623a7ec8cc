//! Egress: how packets leave the cluster, and how strangers' packets enter the fabric. Pure, but for [`ensure`] and
//! [`update`].
//!
//! - A pod's packet to an address outside the cluster, by a device that is not ours, gets the node's address
//!   (masquerade). Never on the way into the tunnel, and never to another member node's address: when the tunnel does
//!   not take that, it has to be dropped (by the guard), not sent in the clear.
//! - Nothing goes between a pod and another member node's address by a device that is not ours, in either direction: a
//!   connection that was masqueraded before that node became a member stays masqueraded for as long as it lives, and
//!   NAT rules are not asked about it again.
//! - Nothing that comes by our devices is for the tunnel's own port. A hostile node could else let its endpoint roam to
//!   one of its pods' addresses, and this node would send what it has encrypted into the tunnel again, and again.
//! - A packet that enters the tunnel with a source that peers do not take from this node, such as a NodePort's client,
//!   gets this node's fabric address. So does one that came out of the tunnel and goes back into it, because its
//!   destination was translated here.
//! - Nothing that came out of the tunnel goes to another member node's address by a device that is not ours, answers
//!   included; and nothing goes on at all that was not translated here or answers what was.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::guard::MARK;
use crate::kernel::LINK_GROUP;
use crate::kernel::nft::{
    self, Chain, ChainKind, Changes, Connection, Counter, End, Error, Family, Hook, Ip, Meta,
    NAT_RANDOM_FULLY, PayloadBase, Rule, Set, Table, Update, ct_direction, ct_status,
};

/// Name of the nftables table, of family inet.
pub const TABLE: &str = "selvedge-egress";

/// `srcnat` in nftables.
const SOURCE_NAT: i32 = 100;
/// `filter` in nftables.
const FILTER: i32 = 0;
/// Behind `srcnat`, which is 100.
const AFTER_NAT: i32 = 300;
const UDP: u8 = 17;

/// What egress follows from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressConfig {
    /// Name of the TUN device.
    pub tunnel: String,
    /// The tunnel's UDP port.
    pub listen_port: u16,
    /// This node's pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// This node's fabric addresses, at most one a family.
    pub fabric_addresses: Vec<IpAddr>,
    /// Addresses of this node that its peers take as a source from it.
    pub own_addresses: Vec<IpAddr>,
    /// All pod CIDRs of the cluster.
    pub cluster_pod_cidrs: Vec<IpNet>,
    /// All Service CIDRs of the cluster.
    pub service_cidrs: Vec<IpNet>,
    /// Further destinations that are not masqueraded. Pods reach them only where they are trusted sources of the
    /// guard too: else it drops what carries a pod's address.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Addresses of other member nodes, which pods reach by the tunnel.
    pub member_addresses: Vec<IpAddr>,
}

/// The desired table. The same for the same ranges, in whatever order and notation.
#[must_use]
pub fn table(config: &EgressConfig) -> Table {
    let mut table = Table::new(Family::Inet, TABLE);
    let mut rules = Vec::new();
    for ip in Ip::BOTH {
        rules.extend(foreign(ip, config, &mut table).into_iter().flatten());
    }
    rules.push(Rule::new().oif_group(LINK_GROUP).accept().comment("devices of the fabric"));
    for ip in Ip::BOTH {
        rules.push(masquerade(ip, config, &mut table));
    }
    table.chain("source", Chain::base(ChainKind::Nat, Hook::Postrouting, SOURCE_NAT, rules));
    let mut rules: Vec<Rule> = Ip::BOTH.into_iter().flat_map(|ip| members(ip, config, &mut table)).collect();
    rules.extend(transit(config, &mut table));
    table.chain("forward", Chain::base(ChainKind::Filter, Hook::Forward, FILTER, rules));
    let rules = Ip::BOTH.into_iter().map(around).collect();
    table.chain("leaving", Chain::base(ChainKind::Filter, Hook::Postrouting, AFTER_NAT, rules));
    let rules = vec![nested(config, &mut table)];
    table.chain("input", Chain::base(ChainKind::Filter, Hook::Input, FILTER, rules));
    table
}

/// What came by our devices and goes to a member past the forward hook: IPVS sends what it takes on as the node's own. The
/// guard's mark stays on such a packet.
fn around(ip: Ip) -> Rule {
    let members = members_set(ip);
    let leaving = Rule::new().ip(ip).meta_not(Meta::OifGroup, LINK_GROUP.to_ne_bytes()).marked(MARK);
    leaving.address_in(ip, End::Destination, &members).count(&members).drop()
}

fn nested(config: &EgressConfig, table: &mut Table) -> Rule {
    const DESTINATION_PORT: u32 = 2;
    table.counter("nested");
    let datagram = Rule::new().iif_group(LINK_GROUP).protocol(UDP);
    let for_tunnel =
        datagram.payload(PayloadBase::Transport, DESTINATION_PORT, config.listen_port.to_be_bytes());
    for_tunnel.count("nested").drop()
}

fn foreign(ip: Ip, config: &EgressConfig, table: &mut Table) -> Option<[Rule; 2]> {
    let fabric = config.fabric_addresses.iter().find(|address| Ip::of(**address) == ip)?;
    let (set, counter) = (format!("native{}", ip.digit()), format!("foreign{}", ip.digit()));
    let own = config.own_addresses.iter().copied().map(IpNet::from);
    let native: Vec<IpNet> = config.cluster_pod_cidrs.iter().copied().chain(own).collect();
    table.counter(&counter).set(&set, Set::prefixes(ip, &native));
    let entering = || Rule::new().oif_name(&config.tunnel).ip(ip);
    let translated = |rule: Rule| rule.count(&counter).snat(*fabric, NAT_RANDOM_FULLY);
    // A peer takes no packet of another peer's from this node.
    let from_peers = entering().iif_name(&config.tunnel);
    Some([translated(from_peers), translated(entering().address_not_in(ip, End::Source, &set))])
}

fn masquerade(ip: Ip, config: &EgressConfig, table: &mut Table) -> Rule {
    let names = ["local", "internal", "masqueraded"].map(|name| format!("{name}{}", ip.digit()));
    let [local, internal, counter] = &names;
    let ranges = [&config.cluster_pod_cidrs, &config.service_cidrs, &config.non_masquerade_cidrs];
    let inside: Vec<IpNet> = ranges.into_iter().flatten().copied().collect();
    table.set(local, Set::prefixes(ip, &config.pod_cidrs)).set(internal, Set::prefixes(ip, &inside));
    table.counter(counter);
    let rule = Rule::new().ip(ip).address_in(ip, End::Source, local);
    let rule = rule.address_not_in(ip, End::Destination, internal);
    let rule = rule.address_not_in(ip, End::Destination, &members_set(ip));
    rule.count(counter).masquerade(NAT_RANDOM_FULLY)
}

/// Name of the set of members' addresses. They are single values, not ranges: one can be added or deleted whatever its
/// neighbours are, and thousands of them are looked up as fast as one.
fn members_set(ip: Ip) -> String {
    format!("members{}", ip.digit())
}

/// Here a pod's packet has its own address still, and one to a pod has it again. A member's first packet to a pod may
/// come in the clear: it is a NodePort's client, and speaks to this node as far as the wire is concerned.
///
/// What came by the tunnel is a peer's or its pods', whatever its source, and goes to members by the tunnel as well. That
/// is also how answers of a remote pod get to a NodePort's client on a member node.
fn members(ip: Ip, config: &EgressConfig, table: &mut Table) -> [Rule; 3] {
    let (local, members) = (format!("local{}", ip.digit()), members_set(ip));
    let counter = &members;
    let mut set = Set::new(ip.field());
    config.member_addresses.iter().filter(|address| Ip::of(**address) == ip).for_each(|address| {
        set.insert(*address);
    });
    table.set(&members, set).counter(counter);
    let by_others = |group| Rule::new().ip(ip).meta_not(group, LINK_GROUP.to_ne_bytes());
    let between = |rule: Rule, pod: End, member: End| {
        rule.address_in(ip, pod, &local).address_in(ip, member, &members).count(counter).drop()
    };
    let leaving = between(by_others(Meta::OifGroup), End::Source, End::Destination);
    let answers = by_others(Meta::IifGroup).ct_direction(ct_direction::REPLY);
    let from_peers = by_others(Meta::OifGroup).iif_name(&config.tunnel);
    let from_peers = from_peers.address_in(ip, End::Destination, &members).count(counter).drop();
    [leaving, between(answers, End::Destination, End::Source), from_peers]
}

/// What comes from a peer ends at this node or its pods, unless it answers what came from there (such as a NodePort's
/// client), or this node has translated its destination (a NodePort whose pod is on another node). So this node is
/// nobody's router: neither to the rest of the world, nor to other peers, who would take it for this node's own traffic.
///
/// What may pass is named, and the rest dropped: packets without a conntrack entry (invalid, such as an RST or an ICMP error
/// about nothing, or untracked, such as ICMPv6 of neighbour discovery) match no condition on connections at all.
fn transit(config: &EgressConfig, table: &mut Table) -> [Rule; 4] {
    table.counter("transit");
    let from_peer = || Rule::new().iif_name(&config.tunnel);
    let to_peer = || from_peer().oif_name(&config.tunnel);
    [
        from_peer().ct_direction(ct_direction::REPLY).accept().comment("answers"),
        from_peer().meta_not(Meta::OifGroup, LINK_GROUP.to_ne_bytes()).count("transit").drop(),
        to_peer().ct_status(ct_status::DST_NAT).accept().comment("translated here"),
        to_peer().count("transit").drop(),
    ]
}

/// Makes the table be there as it should. Changes nothing when it is; its counters keep their values.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn ensure(config: &EgressConfig) -> Result<Changes, Error> {
    nft::apply(&[table(config)])
}

/// Changes the table from that of `before`, which the kernel has, to that of `after`. If only addresses of members differ,
/// it adds and deletes just these, and reads nothing; otherwise, or if the kernel does not have what was assumed, it does
/// what [`ensure`] does.
///
/// # Errors
/// [`Error`]; then the kernel has what it had before.
pub fn update(
    connection: &mut Connection,
    before: &EgressConfig,
    after: &EgressConfig,
) -> Result<Changes, Error> {
    let ensure = |connection: &mut Connection| connection.apply(&[table(after)]);
    if !before.differs_in_members_alone(after) {
        return ensure(connection);
    }
    match connection.update(&members_update(&before.member_addresses, &after.member_addresses)) {
        Err(Error::Stale { .. }) => ensure(connection),
        result => result,
    }
}

impl EgressConfig {
    /// All but the addresses of members is the same.
    fn differs_in_members_alone(&self, other: &Self) -> bool {
        let Self {
            tunnel,
            listen_port,
            pod_cidrs,
            fabric_addresses,
            own_addresses,
            cluster_pod_cidrs,
            service_cidrs,
            non_masquerade_cidrs,
            member_addresses: _,
        } = self;
        (tunnel, *listen_port) == (&other.tunnel, other.listen_port)
            && (pod_cidrs, fabric_addresses) == (&other.pod_cidrs, &other.fabric_addresses)
            && (own_addresses, cluster_pod_cidrs) == (&other.own_addresses, &other.cluster_pod_cidrs)
            && (service_cidrs, non_masquerade_cidrs) == (&other.service_cidrs, &other.non_masquerade_cidrs)
    }
}

/// From addresses in any order, which are compared as sorted ones: thousands of them cost less than a millisecond.
fn members_update(before: &[IpAddr], after: &[IpAddr]) -> Update {
    let sorted = |addresses: &[IpAddr]| {
        let mut sorted = addresses.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        sorted
    };
    let (before, after) = (sorted(before), sorted(after));
    let mut update = Update::new(Family::Inet, TABLE);
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some(gone), next) if next.is_none_or(|next| gone < next) => {
                update.delete(&members_set(Ip::of(**gone)), **gone);
                old.next();
            }
            (next, Some(come)) if next.is_none_or(|next| come < next) => {
                update.insert(&members_set(Ip::of(**come)), **come);
                new.next();
            }
            (Some(_), Some(_)) => {
                old.next();
                new.next();
            }
            _ => return update,
        }
    }
}

/// Takes the table away. True when it was there.
///
/// # Errors
/// [`Error`]; then it is still there.
pub fn remove() -> Result<bool, Error> {
    nft::delete(Family::Inet, TABLE)
}

/// Connections begun, by counter: `masqueraded4`, `masqueraded6`, `foreign4`, `foreign6`; and packets dropped between
/// pods and member nodes that were not in the tunnel, `members4`, `members6`, for the tunnel's port, `nested`, and from
/// peers to the rest of the world or to other peers, `transit`.
///
/// # Errors
/// [`Error`].
pub fn connections() -> Result<BTreeMap<String, Counter>, Error> {
    nft::counters(Family::Inet, TABLE)
}
