//! Two namespaces with a veth pair between them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use ipnet::IpNet;
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{End, Id, Update, Veth, update};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::netns::NetNs;

/// Addresses outside the tunnel.
pub(crate) const OUTER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];
/// Addresses inside it.
pub(crate) const INNER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2))];
/// Names of the tunnels' devices; the UAPI sockets of both are in one folder.
pub(crate) const DEVICES: [&str; 2] = ["benchwg0", "benchwg1"];
const UNDERLAY_MTU: u32 = 1500;
const TUNNEL_MTU: u32 = 1420;

/// The namespaces; gone when dropped.
pub(crate) struct Network {
    ends: [NetNs; 2],
}

impl Network {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let ends = [NetNs::create()?, NetNs::create()?];
        block_on(async {
            let end = |name| End { name, mac: None, mtu: UNDERLAY_MTU, group: 0 };
            let veth = Veth { end: end("veth0"), peer: end("veth1"), peer_ns: Some(&ends[1]) };
            Netlink::in_ns(&ends[0])?.apply([veth.create()]).await?;
            for (ns, (name, address)) in ends.iter().zip(["veth0", "veth1"].into_iter().zip(OUTER)) {
                bring_up(ns, "lo", None, None).await?;
                bring_up(ns, name, Some(address), None).await?;
            }
            Ok(())
        })?;
        Ok(Self { ends })
    }

    /// Both sides.
    pub(crate) fn ends(&self) -> [&NetNs; 2] {
        let [from, to] = &self.ends;
        [from, to]
    }

    /// Gives the tunnels' devices, which exist by now, their addresses.
    pub(crate) fn bring_up_tunnels(&self) -> anyhow::Result<()> {
        block_on(async {
            for (at, ns) in self.ends.iter().enumerate() {
                bring_up(ns, DEVICES[at], Some(INNER[at]), Some(TUNNEL_MTU)).await?;
            }
            Ok(())
        })
    }
}

async fn bring_up(ns: &NetNs, name: &str, address: Option<IpAddr>, mtu: Option<u32>) -> anyhow::Result<()> {
    let netlink = Netlink::in_ns(ns)?;
    let link = netlink.link_named(name).await?.with_context(|| format!("no device {name}"))?;
    let up = Update { up: Some(true), mtu, ..Update::default() };
    netlink.apply([update(Id::Index(link.index), &up)]).await?;
    if let Some(address) = address {
        let net = IpNet::new(address, 24)?;
        netlink.apply([Address::new(link.index, net).add()]).await?;
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
