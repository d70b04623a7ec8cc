//! A node of a cluster, as far as packets can tell.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use selvedge::egress::{self, EgressConfig};
use selvedge::fabric::{POD_TABLE, RoutingConfig};
use selvedge::guard::{self, GuardConfig};
use selvedge::kernel::address::Address;
use selvedge::kernel::link::{self, Id, Update};
use selvedge::kernel::netlink::Netlink;
use selvedge::kernel::nft::{self, Chain, ChainKind, End, Family, Hook, Ip, Table, apply};
use selvedge::kernel::route::Route;
use selvedge::kernel::rule::Rule;
use selvedge::kernel::{LINK_GROUP, sysctl};
use selvedge::tunnel::io::tun::TunQueue;

use crate::packet::Seen;

/// The tunnel's UDP port.
pub(crate) const TUNNEL_PORT: u16 = 51830;
/// The header of TUN packets that carries no offload.
const VNET: usize = 10;

/// The addresses of one family that the tests use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) pod: IpAddr,
    pub(crate) fabric: IpAddr,
    pub(crate) remote_pod: IpAddr,
    pub(crate) absent_pod: IpAddr,
    pub(crate) service: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) member: IpAddr,
    pub(crate) internet: IpAddr,
    pub(crate) trusted: IpAddr,
}

/// Both families.
pub(crate) fn families() -> [Addresses; 2] {
    let make = |texts: [&str; 9]| {
        let [pod, fabric, remote_pod, absent_pod, service, node, member, internet, trusted] =
            texts.map(|text| text.parse().unwrap());
        Addresses { pod, fabric, remote_pod, absent_pod, service, node, member, internet, trusted }
    };
    [
        make([
            "10.244.1.5",
            "10.244.1.1",
            "10.244.2.9",
            "10.244.1.66",
            "10.96.0.10",
            "192.0.2.2",
            "192.0.2.3",
            "203.0.113.7",
            "198.51.100.1",
        ]),
        make([
            "fd00:1::5",
            "fd00:1::1",
            "fd00:2::9",
            "fd00:1::66",
            "fd96::10",
            "2001:db8:1::2",
            "2001:db8:1::3",
            "2001:db8:ffff::7",
            "2001:db8:aaaa::1",
        ]),
    ]
}

pub(crate) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The cluster that [`families`] belongs to.
pub(crate) fn guard_config() -> GuardConfig {
    GuardConfig {
        cluster_pod_cidrs: nets(&["10.244.0.0/16", "fd00::/16"]),
        service_cidrs: nets(&["10.96.0.0/12", "fd96::/108"]),
        trusted_sources: nets(&["198.51.100.0/24", "2001:db8:aaaa::/48"]),
    }
}

pub(crate) fn egress_config() -> EgressConfig {
    let guard = guard_config();
    EgressConfig {
        tunnel: "selvedge0".into(),
        listen_port: TUNNEL_PORT,
        pod_cidrs: nets(&["10.244.1.0/24", "fd00:1::/32"]),
        fabric_addresses: families().map(|family| family.fabric).to_vec(),
        own_addresses: families().map(|family| family.node).to_vec(),
        cluster_pod_cidrs: guard.cluster_pod_cidrs,
        service_cidrs: guard.service_cidrs,
        non_masquerade_cidrs: guard.trusted_sources,
        member_addresses: families().map(|family| family.member).to_vec(),
    }
}

/// A device of the node, seen from outside.
pub(crate) struct Device {
    queue: TunQueue,
    pub(crate) index: u32,
}

impl Device {
    async fn new(netlink: &Netlink, name: &str, group: u32) -> Self {
        let queue = TunQueue::open(name).unwrap();
        let up = Update { group: Some(group), up: Some(true), ..Update::default() };
        netlink.apply([link::update(Id::Name(name), &up)]).await.unwrap();
        let index = netlink.link_named(name).await.unwrap().unwrap().index;
        Self { queue, index }
    }

    /// Hands a packet to the node as received on this device.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.queue.write(&[&[0; VNET][..], packet].concat()).unwrap();
    }

    /// All that the node has sent by this device, but for the kernel's own multicast (MLD, router solicitations), which
    /// comes when it likes.
    pub(crate) fn sent(&self) -> Vec<Seen> {
        let mut buffer = vec![0; 70_000];
        let mut packets = Vec::new();
        while let Ok(length) = self.queue.read(&mut buffer) {
            let packet = Seen::parse(&buffer[VNET..length]);
            packets.extend(packet.filter(|packet| !packet.destination.is_multicast()));
        }
        packets
    }

    /// The packet with this canary that the node sent by this device, in its payload or quoted.
    pub(crate) fn seen(&self, canary: &str) -> Option<Seen> {
        self.sent().into_iter().find(|packet| packet.has(canary))
    }

    /// The same, for what the node sends in its own time.
    pub(crate) fn awaited(&self, canary: &str) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(seen) = self.seen(canary) {
                return seen;
            }
            assert!(Instant::now() < deadline, "waited 5 s for a packet with {canary}");
            std::thread::yield_now();
        }
    }
}

/// The node: forwarding, with an uplink, a tunnel and a pod, and no nftables yet.
pub(crate) struct Node {
    pub(crate) uplink: Device,
    pub(crate) tunnel: Device,
    pub(crate) pod: Device,
    pub(crate) netlink: Netlink,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// In the network namespace of the caller.
    pub(crate) fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (netlink, [uplink, tunnel, pod]) = runtime.block_on(async {
            let netlink = Netlink::new().unwrap();
            let uplink = Device::new(&netlink, "uplink", 0).await;
            let tunnel = Device::new(&netlink, "selvedge0", LINK_GROUP).await;
            let pod = Device::new(&netlink, "pod", LINK_GROUP).await;
            (netlink, [uplink, tunnel, pod])
        });
        let node = Self { uplink, tunnel, pod, netlink, runtime };
        node.set_up();
        node
    }

    /// A node with guard and egress.
    pub(crate) fn guarded() -> Self {
        let node = Self::new();
        assert!(!guard::ensure(&guard_config()).unwrap().is_empty());
        assert!(!egress::ensure(&egress_config()).unwrap().is_empty());
        node
    }

    fn set_up(&self) {
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            sysctl::write(key, "1").unwrap();
        }
        for conf in ["all", "uplink", "selvedge0", "pod"] {
            sysctl::write(&format!("ipv4/conf/{conf}/rp_filter"), "0").unwrap();
        }
        for (key, value) in selvedge::fabric::sysctls(Some("selvedge0"), true, false) {
            sysctl::write(&key, value).unwrap();
        }
        let mut changes = Vec::new();
        for family in families() {
            let length = if family.pod.is_ipv4() { 24 } else { 64 };
            changes.push(Address::new(self.uplink.index, IpNet::new(family.node, length).unwrap()).add());
            changes.push(Address::new(self.tunnel.index, IpNet::from(family.fabric)).add());
            changes.push(Route::on_link(family.pod, self.pod.index).replace());
            let any = if family.pod.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            changes.push(Route::on_link(any.parse::<IpNet>().unwrap(), self.uplink.index).replace());
            changes.push(self.cluster_route(family).replace());
        }
        self.runtime.block_on(self.netlink.apply(changes)).unwrap();
        families().iter().flat_map(|family| [family.node, family.fabric]).for_each(await_local);
        self.sent_anywhere();
    }

    /// The route that takes the cluster's pods into the tunnel.
    pub(crate) fn cluster_route(&self, family: Addresses) -> Route {
        let all = &guard_config().cluster_pod_cidrs;
        let cidr = all.iter().find(|cidr| cidr.contains(&family.pod)).unwrap();
        Route::on_link(*cidr, self.tunnel.index).with_source(family.fabric)
    }

    /// The agent's rules, and its routes to members' addresses, which lead into the tunnel.
    pub(crate) fn lay_ways_to_members(&self) {
        let config = egress_config();
        let routing = RoutingConfig {
            cluster_pod_cidrs: config.cluster_pod_cidrs,
            pod_cidrs: config.pod_cidrs,
            node_addresses: config.member_addresses,
            interface: config.tunnel,
            tunnel: Some(self.tunnel.index),
            routed: false,
            service_cidrs: Vec::new(),
        };
        let routes = routing.routes().into_iter().filter(|route| route.table == POD_TABLE);
        let mut changes: Vec<_> = routes.map(|route| route.replace()).collect();
        changes.extend(routing.rules().iter().map(Rule::add));
        self.runtime.block_on(self.netlink.apply(changes)).unwrap();
    }

    pub(crate) fn apply(&self, change: selvedge::kernel::netlink::Change) {
        self.runtime.block_on(self.netlink.apply([change])).unwrap();
    }

    /// Forgets what has been sent.
    pub(crate) fn sent_anywhere(&self) {
        for device in [&self.uplink, &self.tunnel, &self.pod] {
            device.sent();
        }
    }
}

/// Something with a UDP port that the node passes on to `pod`, as a NodePort does.
pub(crate) fn node_port(family: Addresses, pod: IpAddr) {
    let mut table = Table::new(Family::Inet, "node-port");
    let rule = nft::Rule::new().ip(Ip::of(pod)).protocol(17).address(End::Destination, family.node);
    table.chain("in", Chain::base(ChainKind::Nat, Hook::Prerouting, -100, vec![rule.dnat(pod, None)]));
    apply(&[table]).unwrap();
}

/// Waits until packets to `address` are delivered here: for IPv6 the kernel sees to that in its own time.
fn await_local(address: IpAddr) {
    let IpAddr::V6(address) = address else { return };
    let start = format!("{:032x} 80 ", address.to_bits());
    let local = |line: &str| line.starts_with(&start) && line.split_whitespace().nth(8).is_some_and(is_local);
    let deadline = Instant::now() + Duration::from_secs(5);
    while !std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap().lines().any(local) {
        assert!(Instant::now() < deadline, "waited 5 s for {address} to be local");
        std::thread::yield_now();
    }
}

/// `RTF_LOCAL` is set.
fn is_local(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 0x8000_0000 != 0)
}

/// Packets that the guard, or egress between pods and members, has dropped so far, by counter.
pub(crate) fn dropped() -> BTreeMap<String, u64> {
    let members = egress::connections().unwrap().into_iter().filter(|(name, _)| name.starts_with("members"));
    let all = guard::dropped().unwrap().into_iter().chain(members);
    all.map(|(name, counter)| (name, counter.packets)).collect()
}

/// Runs `action` and checks that just one packet was dropped meanwhile, counted by `way` ("leaving", ...).
pub(crate) fn drops_one(way: &str, family: Addresses, action: impl FnOnce()) {
    let digit = if family.pod.is_ipv4() { "4" } else { "6" };
    let counter = match way.split_once('-') {
        Some((way, rest)) => format!("{way}{digit}-{rest}"),
        None => format!("{way}{digit}"),
    };
    let before = dropped();
    action();
    let mut expected = before.clone();
    *expected.get_mut(&counter).unwrap() += 1;
    assert_eq!(dropped(), expected, "one packet more in {counter}");
}
