//! Reports that somebody else changed links, addresses, routes, rules, one of our nftables tables, a chain by which
//! iptables forwards, or that kube-proxy has added rules.
//!
//! It reports kinds, not contents: whoever wakes up reads the kernel and compares. What this process changed through
//! [`Netlink`](super::netlink::Netlink) and [`nft`](super::nft) is not reported, where the kernel says who asked. It does
//! not for links and IPv6 addresses: these are reported whoever caused them, and the comparison then finds nothing to do.

use std::collections::BTreeSet;
use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::NLM_F_REPLACE;
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use socket2::SockRef;

use super::nft::message::{
    CHAIN_NAME, DELETE_CHAIN, DELETE_RULE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, NEW_TABLE, RULE_CHAIN,
    SUBSYSTEM, TABLE,
};
use super::nft::wire::{Message, find, messages, text};
use super::{ROUTE_PROTOCOL, iptables, kube_proxy, own};

/// Names of our nftables tables start with this.
const OURS: &str = "selvedge-";
/// Room for bursts, such as a network manager that puts back hundreds of routes.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;
/// The kernel makes datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// Multicast groups of route netlink (`enum rtnetlink_groups`).
const ROUTE_GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A device came, went or changed.
    Link,
    /// An address.
    Address,
    /// A route of ours.
    Route,
    /// A routing rule.
    Rule,
    /// The nftables table of this name, which is one of ours, or something in it.
    Nftables(String),
    /// A chain or rule was added to kube-proxy's nftables table, or to its chains in iptables-nft.
    KubeProxy,
    /// A chain by which iptables (iptables-nft) forwards: [`FORWARD`](iptables::FORWARD) or
    /// [`DOCKER_USER`](iptables::DOCKER_USER), or its table.
    Forwarding,
}

/// Changes since the last call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangeSet {
    known: BTreeSet<Change>,
    /// Notifications were lost: anything may have changed.
    overflow: bool,
}

impl ChangeSet {
    /// Whether this changed, or may have.
    #[must_use]
    pub fn contains(&self, change: &Change) -> bool {
        self.overflow || self.known.contains(change)
    }

    /// Whether the nftables table of this name changed, or may have.
    #[must_use]
    pub fn has_table(&self, name: &str) -> bool {
        self.contains(&Change::Nftables(name.to_owned()))
    }

    /// The kernel had more to report than fits: anything may have changed.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        self.overflow
    }

    /// What is known to have changed. Not all of it when there was an [overflow](Self::is_overflow).
    pub fn known(&self) -> impl Iterator<Item = &Change> {
        self.known.iter()
    }

    fn is_empty(&self) -> bool {
        !self.overflow && self.known.is_empty()
    }
}

/// Listens in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Monitor {
    route: Listener,
    nftables: Listener,
}

impl Monitor {
    /// Starts to listen. Needs a running tokio runtime.
    ///
    /// # Errors
    /// The system's, when a socket cannot be opened or may not listen.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            route: Listener::new(NETLINK_ROUTE, &ROUTE_GROUPS, route_kind)?,
            nftables: Listener::new(NETLINK_NETFILTER, &[NFTABLES_GROUP], nftables_kind)?,
        })
    }

    /// Waits for the next changes and returns all that have been reported by then, at least one. When the kernel had
    /// more to report than fits, anything may have changed. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The system's, when a socket breaks.
    pub async fn next(&mut self) -> io::Result<ChangeSet> {
        let mut changes = ChangeSet::default();
        while changes.is_empty() {
            tokio::select! {
                datagram = self.route.receive() => self.route.note(datagram, &mut changes)?,
                datagram = self.nftables.receive() => self.nftables.note(datagram, &mut changes)?,
            }
            self.route.drain(&mut changes)?;
            self.nftables.drain(&mut changes)?;
        }
        Ok(changes)
    }
}

/// Listens to changes of links alone, in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct LinkMonitor(Listener);

impl LinkMonitor {
    /// Starts to listen. Needs a running tokio runtime.
    ///
    /// # Errors
    /// As [`Monitor::new`].
    pub fn new() -> io::Result<Self> {
        Listener::new(NETLINK_ROUTE, &[libc::RTNLGRP_LINK], route_kind).map(Self)
    }

    /// Waits until some link has come, gone or changed since the last call. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The system's, when the socket breaks.
    pub async fn next(&mut self) -> io::Result<()> {
        let mut changes = ChangeSet::default();
        while changes.is_empty() {
            self.0.note(self.0.receive().await, &mut changes)?;
            self.0.drain(&mut changes)?;
        }
        Ok(())
    }
}

struct Listener {
    socket: TokioSocket,
    kind: fn(&Message<'_>) -> Option<Change>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Listener {
    fn new(protocol: isize, groups: &[u32], kind: fn(&Message<'_>) -> Option<Change>) -> io::Result<Self> {
        let mut socket = TokioSocket::new(protocol)?;
        let inner = socket.socket_mut();
        inner.bind(&SocketAddr::new(0, 0))?;
        if setsockopt(inner, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            let _ = setsockopt(inner, sockopt::RcvBuf, &RECEIVE_BUFFER);
        }
        SockRef::from(&*inner).attach_filter(&own::filter())?;
        groups.iter().try_for_each(|group| inner.add_membership(*group))?;
        Ok(Self { socket, kind })
    }

    /// Waits for one datagram.
    async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        self.socket.recv(&mut datagram).await.map(|()| datagram)
    }

    /// Takes all that is there without waiting.
    fn drain(&self, changes: &mut ChangeSet) -> io::Result<()> {
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            let received = self.socket.socket_ref().recv(&mut datagram, libc::MSG_DONTWAIT);
            match received.map(|_| datagram) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                datagram => self.note(datagram, changes)?,
            }
        }
    }

    fn note(&self, datagram: io::Result<Vec<u8>>, changes: &mut ChangeSet) -> io::Result<()> {
        match datagram {
            Ok(datagram) => {
                let others = messages(&datagram).filter(|message| !own::is_own(message.port_id));
                changes.known.extend(others.filter_map(|message| (self.kind)(&message)));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changes.overflow = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether a route is one of ours, or was put in the place of one. A routing daemon may change others all day long.
fn is_about_ours(message: &Message<'_>) -> bool {
    /// Offset of `rtm_protocol` in `struct rtmsg`.
    const PROTOCOL: usize = 5;
    let is_ours = message.payload.get(PROTOCOL) == Some(&ROUTE_PROTOCOL);
    is_ours || message.flags & NLM_F_REPLACE != 0
}

fn route_kind(message: &Message<'_>) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Change::Link),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Change::Address),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => is_about_ours(message).then_some(Change::Route),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Change::Rule),
        _ => None,
    }
}

/// Only messages that name one of our tables: others change theirs all day long.
fn nftables_kind(message: &Message<'_>) -> Option<Change> {
    let name = find(message.payload.get(4..)?, TABLE).filter(|_| message.kind >> 8 == SUBSYSTEM)?;
    if is_about_forwarding(message, name) {
        return Some(Change::Forwarding);
    }
    if is_about_kube_proxy(message, name) {
        return Some(Change::KubeProxy);
    }
    let name = text(name);
    name.starts_with(OURS).then_some(Change::Nftables(name))
}

/// Additions alone: they are what somebody makes who is about to serve.
fn is_about_kube_proxy(message: &Message<'_>, table: &[u8]) -> bool {
    let family = message.payload.first().copied();
    let chain = match message.kind & 0xff {
        NEW_TABLE => 0,
        NEW_CHAIN => CHAIN_NAME,
        NEW_RULE => RULE_CHAIN,
        _ => return false,
    };
    if !iptables::FAMILIES.iter().any(|it| family == Some(it.number())) {
        return false;
    }
    let chain = || message.payload.get(4..).and_then(|body| find(body, chain)).unwrap_or_default();
    let table = text(table);
    table == kube_proxy::TABLE || (table == iptables::NAT && kube_proxy::is_chain(&text(chain())))
}

/// kube-proxy changes other chains of that table all day long.
fn is_about_forwarding(message: &Message<'_>, table: &[u8]) -> bool {
    let is = |value: &[u8], name: &str| value.strip_suffix(b"\0").unwrap_or(value) == name.as_bytes();
    let family = message.payload.first().copied();
    if !is(table, iptables::FILTER) || !iptables::FAMILIES.iter().any(|it| family == Some(it.number())) {
        return false;
    }
    let chain = match message.kind & 0xff {
        NEW_TABLE | DELETE_TABLE => return true,
        NEW_CHAIN | DELETE_CHAIN => CHAIN_NAME,
        NEW_RULE | DELETE_RULE => RULE_CHAIN,
        _ => return false,
    };
    let chain = message.payload.get(4..).and_then(|body| find(body, chain)).unwrap_or_default();
    [iptables::FORWARD, iptables::DOCKER_USER].iter().any(|name| is(chain, name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::address::Address;
    use crate::kernel::link::{self, Id, Update};
    use crate::kernel::netlink::Netlink;
    use crate::kernel::nft::{
        Chain, Connection, Family, Field, Set, Table, Update as Elements, apply, delete,
    };
    use crate::kernel::route::Route;
    use crate::kernel::rule::Rule;

    const LOOPBACK: u32 = 1;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn next(monitor: &mut Monitor) -> ChangeSet {
        let changes = tokio::time::timeout(Duration::from_secs(10), monitor.next()).await;
        changes.expect("waited 10 s for a change").unwrap()
    }

    async fn expect(monitor: &mut Monitor, wanted: Change) {
        while !next(monitor).await.contains(&wanted) {}
    }

    /// A socket as somebody else's process has it.
    fn others() -> Netlink {
        Netlink::bound(|socket| socket.bind_auto().map(drop)).unwrap()
    }

    fn net(text: &str) -> ipnet::IpNet {
        text.parse().unwrap()
    }

    fn ours(name: &str) -> Table {
        Table::new(Family::Inet, format!("selvedge-{name}"))
    }

    fn of_table(name: &str) -> Change {
        Change::Nftables(format!("selvedge-{name}"))
    }

    /// All that is reported until two changes of somebody else are, which are made now.
    async fn reported(monitor: &mut Monitor) -> BTreeSet<Change> {
        let mut known = BTreeSet::new();
        for name in ["fence", "second-fence"] {
            Connection::of_others().apply(&[ours(name)]).unwrap();
            while !known.contains(&of_table(name)) {
                let changes = next(monitor).await;
                assert!(!changes.is_overflow());
                known.extend(changes.known);
            }
        }
        known.retain(|change| ![of_table("fence"), of_table("second-fence")].contains(change));
        for name in ["fence", "second-fence"] {
            Connection::of_others().delete(Family::Inet, &format!("selvedge-{name}")).unwrap();
            expect(monitor, of_table(name)).await;
        }
        known
    }

    #[test]
    fn what_others_change_is_reported() {
        selvedge_lab::isolated!(|| block_on(async {
            let (mut monitor, netlink) = (Monitor::new().unwrap(), others());
            for (route, rule, address) in [
                ("10.9.0.0/16", "10.9.0.0/16", "192.0.2.1/32"),
                ("fd00::/16", "fd00::/16", "2001:db8::1/128"),
            ] {
                netlink.apply([Route::unreachable(net(route)).replace()]).await.unwrap();
                expect(&mut monitor, Change::Route).await;
                netlink.apply([Rule::from_source(net(rule), 5, 7).add()]).await.unwrap();
                expect(&mut monitor, Change::Rule).await;
                netlink.apply([Address::new(LOOPBACK, net(address)).add()]).await.unwrap();
                expect(&mut monitor, Change::Address).await;
            }
            let down = Update { up: Some(false), ..Update::default() };
            netlink.apply([link::update(Id::Name("lo"), &down)]).await.unwrap();
            expect(&mut monitor, Change::Link).await;
            reported(&mut monitor).await;

            let mut connection = Connection::of_others();
            connection.apply(&[ours("one"), ours("two"), Table::new(Family::Inet, "unknown")]).unwrap();
            assert_eq!(reported(&mut monitor).await, [of_table("one"), of_table("two")].into());
            connection.delete(Family::Inet, "selvedge-two").unwrap();
            connection.delete(Family::Inet, "unknown").unwrap();
            assert_eq!(reported(&mut monitor).await, [of_table("two")].into());
        }));
    }

    #[test]
    fn chains_by_which_iptables_forwards_are_reported_and_no_others() {
        selvedge_lab::isolated!(|| block_on(async {
            let (mut monitor, mut others) = (Monitor::new().unwrap(), Connection::of_others());
            for family in iptables::FAMILIES {
                let table = |chains: &[&str]| {
                    let mut table = Table::new(family, iptables::FILTER);
                    for chain in chains {
                        table.chain(*chain, Chain::regular(vec![]));
                    }
                    table
                };
                others.apply(&[table(&["KUBE-FORWARD"])]).unwrap();
                assert_eq!(reported(&mut monitor).await, [Change::Forwarding].into(), "the table is new");
                others.apply(&[table(&["KUBE-FORWARD", "KUBE-FIREWALL"])]).unwrap();
                assert_eq!(reported(&mut monitor).await, [].into());
                for chain in [iptables::FORWARD, iptables::DOCKER_USER] {
                    others.apply(&[table(&["KUBE-FORWARD", chain])]).unwrap();
                    assert_eq!(reported(&mut monitor).await, [Change::Forwarding].into(), "{chain}");
                }
                let mut nat = Table::new(family, "nat");
                nat.chain(iptables::FORWARD, Chain::regular(vec![]));
                others.apply(&[nat]).unwrap();
                assert_eq!(reported(&mut monitor).await, [].into());
                others.delete(family, iptables::FILTER).unwrap();
                assert_eq!(reported(&mut monitor).await, [Change::Forwarding].into());
            }
        }));
    }

    #[test]
    fn what_kube_proxy_adds_is_reported() {
        selvedge_lab::isolated!(|| block_on(async {
            let (mut monitor, mut others) = (Monitor::new().unwrap(), Connection::of_others());
            let table = |family, name: &str, chain: &str| {
                let mut table = Table::new(family, name);
                table.chain(chain, Chain::regular(vec![]));
                table
            };
            for family in iptables::FAMILIES {
                others.apply(&[table(family, kube_proxy::TABLE, "services")]).unwrap();
                assert_eq!(reported(&mut monitor).await, [Change::KubeProxy].into());
                others.apply(&[table(family, iptables::NAT, "KUBE-KUBELET-CANARY")]).unwrap();
                assert_eq!(reported(&mut monitor).await, [].into());
                others.apply(&[table(family, iptables::NAT, "KUBE-SERVICES")]).unwrap();
                assert_eq!(reported(&mut monitor).await, [Change::KubeProxy].into());
                others.delete(family, iptables::NAT).unwrap();
                others.delete(family, kube_proxy::TABLE).unwrap();
                assert_eq!(reported(&mut monitor).await, [].into());
            }
        }));
    }

    #[test]
    fn own_changes_are_not_reported() {
        selvedge_lab::isolated!(|| block_on(async {
            let (mut monitor, netlink) = (Monitor::new().unwrap(), Netlink::new().unwrap());
            for prefix in ["10.9.0.0/16", "fd00::/16"].map(net) {
                let (route, rule) = (Route::unreachable(prefix), Rule::from_source(prefix, 5, 7));
                netlink.apply([route.replace(), rule.add()]).await.unwrap();
                netlink.apply([route.delete(), rule.delete()]).await.unwrap();
            }
            apply(&[ours("one")]).unwrap();
            let mut connection = Connection::open().unwrap();
            let mut table = ours("one");
            table.set("set", Set::new(Field::Mark));
            connection.apply(&[table]).unwrap();
            // Far more notifications than the monitor has room for.
            let mut elements = Elements::new(Family::Inet, "selvedge-one");
            (0..100_000_u32).for_each(|number| {
                elements.insert("set", number.to_ne_bytes());
            });
            let start = std::time::Instant::now();
            connection.update(&elements).unwrap();
            println!("100,000 elements, with a monitor that leaves them out: {:?}", start.elapsed());
            delete(Family::Inet, "selvedge-one").unwrap();
            assert_eq!(reported(&mut monitor).await, [].into());
        }));
    }

    /// What the kernel does not say of whose change it was.
    #[test]
    fn own_changes_of_links_and_ipv6_addresses_are_reported() {
        selvedge_lab::isolated!(|| block_on(async {
            let (mut monitor, netlink) = (Monitor::new().unwrap(), Netlink::new().unwrap());
            // The local route that comes with the address is the kernel's.
            netlink.apply([Address::new(LOOPBACK, net("192.0.2.1/32")).add()]).await.unwrap();
            assert_eq!(reported(&mut monitor).await, [].into());
            netlink.apply([Address::new(LOOPBACK, net("2001:db8::1/128")).add()]).await.unwrap();
            expect(&mut monitor, Change::Address).await;
            let mtu = Update { mtu: Some(1500), ..Update::default() };
            netlink.apply([link::update(Id::Name("lo"), &mtu)]).await.unwrap();
            assert!(reported(&mut monitor).await.contains(&Change::Link));
        }));
    }

    #[test]
    fn anything_may_have_changed_after_an_overflow() {
        selvedge_lab::isolated!(|| block_on(async {
            let mut monitor = Monitor::new().unwrap();
            let mut table = ours("one");
            table.set("set", Set::new(Field::Mark));
            let mut connection = Connection::of_others();
            connection.apply(&[table]).unwrap();
            let mut elements = Elements::new(Family::Inet, "selvedge-one");
            (0..200_000_u32).for_each(|number| {
                elements.insert("set", number.to_ne_bytes());
            });
            connection.update(&elements).unwrap();
            let changes = next(&mut monitor).await;
            assert!(changes.is_overflow());
            assert!(changes.has_table("selvedge-other") && changes.contains(&Change::Route));
            reported(&mut monitor).await;
        }));
    }
}
