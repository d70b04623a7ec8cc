//! Tells when somebody changes links, addresses, routes, rules, or one of our nftables tables.
//!
//! It tells kinds, not contents: whoever is told reads the kernel and compares. Changes of our own are told too, and
//! the comparison then finds nothing to do.

use std::collections::BTreeSet;
use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::nft::message::{SUBSYSTEM, TABLE};
use super::nft::wire::{Message, find, messages, text};

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

/// A kind of thing that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// A device came, went or changed.
    Link,
    /// An address.
    Address,
    /// A route.
    Route,
    /// A routing rule.
    Rule,
    /// One of our nftables tables.
    Nftables,
}

impl Change {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Link, Self::Address, Self::Route, Self::Rule, Self::Nftables];
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

    /// Waits for the next changes and gives all kinds that have been seen by then, never none. When the kernel had
    /// more to tell than fits, it gives all kinds. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The system's, when a socket breaks.
    pub async fn next(&mut self) -> io::Result<BTreeSet<Change>> {
        let mut changes = BTreeSet::new();
        while changes.is_empty() {
            tokio::select! {
                told = self.route.receive() => changes.extend(told?),
                told = self.nftables.receive() => changes.extend(told?),
            }
            self.route.drain(&mut changes)?;
            self.nftables.drain(&mut changes)?;
        }
        Ok(changes)
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
        groups.iter().try_for_each(|group| inner.add_membership(*group))?;
        Ok(Self { socket, kind })
    }

    /// Waits for one datagram.
    async fn receive(&self) -> io::Result<Vec<Change>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        match self.socket.recv(&mut datagram).await {
            Ok(()) => Ok(self.kinds(&datagram)),
            Err(error) => unheard(error),
        }
    }

    /// Takes all that is there without waiting.
    fn drain(&self, changes: &mut BTreeSet<Change>) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            datagram.clear();
            match self.socket.socket_ref().recv(&mut datagram, libc::MSG_DONTWAIT) {
                Ok(_) => changes.extend(self.kinds(&datagram)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => changes.extend(unheard(error)?),
            }
        }
    }

    fn kinds(&self, datagram: &[u8]) -> Vec<Change> {
        messages(datagram).filter_map(|message| (self.kind)(&message)).collect()
    }
}

/// What an error means: nothing, or that the kernel had more to tell than fits.
fn unheard(error: io::Error) -> io::Result<Vec<Change>> {
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(Vec::new()),
        Some(libc::ENOBUFS) => Ok(Change::ALL.to_vec()),
        _ => Err(error),
    }
}

fn route_kind(message: &Message<'_>) -> Option<Change> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Change::Link),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Change::Address),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Change::Route),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Change::Rule),
        _ => None,
    }
}

/// Only messages that name one of our tables: others change theirs all day long.
fn nftables_kind(message: &Message<'_>) -> Option<Change> {
    let name = find(message.payload.get(4..)?, TABLE).filter(|_| message.kind >> 8 == SUBSYSTEM)?;
    text(name).starts_with(OURS).then_some(Change::Nftables)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::link::{self, Id, Update};
    use crate::kernel::netlink::Netlink;
    use crate::kernel::nft::{Family, Table, apply, delete};
    use crate::kernel::route::Route;
    use crate::kernel::rule::Rule;

    async fn expect(monitor: &mut Monitor, wanted: Change) {
        let seen = async { while !monitor.next().await.unwrap().contains(&wanted) {} };
        let deadline = tokio::time::timeout(Duration::from_secs(10), seen);
        deadline.await.unwrap_or_else(|_| panic!("waited 10 s to be told of a change of kind {wanted:?}"));
    }

    /// The next that is told is this kind alone.
    async fn only(monitor: &mut Monitor, wanted: Change) {
        let told = tokio::time::timeout(Duration::from_secs(10), monitor.next()).await;
        assert_eq!(told.expect("waited 10 s for a change").unwrap(), BTreeSet::from([wanted]));
    }

    #[test]
    fn every_kind_is_told_and_strangers_tables_are_not() {
        selvedge_lab::isolated!(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut monitor, netlink) = (Monitor::new().unwrap(), Netlink::new().unwrap());
                let refused: ipnet::IpNet = "10.9.0.0/16".parse().unwrap();
                netlink.apply([Route::unreachable(refused).replace()]).await.unwrap();
                expect(&mut monitor, Change::Route).await;
                netlink.apply([Rule::from_source(refused, 5, 7).add()]).await.unwrap();
                expect(&mut monitor, Change::Rule).await;
                let lo = Update { up: Some(false), ..Update::default() };
                netlink.apply([link::update(Id::Name("lo"), &lo)]).await.unwrap();
                expect(&mut monitor, Change::Link).await;
                let address: ipnet::IpNet = "192.0.2.1/32".parse().unwrap();
                netlink.apply([crate::kernel::address::Address::new(1, address).add()]).await.unwrap();
                expect(&mut monitor, Change::Address).await;

                apply(&[Table::new(Family::Inet, "selvedge-test")]).unwrap();
                only(&mut monitor, Change::Nftables).await;
                apply(&[Table::new(Family::Inet, "stranger")]).unwrap();
                delete(Family::Inet, "stranger").unwrap();
                delete(Family::Inet, "selvedge-test").unwrap();
                only(&mut monitor, Change::Nftables).await;
                apply(&[Table::new(Family::Inet, "stranger")]).unwrap();
                netlink.apply([Rule::from_source(refused, 5, 7).delete()]).await.unwrap();
                only(&mut monitor, Change::Rule).await;
            });
        });
    }
}
