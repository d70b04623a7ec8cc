//! The network between nodes: a router in a namespace of its own, and cables to it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, End, Id, Update, Veth};
use selvedge::kernel::netlink::{self, Netlink};
use selvedge::kernel::netns::{self, NetNs};
use selvedge::kernel::sysctl;

use crate::plan::Cable;

/// Name of a cable's end at whatever is connected to the router.
pub const DEVICE: &str = "eth0";

/// The router forwards at once, names no sender unreachable more slowly than it is asked to, and filters nothing.
const ROUTER: [(&str, &str); 7] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a change.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A namespace is gone.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A setting of the router could not be made.
    #[error(transparent)]
    Setting(#[from] sysctl::Error),
    /// A default route could not be set.
    #[error("set the default route by {gateway}: {source}")]
    Route {
        /// By whom.
        gateway: IpAddr,
        /// Why.
        source: rtnetlink::Error,
    },
    /// No netlink socket.
    #[error("open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// A device that has just been made is not there.
    #[error("device {0} is gone")]
    Gone(String),
}

/// The router and its cables.
#[derive(Debug)]
pub struct Underlay {
    router: NetNs,
    netlink: Netlink,
}

impl Underlay {
    /// A router without cables.
    pub async fn create() -> Result<Self, Error> {
        let router = NetNs::create()?;
        router.run(|| ROUTER.iter().try_for_each(|(key, value)| sysctl::write(key, value)))??;
        let netlink = Netlink::in_ns(&router)?;
        up(&netlink, "lo").await?;
        Ok(Self { router, netlink })
    }

    /// The router's namespace: every frame of every cable passes it.
    #[must_use]
    pub fn router(&self) -> &NetNs {
        &self.router
    }

    /// Lays a cable; its far end is unplugged.
    pub async fn lay(&self, cable: &Cable) -> Result<(), Error> {
        let spare = spare(cable);
        let end = |name| End { name, mac: None, mtu: cable.mtu, group: 0 };
        let pair = Veth { end: end(&cable.name), peer: end(&spare), peer_ns: None };
        self.netlink.apply([pair.create()]).await?;
        let index = up(&self.netlink, &cable.name).await?;
        self.netlink.apply(cable.router.iter().map(|net| Address::new(index, *net).add())).await?;
        Ok(())
    }

    /// Plugs the far end into `host` as [`DEVICE`], with its addresses and default routes by the router.
    pub async fn plug(&self, cable: &Cable, host: &NetNs) -> Result<(), Error> {
        let index = index(&self.netlink, &spare(cable)).await?;
        let move_there = Update { name: Some(DEVICE), ns: Some(host), ..Update::default() };
        self.netlink.apply([link::update(Id::Index(index), &move_there)]).await?;
        configure(cable, host).await
    }

    /// Has the router send what is for `net` to the host at the end of `cable`, as the routes of a cloud do.
    pub async fn route(&self, net: IpNet, cable: &Cable) -> Result<(), Error> {
        let same_family = |address: &IpAddr| address.is_ipv4() == net.addr().is_ipv4();
        let Some(host) = cable.addresses().into_iter().find(same_family) else { return Ok(()) };
        let device = index(&self.netlink, &cable.name).await?;
        route(&self.router, device, Some(net), host).await
    }

    /// Takes the far end out of `host`: the router's end, and a capture on it, stay.
    pub async fn unplug(&self, cable: &Cable, host: &NetNs) -> Result<(), Error> {
        let (there, spare) = (Netlink::in_ns(host)?, spare(cable));
        let index = index(&there, DEVICE).await?;
        let down = Update { up: Some(false), ..Update::default() };
        let move_back = Update { name: Some(&spare), ns: Some(&self.router), ..Update::default() };
        there
            .apply([link::update(Id::Index(index), &down), link::update(Id::Index(index), &move_back)])
            .await?;
        Ok(())
    }

    /// Gives both ends of a plugged cable the addresses of `new` instead of those of `old`.
    pub async fn renumber(&self, old: &Cable, new: &Cable, host: &NetNs) -> Result<(), Error> {
        let (near, there) = (index(&self.netlink, &old.name).await?, Netlink::in_ns(host)?);
        let far = index(&there, DEVICE).await?;
        self.netlink.apply(new.router.iter().map(|net| Address::new(near, *net).add())).await?;
        there.apply(old.host.iter().map(|net| Address::new(far, *net).delete())).await?;
        self.netlink.apply(old.router.iter().map(|net| Address::new(near, *net).delete())).await?;
        configure(new, host).await
    }
}

/// Addresses and default routes of a host's end.
pub async fn configure(cable: &Cable, host: &NetNs) -> Result<(), Error> {
    let there = Netlink::in_ns(host)?;
    let index = up(&there, DEVICE).await?;
    there.apply(cable.host.iter().map(|net| Address::new(index, *net).add())).await?;
    for router in &cable.router {
        route(host, index, None, router.addr()).await?;
    }
    Ok(())
}

/// A static route to `net`, or to everywhere, as an administrator sets it: not one of the product's.
async fn route(host: &NetNs, device: u32, net: Option<IpNet>, gateway: IpAddr) -> Result<(), Error> {
    let runtime = tokio::runtime::Handle::current();
    let opened = host.run(|| {
        let _entered = runtime.enter();
        rtnetlink::new_connection()
    })?;
    let (connection, handle, _) = opened.map_err(Error::Socket)?;
    let serving = tokio::spawn(connection);
    let route = match gateway {
        IpAddr::V4(gateway) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(device);
            match net {
                Some(IpNet::V4(net)) => route.destination_prefix(net.network(), net.prefix_len()).build(),
                _ => route.build(),
            }
        }
        IpAddr::V6(gateway) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(device);
            match net {
                Some(IpNet::V6(net)) => route.destination_prefix(net.network(), net.prefix_len()).build(),
                _ => route.build(),
            }
        }
    };
    let result = handle.route().add(route).replace().execute().await;
    serving.abort();
    result.map_err(|source| Error::Route { gateway, source })
}

async fn up(netlink: &Netlink, name: &str) -> Result<u32, Error> {
    let index = index(netlink, name).await?;
    let up = Update { up: Some(true), ..Update::default() };
    netlink.apply([link::update(Id::Index(index), &up)]).await?;
    Ok(index)
}

async fn index(netlink: &Netlink, name: &str) -> Result<u32, Error> {
    let found = netlink.link_named(name).await?;
    found.map(|link| link.index).ok_or_else(|| Error::Gone(name.to_owned()))
}

/// Name of an unplugged far end, in the router's namespace.
fn spare(cable: &Cable) -> String {
    format!("p-{}", cable.name)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    use super::*;
    use crate::plan::{Families, Plan};

    fn talk(from: &NetNs, to: &NetNs, address: IpAddr) {
        let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let server = to.run(|| UdpSocket::bind(SocketAddr::new(address, 0)).unwrap()).unwrap();
        let client = from.run(|| UdpSocket::bind(any).unwrap()).unwrap();
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = server.recv_from(&mut buffer).expect("the other node hears it");
        assert_eq!(&buffer[..length], b"hello");
    }

    #[test]
    fn nodes_reach_each_other_and_the_internet_over_the_router() {
        crate::isolated!(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let plan = Plan::new(Families::Dual, 2);
            let mut cables: Vec<Cable> = plan.node_plans().into_iter().map(|node| node.cable).collect();
            cables.push(plan.internet());
            let hosts: Vec<NetNs> = cables.iter().map(|_| NetNs::create().unwrap()).collect();
            let underlay = runtime.block_on(async {
                let underlay = Underlay::create().await.unwrap();
                for (cable, host) in cables.iter().zip(&hosts) {
                    underlay.lay(cable).await.unwrap();
                    underlay.plug(cable, host).await.unwrap();
                }
                underlay
            });
            for to in [1, 2] {
                cables[to].addresses().into_iter().for_each(|address| talk(&hosts[0], &hosts[to], address));
            }
            // A node that is switched off and on again keeps its cable.
            let again = NetNs::create().unwrap();
            runtime.block_on(async {
                underlay.unplug(&cables[1], &hosts[1]).await.unwrap();
                underlay.plug(&cables[1], &again).await.unwrap();
            });
            cables[1].addresses().into_iter().for_each(|address| talk(&hosts[0], &again, address));
            let moved = Plan::new(Families::Dual, 9).node_plans().remove(8).cable;
            runtime.block_on(underlay.renumber(&cables[1], &moved, &again)).unwrap();
            moved.addresses().into_iter().for_each(|address| talk(&hosts[0], &again, address));
        });
    }
}
