//! Routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::ROUTE_PROTOCOL;
use super::address::family;
use super::netlink::{Change, Error, Netlink};

/// The main table.
pub const MAIN: u32 = 254;

/// What the kernel makes of an IPv6 route without a metric.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// One of our routes: protocol 83.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Routing table.
    pub table: u32,
    /// The lower, the better. 0 means 1024 for IPv6.
    pub metric: u32,
    /// What happens to packets.
    pub kind: Kind,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Forward.
    Unicast {
        /// Index of the device.
        device: u32,
        /// Next hop; nothing: the destination is on the link.
        gateway: Option<IpAddr>,
        /// Take the gateway to be on the link, although no address says so.
        onlink: bool,
        /// Source address of the node's own packets.
        source: Option<IpAddr>,
    },
    /// Refuse, with an ICMP error.
    Unreachable,
    /// Drop silently.
    Blackhole,
    /// Refuse, with an ICMP error that says so.
    Prohibit,
    /// Go on with the next rule.
    Throw,
}

impl Route {
    /// Everything for `destination` goes out of `device`; main table, no metric.
    #[must_use]
    pub fn on_link(destination: impl Into<IpNet>, device: u32) -> Self {
        let kind = Kind::Unicast { device, gateway: None, onlink: false, source: None };
        Self { destination: destination.into(), table: MAIN, metric: 0, kind }
    }

    /// Everything for `destination` goes to `gateway`, which is taken to be reachable on `device`.
    #[must_use]
    pub fn via(destination: impl Into<IpNet>, gateway: IpAddr, device: u32) -> Self {
        let kind = Kind::Unicast { device, gateway: Some(gateway), onlink: true, source: None };
        Self { destination: destination.into(), table: MAIN, metric: 0, kind }
    }

    /// Refuses packets for `destination`.
    #[must_use]
    pub fn unreachable(destination: impl Into<IpNet>) -> Self {
        Self { destination: destination.into(), table: MAIN, metric: 0, kind: Kind::Unreachable }
    }

    /// The same with this metric.
    #[must_use]
    pub fn with_metric(self, metric: u32) -> Self {
        Self { metric, ..self }
    }

    /// The same in this table.
    #[must_use]
    pub fn with_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// The same with this source for the node's own packets.
    #[must_use]
    pub fn with_source(mut self, address: IpAddr) -> Self {
        if let Kind::Unicast { source, .. } = &mut self.kind {
            *source = Some(address);
        }
        self
    }

    /// Index of the device that it uses.
    #[must_use]
    pub fn device(&self) -> Option<u32> {
        match self.kind {
            Kind::Unicast { device, .. } => Some(device),
            _ => None,
        }
    }

    /// As the kernel shows it once it is there.
    #[must_use]
    pub fn normal(&self) -> Self {
        let ipv6 = self.destination.addr().is_ipv6();
        let metric = if ipv6 && self.metric == 0 { IPV6_DEFAULT_METRIC } else { self.metric };
        let mut kind = self.kind.clone();
        if let Kind::Unicast { gateway: None, onlink, .. } = &mut kind {
            *onlink = false;
        }
        Self { destination: self.destination.trunc(), metric, kind, ..*self }
    }

    /// What the kernel tells routes apart by: a second one with the same key replaces the first.
    fn key(&self) -> (IpNet, u32, u32) {
        (self.destination, self.table, self.metric)
    }

    /// Puts it there, in place of a route with the same destination, table and metric.
    pub fn replace(&self) -> Change {
        let what = format!("set route {self}");
        Change::new(what, Message::NewRoute(self.message()), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes it away; gone already is fine.
    pub fn delete(&self) -> Change {
        let what = format!("delete route {self}");
        // ENODEV: the device is gone, and the route with it.
        Change::new(what, Message::DelRoute(self.message()), 0).tolerating(&[libc::ESRCH, libc::ENODEV])
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.addr());
        header.destination_prefix_length = self.destination.prefix_len();
        header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        header.table = u8::try_from(self.table).unwrap_or(0);
        header.kind = self.kind.code();
        message.attributes = vec![
            RouteAttribute::Destination(self.destination.trunc().addr().into()),
            RouteAttribute::Table(self.table),
        ];
        if self.metric != 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        if let Kind::Unicast { device, gateway, onlink, source } = &self.kind {
            message.header.scope = if gateway.is_none() { RouteScope::Link } else { RouteScope::Universe };
            if *onlink {
                message.header.flags = RouteFlags::Onlink;
            }
            message.attributes.push(RouteAttribute::Oif(*device));
            message.attributes.extend(gateway.map(|address| RouteAttribute::Gateway(address.into())));
            message.attributes.extend(source.map(|address| RouteAttribute::PrefSource(address.into())));
        }
        message
    }
}

impl Kind {
    fn code(&self) -> RouteType {
        match self {
            Self::Unicast { .. } => RouteType::Unicast,
            Self::Unreachable => RouteType::Unreachable,
            Self::Blackhole => RouteType::BlackHole,
            Self::Prohibit => RouteType::Prohibit,
            Self::Throw => RouteType::Throw,
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Unicast { device, gateway: Some(gateway), .. } => {
                write!(f, "{} via {gateway} device {device}", self.destination)?;
            }
            Kind::Unicast { device, .. } => write!(f, "{} device {device}", self.destination)?,
            kind => write!(f, "{:?} {}", kind.code(), self.destination)?,
        }
        if self.table != MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

/// The difference between what is wanted and what is there. `found` holds routes of ours only.
#[must_use]
pub fn diff(desired: &[Route], found: &[Route]) -> Vec<Change> {
    let desired: BTreeSet<Route> = desired.iter().map(Route::normal).collect();
    let found: BTreeSet<Route> = found.iter().map(Route::normal).collect();
    let keys: BTreeSet<_> = desired.iter().map(Route::key).collect();
    let stale = found.difference(&desired).filter(|route| !keys.contains(&route.key()));
    // First what is wanted, so that nothing is without a route in between.
    desired.difference(&found).map(Route::replace).chain(stale.map(Route::delete)).collect()
}

impl Netlink {
    /// Our routes (protocol 83), in all tables and both families.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        let mut request = RouteMessage::default();
        request.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        let list = self.dump("list routes", &Message::GetRoute(request)).await?;
        Ok(list.into_iter().filter_map(from_message).collect())
    }

    /// Whether the kernel takes packets to `address` for its own. For an IPv6 address that is a little later than the
    /// address is listed: the kernel makes the route from a work queue.
    pub async fn is_local(&self, address: IpAddr) -> Result<bool, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family(address);
        request.header.destination_prefix_length = IpNet::from(address).prefix_len();
        request.attributes = vec![RouteAttribute::Destination(address.into())];
        let what = format!("look up the route to {address}");
        match self.get(&what, &Message::GetRoute(request)).await {
            Ok(Message::NewRoute(route)) => Ok(route.header.kind == RouteType::Local),
            Ok(_) => Ok(false),
            // No route at all.
            Err(error) if matches!(error.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes our routes that `owns` picks be exactly `desired`, changing only what differs. Several parts have
    /// routes of protocol 83 (the agent's to the cluster, the CNI plugin's to its pods): `owns` is what keeps
    /// them apart. Tells what was changed.
    pub async fn sync_routes(
        &self,
        desired: &[Route],
        owns: impl Fn(&Route) -> bool,
    ) -> Result<Vec<String>, Error> {
        let found: Vec<Route> = self.routes().await?.into_iter().filter(|route| owns(route)).collect();
        let changes = diff(desired, &found);
        let what = changes.iter().map(|change| change.what().to_owned()).collect();
        self.apply(changes).await?;
        Ok(what)
    }
}

fn from_message(message: Message) -> Option<Route> {
    let Message::NewRoute(message) = message else { return None };
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL) || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut found = Found { table: u32::from(header.table), ..Found::default() };
    message.attributes.iter().for_each(|attribute| found.read(attribute));
    let any = match header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => IpAddr::from([0; 4]),
    };
    let kind = match header.kind {
        RouteType::Unicast => Kind::Unicast {
            device: found.device?,
            gateway: found.gateway,
            onlink: header.flags.contains(RouteFlags::Onlink),
            source: found.source,
        },
        RouteType::Unreachable => Kind::Unreachable,
        RouteType::BlackHole => Kind::Blackhole,
        RouteType::Prohibit => Kind::Prohibit,
        RouteType::Throw => Kind::Throw,
        _ => return None,
    };
    let destination = IpNet::new(found.destination.unwrap_or(any), header.destination_prefix_length).ok()?;
    Some(Route { destination, table: found.table, metric: found.metric, kind })
}

#[derive(Default)]
struct Found {
    destination: Option<IpAddr>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    device: Option<u32>,
    table: u32,
    metric: u32,
}

impl Found {
    fn read(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Destination(address) => self.destination = ip(address),
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::PrefSource(address) => self.source = ip(address),
            RouteAttribute::Oif(index) => self.device = Some(*index),
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Priority(metric) => self.metric = *metric,
            _ => {}
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
