//! What the tests of the tunnel share: namespaces joined by a wire, and tunnels in them.

pub(crate) mod tunnel;

use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use selvedge::kernel::address::Address;
use selvedge::kernel::link::{End, Id, Update, Veth, update};
use selvedge::kernel::netlink::{Change, Netlink};
use selvedge::kernel::netns::NetNs;
use tokio::runtime::Runtime;

/// For the netlink and HTTP clients.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// How long anything may take that is not measured.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Waits until `condition` gives something.
pub(crate) fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A network namespace with a wire to another.
pub(crate) struct Host {
    pub(crate) ns: NetNs,
    netlink: Netlink,
}

impl Host {
    pub(crate) fn new() -> Self {
        let ns = NetNs::create().unwrap();
        let netlink = RUNTIME.block_on(async { Netlink::in_ns(&ns).unwrap() });
        let host = Self { ns, netlink };
        host.up("lo");
        host
    }

    pub(crate) fn apply(&self, change: Change) {
        RUNTIME.block_on(self.netlink.apply([change])).unwrap();
    }

    pub(crate) fn link(&self, name: &str) -> Option<selvedge::kernel::link::Link> {
        RUNTIME.block_on(self.netlink.link_named(name)).unwrap()
    }

    pub(crate) fn up(&self, device: &str) {
        self.apply(update(Id::Name(device), &Update { up: Some(true), ..Update::default() }));
    }

    pub(crate) fn address(&self, device: &str, net: &str) {
        let index = self.link(device).unwrap_or_else(|| panic!("no device {device}")).index;
        self.apply(Address::new(index, net.parse::<ipnet::IpNet>().unwrap()).add());
    }

    /// Starts a process inside.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        let program = format!("{command:?}");
        self.ns.run(|| command.spawn()).unwrap().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Runs `body` inside.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.ns.run(body).unwrap()
    }
}

/// Two hosts, 192.0.2.1 and .2, 2001:db8::1 and ::2, joined by the device `wire`.
pub(crate) fn wire() -> (Host, Host) {
    let (a, b) = (Host::new(), Host::new());
    let end = || End { name: "wire", mac: None, mtu: 1500, group: 0 };
    a.apply(Veth { end: end(), peer: end(), peer_ns: Some(&b.ns) }.create());
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.up("wire");
        host.address("wire", &format!("192.0.2.{number}/24"));
        host.address("wire", &format!("2001:db8::{number}/64"));
    }
    (a, b)
}
