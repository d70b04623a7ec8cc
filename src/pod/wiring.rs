//! One pod's interface: a veth, one end in the pod, the other its port on the node.
//!
//! The port is an isolated one of the bridge, or (datapath `routed`) in no bridge. Then the port has the bridge's Ethernet
//! address, and answers for the gateway: pods can't tell the difference, and both kinds live on one node.
//!
//! Nothing is learnt from packets. Node and pod know each other by permanent neighbours, and the bridge knows the
//! port of each pod by a permanent entry, so neither ARP, ND nor flooding decides where packets go.
//!
//! Packets come from a pod by way of the bridge, and go to it straight out of its port. If the node's route led to
//! the bridge, br_netfilter would take a packet that a Service's DNAT sends to a pod of the same node for one to be
//! bridged, which isolated ports refuse: it compares the route's device with the bridge.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::kernel::LINK_GROUP;
use crate::kernel::address::{self, Address};
use crate::kernel::link::{self, End, Id, Link, Update, Veth};
use crate::kernel::mac::Mac;
use crate::kernel::neigh::{Forwarding, Neighbour};
use crate::kernel::netlink::{self, Change, Netlink};
use crate::kernel::netns::NetNs;
use crate::kernel::route::Route;
use crate::kernel::sysctl;
use crate::mtu;

use super::attachment::Attachment;
use super::gateway::{BRIDGE, BRIDGE_MAC, everything};
use super::lease::Lease;
use super::node::{Datapath, NodeInfo};
use super::pool::Addresses;
use super::spoof;

/// What a port of the bridge may do: talk to the bridge itself.
pub const PORT: link::Port = link::Port {
    isolated: true,
    hairpin: false,
    learning: false,
    unicast_flood: false,
    multicast_flood: false,
    broadcast_flood: false,
};

const UP: Update<'_> = Update {
    up: Some(true),
    mtu: None,
    group: None,
    mac: None,
    link_local: None,
    master: None,
    name: None,
    ns: None,
};

/// How long the kernel has for making an address local, and how often it is asked.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);
const SETTLE_LOOK: Duration = Duration::from_millis(1);

/// What could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A change that the kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The pod's namespace can't be entered.
    #[error(transparent)]
    Namespace(#[from] crate::kernel::netns::Error),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The rules against spoofing.
    #[error(transparent)]
    Spoof(#[from] spoof::Error),
    /// An address that the pod does not answer to.
    #[error("the pod's kernel does not take packets to {0} within {SETTLE_PATIENCE:?}")]
    Unsettled(IpAddr),
}

/// What the node has of all its pods, read at once.
#[derive(Debug)]
pub struct Seen {
    links: Vec<Link>,
    routes: BTreeSet<Route>,
    neighbours: BTreeSet<Neighbour>,
    forwardings: BTreeSet<Forwarding>,
    addresses: Vec<Address>,
    pub(super) chains: spoof::Chains,
}

impl Seen {
    /// Reads it.
    pub async fn read(netlink: &Netlink) -> Result<Self, Error> {
        Ok(Self {
            links: netlink.links().await?,
            routes: netlink.routes().await?.into_iter().collect(),
            neighbours: netlink.neighbours().await?.into_iter().collect(),
            forwardings: netlink.forwardings().await?.into_iter().collect(),
            addresses: netlink.addresses(None).await?,
            chains: spoof::Chains::read()?,
        })
    }

    /// The device of this name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// The plan of one pod's interface.
#[derive(Debug)]
pub struct Wiring<'a> {
    /// Whose it is, and its addresses.
    pub lease: &'a Lease,
    /// The node.
    pub node: &'a NodeInfo,
    /// Index of the bridge.
    pub bridge: u32,
}

impl Wiring<'_> {
    /// The pod's addresses. One that is in none of the node's pod CIDRs any more, because its Node object is another one
    /// now, belongs to another node: no packet may come from it or go to it.
    fn addresses(&self) -> Addresses {
        self.speaker().addresses
    }

    /// The port, for the rules against spoofing.
    fn speaker(&self) -> spoof::Port {
        spoof::Port::new(self.lease, self.node)
    }

    /// Builds it. The rules against spoofing are there before the port is up or in the bridge; the pod's end comes
    /// up first, so that the port forwards from the moment that it is up.
    pub async fn build(&self, netlink: &Netlink, pod: &NetNs) -> Result<(), Error> {
        let port = self.lease.attachment.port();
        let interface = self.lease.attachment.interface.as_str();
        let mtu = self.lease.mtu;
        let veth = Veth {
            end: End { name: &port.name, mac: Some(port_mac(self.lease)), mtu, group: LINK_GROUP },
            peer: End { name: interface, mac: Some(port.pod_mac), mtu, group: 0 },
            peer_ns: Some(pod),
        };
        netlink.apply([veth.create()]).await?;
        spoof::protect(&self.speaker())?;
        let ends = self.ends(netlink, &port.name).await?;
        self.port_sysctls(&port.name)?;
        let inside = self.enter(pod)?;
        inside.apply(self.pod_changes(ends.1)).await?;
        netlink.apply(self.node_changes(ends.0)).await?;
        self.settle(&inside).await
    }

    /// Waits until the pod answers to its addresses: a container that starts may use them at once.
    async fn settle(&self, pod: &Netlink) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        for address in self.addresses().iter() {
            while !pod.is_local(address).await? {
                if Instant::now() >= deadline {
                    return Err(Error::Unsettled(address));
                }
                tokio::time::sleep(SETTLE_LOOK).await;
            }
        }
        Ok(())
    }

    /// The indices of the node's and the pod's end.
    async fn ends(&self, netlink: &Netlink, port: &str) -> Result<(u32, u32), Error> {
        let gone = || netlink::Error::Broken(format!("look up device {port}"));
        let link = netlink.link_named(port).await?.ok_or_else(gone)?;
        Ok((link.index, link.peer.ok_or_else(gone)?))
    }

    /// A socket in the pod, whose interface is made ready to come up.
    fn enter(&self, pod: &NetNs) -> Result<Netlink, Error> {
        let runtime = tokio::runtime::Handle::current();
        pod.run(|| {
            let _entered = runtime.enter();
            pod_sysctls(&self.lease.attachment.interface, self.has_ipv6())?;
            Ok(Netlink::new()?)
        })?
    }

    /// Before the port comes up: it carries routes of both families, whatever the default for new devices is. Without a
    /// bridge the pod's packets come by it, and it has to be what the bridge is else.
    fn port_sysctls(&self, port: &str) -> Result<(), sysctl::Error> {
        let ipv4 =
            [("forwarding", "1"), ("rp_filter", "1"), ("accept_redirects", "0"), ("send_redirects", "0")];
        let ipv6 = [("forwarding", "1"), ("accept_ra", "0"), ("accept_dad", "0"), ("accept_redirects", "0")];
        if self.has_ipv6() {
            sysctl::ensure(&format!("ipv6/conf/{port}/disable_ipv6"), "0")?;
        }
        if self.is_routed() {
            let families = [("ipv4", ipv4, true), ("ipv6", ipv6, self.has_ipv6())];
            let keys = families.into_iter().filter(|(_, _, has)| *has).flat_map(|(family, keys, _)| {
                keys.map(|(key, value)| (format!("{family}/conf/{port}/{key}"), value))
            });
            sysctl::ensure_all(keys)?;
        }
        Ok(())
    }

    fn has_ipv6(&self) -> bool {
        self.addresses().iter().any(|address| address.is_ipv6())
    }

    /// Inside the pod.
    fn pod_changes(&self, device: u32) -> Vec<Change> {
        let mut changes = vec![link::update(Id::Name("lo"), &UP)];
        changes.extend(self.addresses().iter().map(|address| Address::new(device, address).add()));
        changes.push(link::update(Id::Index(device), &UP));
        changes.extend(self.pod_neighbours(device).into_iter().map(Neighbour::replace));
        changes.extend(self.pod_routes(device).iter().map(Route::replace));
        changes
    }

    /// On the node; the routes, which need the port to be up, come last.
    fn node_changes(&self, port: u32) -> Vec<Change> {
        let join = Update {
            master: Some(if self.is_routed() { 0 } else { self.bridge }),
            // A smaller MTU leaves no IPv6 on the port, and nothing to say of it.
            link_local: (self.lease.mtu >= mtu::least(true)).then_some(false),
            group: Some(LINK_GROUP),
            mtu: Some(self.lease.mtu),
            ..Update::default()
        };
        let mut changes = vec![link::update(Id::Index(port), &join)];
        if !self.is_routed() {
            changes.extend([link::set_port(Id::Index(port), PORT), self.forwarding(port).replace()]);
        }
        changes.push(link::update(Id::Index(port), &UP));
        changes.extend(self.answering(port).into_iter().map(|address| address.add()));
        changes.extend(self.node_neighbours(port).into_iter().map(Neighbour::replace));
        changes.extend(self.node_routes(port).iter().map(Route::replace));
        changes
    }

    fn is_routed(&self) -> bool {
        self.lease.datapath == Datapath::Routed
    }

    /// What a port without bridge needs to answer a pod that asks for its gateway: the kernel answers ARP for every
    /// address of the node, but neighbour discovery only for the device's own.
    fn answering(&self, port: u32) -> Option<Address> {
        let gateway = self.gateways().into_iter().find(IpAddr::is_ipv6).filter(|_| self.is_routed())?;
        Some(Address::new(port, gateway))
    }

    fn gateways(&self) -> Vec<IpAddr> {
        self.addresses().iter().filter_map(|address| self.node.fabric(address.is_ipv6())).collect()
    }

    fn pod_routes(&self, device: u32) -> Vec<Route> {
        let route = |gateway: IpAddr| Route::via(everything(gateway.is_ipv6()), gateway, device);
        self.gateways().into_iter().map(route).collect()
    }

    fn pod_neighbours(&self, device: u32) -> Vec<Neighbour> {
        let neighbour = |address| Neighbour { device, address, mac: BRIDGE_MAC };
        self.gateways().into_iter().map(neighbour).collect()
    }

    /// Where a fabric address is there, the node speaks to the pod from it.
    fn node_routes(&self, port: u32) -> Vec<Route> {
        let route = |address: IpAddr| {
            let route = Route::on_link(address, port);
            match self.node.fabric(address.is_ipv6()) {
                Some(fabric) => route.with_source(fabric),
                None => route,
            }
        };
        self.addresses().iter().map(route).collect()
    }

    fn node_neighbours(&self, port: u32) -> Vec<Neighbour> {
        let (device, mac) = (port, self.lease.attachment.port().pod_mac);
        self.addresses().iter().map(|address| Neighbour { device, address, mac }).collect()
    }

    fn forwarding(&self, port: u32) -> Forwarding {
        Forwarding { port, mac: self.lease.attachment.port().pod_mac }
    }

    /// Puts the node's side right, whatever of it was taken away or is stale; the port is there.
    pub async fn restore(&self, netlink: &Netlink, port: u32, seen: &Seen) -> Result<(), Error> {
        let names = self.lease.attachment.port();
        spoof::protect(&self.speaker())?;
        self.port_sysctls(&names.name)?;
        let stale = self.stale_addresses(port, seen).into_iter().map(Address::delete);
        let changes = stale.chain(self.stale_routes(port, seen).map(Route::delete));
        Ok(netlink.apply(changes.chain(self.node_changes(port))).await?)
    }

    /// The node's routes to addresses that are not this node's any more.
    fn stale_routes<'a>(&self, port: u32, seen: &'a Seen) -> impl Iterator<Item = &'a Route> {
        let addresses = self.addresses();
        let is_pods =
            move |route: &Route| addresses.iter().any(|address| route.destination == IpNet::from(address));
        seen.routes.iter().filter(move |route| route.device() == Some(port) && !is_pods(route))
    }

    /// Addresses on the port that it should not have: gateways of pod CIDRs that the node had before.
    fn stale_addresses(&self, port: u32, seen: &Seen) -> Vec<Address> {
        let found: Vec<Address> =
            seen.addresses.iter().filter(|address| address.device == port).copied().collect();
        let wanted: Vec<Address> = self.answering(port).into_iter().collect();
        address::stale(&wanted, &found).copied().collect()
    }

    /// What is not as [`build`](Self::build) makes it, in words.
    pub async fn problems(&self, seen: &Seen, pod: &NetNs) -> Result<Vec<String>, Error> {
        let mut problems = self.node_problems(seen);
        let addresses = self.addresses();
        for lost in self.lease.addresses.iter().filter(|leased| !addresses.iter().any(|one| one == *leased)) {
            problems
                .push(format!("its address {lost} is in none of this node's pod CIDRs; recreate the pod"));
        }
        self.pod_problems(&Netlink::in_ns(pod)?, &mut problems).await?;
        Ok(problems)
    }

    /// What of it is not right on the node.
    #[must_use]
    pub fn node_problems(&self, seen: &Seen) -> Vec<String> {
        let mut problems = vec![];
        let names = self.lease.attachment.port();
        let name = &names.name;
        let Some(port) = seen.port(name) else {
            return vec![format!("the node's end {name} is missing")];
        };
        self.port_problems(port, &mut problems);
        if let Some(missing) = self.answering(port.index).filter(|address| !seen.addresses.contains(address))
        {
            problems.push(format!("{name} lacks the gateway address {}", missing.net.addr()));
        }
        for stale in self.stale_addresses(port.index, seen) {
            problems.push(format!("{name} has {}, which is no gateway of this node's pods", stale.net));
        }
        for stale in self.stale_routes(port.index, seen) {
            let destination = stale.destination;
            problems.push(format!(
                "the node's route to {destination} is stale: no pod of this node has that address"
            ));
        }
        if !self.is_routed() && !seen.forwardings.contains(&self.forwarding(port.index)) {
            problems.push(format!("the bridge does not know the pod's address on port {name}"));
        }
        for route in
            self.node_routes(port.index).iter().filter(|route| !seen.routes.contains(&route.normal()))
        {
            problems.push(format!("the node's route to {} is missing or changed", route.destination));
        }
        let neighbours = self.node_neighbours(port.index);
        for missing in neighbours.iter().filter(|wanted| !seen.neighbours.contains(wanted)) {
            problems.push(format!("the node's neighbour {} is missing or changed", missing.address));
        }
        problems.extend(seen.chains.problem(&self.speaker()));
        problems
    }

    fn port_problems(&self, link: &Link, problems: &mut Vec<String>) {
        let name = &link.name;
        if self.is_routed() {
            problems.extend(link.master.map(|_| format!("{name} is in a bridge")));
            let mac = port_mac(self.lease);
            if link.mac != Some(mac) {
                problems.push(format!("{name} has another Ethernet address than {mac}"));
            }
        } else if link.master != Some(self.bridge) {
            problems.push(format!("{name} is not in bridge {BRIDGE}"));
        } else if link.port != Some(PORT) {
            problems.push(format!("bridge port {name} is not isolated or floods, as {:?} shows", link.port));
        }
        if !link.up {
            problems.push(format!("{name} is down"));
        }
        if link.group != LINK_GROUP {
            problems.push(format!("{name} is in link group {} instead of {LINK_GROUP}", link.group));
        }
        self.mtu_problem(link, problems);
    }

    fn mtu_problem(&self, link: &Link, problems: &mut Vec<String>) {
        if link.mtu != self.lease.mtu {
            problems.push(format!("{} has MTU {} instead of {}", link.name, link.mtu, self.lease.mtu));
        }
    }

    async fn pod_problems(&self, pod: &Netlink, problems: &mut Vec<String>) -> Result<(), Error> {
        let name = &self.lease.attachment.interface;
        let Some(link) = pod.link_named(name).await? else {
            problems.push(format!("the pod's {name} is missing"));
            return Ok(());
        };
        if !link.up {
            problems.push(format!("the pod's {name} is down"));
        }
        let mac: Mac = self.lease.attachment.port().pod_mac;
        if link.mac != Some(mac) {
            problems.push(format!("the pod's {name} has another Ethernet address than {mac}"));
        }
        self.mtu_problem(&link, problems);
        let addresses = pod.addresses(Some(link.index)).await?;
        for address in
            self.addresses().iter().filter(|one| !addresses.contains(&Address::new(link.index, *one)))
        {
            problems.push(format!("the pod's {name} lacks the address {address}"));
        }
        let routes = pod.routes().await?;
        for route in self.pod_routes(link.index).iter().filter(|route| !routes.contains(&route.normal())) {
            problems.push(format!("the pod's route {route} is missing or changed"));
        }
        let neighbours = pod.neighbours().await?;
        for missing in self.pod_neighbours(link.index).iter().filter(|wanted| !neighbours.contains(wanted)) {
            problems.push(format!("the pod's neighbour {} is missing or changed", missing.address));
        }
        match pod.link_named("lo").await? {
            Some(loopback) if loopback.up => {}
            _ => problems.push("the pod's loopback is down".to_owned()),
        }
        Ok(())
    }
}

/// Ethernet address of the node's end. Without a bridge it is what the pod knows as its gateway.
#[must_use]
pub fn port_mac(lease: &Lease) -> Mac {
    match lease.datapath {
        Datapath::Bridge => lease.attachment.port().mac,
        Datapath::Routed => BRIDGE_MAC,
    }
}

/// Before the interface comes up: no duplicate address detection, for which a pod would have to wait, and no
/// router's word is taken.
fn pod_sysctls(interface: &str, ipv6: bool) -> Result<(), sysctl::Error> {
    if !ipv6 {
        return Ok(());
    }
    for (key, value) in
        [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0")]
    {
        sysctl::ensure(&format!("ipv6/conf/{interface}/{key}"), value)?;
    }
    Ok(())
}

/// Takes a pod's interface away, whatever of it there is, and goes on after an error.
///
/// The kernel gives back the memory of a device and of rules only when no processor can be using it any more, and has
/// whoever asked wait for that, for ten milliseconds or more each time. So two threads do the same: whoever comes second to
/// the device waits until the first has taken it out of every packet's way, finds none, and goes on to its rules while the
/// first still waits for the memory.
pub async fn remove(netlink: &Netlink, attachment: &Attachment) -> Vec<Error> {
    let port = attachment.port().name;
    let same = port.clone();
    let beside = std::thread::Builder::new().spawn(move || remove_beside(&same));
    let errors = remove_port(netlink, &port).await;
    // Without the other thread it takes longer; and what went wrong there has been tried here as well.
    let _ = beside.map(std::thread::JoinHandle::join);
    errors
}

fn remove_beside(port: &str) -> Option<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        remove_port(&Netlink::new().ok()?, port).await;
        Some(())
    })
}

async fn remove_port(netlink: &Netlink, port: &str) -> Vec<Error> {
    // The device takes its routes, neighbours and forwarding entry along, and the pod's end.
    let link = netlink.apply([link::delete(Id::Name(port))]).await.map_err(Error::from);
    let rules = spoof::unprotect(port).map_err(Error::from);
    [link, rules].into_iter().filter_map(Result::err).collect()
}
