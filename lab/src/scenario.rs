//! What administrators, network managers and other programs do to a node, over netlink, without our help.

use std::io;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleAttribute;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use selvedge::kernel::netlink;
use selvedge::kernel::netns::{self, NetNs};

/// The table of a namespace's own addresses: no network manager touches it.
const LOCAL: u32 = 255;
/// Rules of a new namespace: `local`, `main`, `default`.
const KERNELS_RULES: [u32; 3] = [0, 32766, 32767];

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// The socket.
    #[error("a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel said no.
    #[error("{what}: {source}")]
    Refused {
        /// To what.
        what: &'static str,
        /// Why.
        source: Box<rtnetlink::Error>,
    },
    /// The kernel said no.
    #[error(transparent)]
    Change(#[from] netlink::Error),
    /// nftables said no.
    #[error("flush the ruleset: {0}")]
    Ruleset(io::Error),
}

fn refused(what: &'static str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Refused { what, source: Box::new(source) }
}

/// Deletes every route of `ns`, of all protocols, tables and families, but those of the local table: what
/// `systemd-networkd` or NetworkManager do to routes that they do not know. Gives how many. Needs a tokio runtime.
pub async fn flush_routes(ns: &NetNs) -> Result<usize, Error> {
    delete_routes(ns, |_| true).await
}

/// Deletes the routes that `wanted` picks, not those of the local table. Gives how many.
pub async fn delete_routes(ns: &NetNs, wanted: impl Fn(&RouteMessage) -> bool) -> Result<usize, Error> {
    let handle = Connection::open(ns)?;
    let mut deleted = 0;
    let requests = [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ];
    for request in requests {
        let routes: Vec<RouteMessage> =
            handle.0.route().get(request).execute().try_collect().await.map_err(refused("list routes"))?;
        for route in routes.into_iter().filter(|route| table(route) != LOCAL && wanted(route)) {
            // With its device or address, another may be gone already.
            deleted += usize::from(handle.0.route().del(route).execute().await.is_ok());
        }
    }
    Ok(deleted)
}

/// Table of a route.
#[must_use]
pub fn table(route: &RouteMessage) -> u32 {
    let wide = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or(u32::from(route.header.table))
}

/// Deletes every policy rule of `ns` that the kernel did not make itself. Gives how many. Needs a tokio runtime.
pub async fn flush_rules(ns: &NetNs) -> Result<usize, Error> {
    let handle = Connection::open(ns)?;
    let mut deleted = 0;
    for version in [IpVersion::V4, IpVersion::V6] {
        let rules: Vec<_> =
            handle.0.rule().get(version).execute().try_collect().await.map_err(refused("list rules"))?;
        for rule in rules {
            let priority = rule.attributes.iter().find_map(|attribute| match attribute {
                RuleAttribute::Priority(priority) => Some(*priority),
                _ => None,
            });
            if !KERNELS_RULES.contains(&priority.unwrap_or(0)) {
                handle.0.rule().del(rule).execute().await.map_err(refused("delete a rule"))?;
                deleted += 1;
            }
        }
    }
    Ok(deleted)
}

/// A socket that sends what `nft flush ruleset` sends, to one namespace.
pub struct Flusher(Socket);

impl std::fmt::Debug for Flusher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flusher")
    }
}

impl Flusher {
    /// Opens it.
    pub fn open(ns: &NetNs) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self(ns.run(open)??))
    }

    /// Deletes all tables of all families: one batch with one message.
    pub fn flush_ruleset(&self) -> Result<(), Error> {
        const DELETE_TABLE: u16 = 10 << 8 | 2; // NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
        let message = |kind: u16, flags: u16, resource: u16| {
            let mut bytes = 20_u32.to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
            bytes.extend([0; 10]);
            bytes.extend(resource.to_be_bytes());
            bytes
        };
        let batch = [message(0x10, 1, 10), message(DELETE_TABLE, 5, 0), message(0x11, 1, 10)].concat();
        self.0.send(&batch, 0)?;
        let (answer, _) = self.0.recv_from_full()?;
        match answer.get(16..20).and_then(|errno| errno.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            errno => Err(Error::Ruleset(io::Error::from_raw_os_error(-errno.unwrap_or_default()))),
        }
    }
}

/// A connection with the task that serves it.
struct Connection(Handle, tokio::task::JoinHandle<()>);

impl Connection {
    fn open(ns: &NetNs) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let opened = ns.run(|| {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        })?;
        let (connection, handle, _) = opened?;
        Ok(Self(handle, tokio::spawn(connection)))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.1.abort();
    }
}
