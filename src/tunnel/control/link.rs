//! The network device itself: what the tunnel sets on it, and the MTU that it has.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::kernel::LINK_GROUP;
use crate::kernel::link::{Id, Update, update};
use crate::kernel::monitor::LinkMonitor;
use crate::kernel::netlink::{Error, Netlink};
use crate::kernel::netns::{self, NetNs};
use crate::tunnel::io::tun::place;

/// Sets `mtu`, if there is one, and, on a managed device, link group and state: all else is the administrator's. Returns the
/// MTU that the device has then; none when it has been renamed or moved to another network namespace, and is left alone.
pub(super) async fn set_up(name: &str, mtu: Option<u16>, managed: bool) -> Result<Option<u16>, Error> {
    let netlink = Netlink::new()?;
    let Some(link) = netlink.link_named(name).await? else { return Ok(None) };
    let wanted = Update {
        mtu: mtu.map(u32::from).filter(|mtu| link.mtu != *mtu),
        group: (managed && link.group != LINK_GROUP).then_some(LINK_GROUP),
        up: (managed && !link.up).then_some(true),
        ..Update::default()
    };
    if wanted.mtu.or(wanted.group).is_some() || wanted.up.is_some() {
        netlink.apply([update(Id::Index(link.index), &wanted)]).await?;
    }
    Ok(Some(mtu.unwrap_or(bytes(link.mtu))))
}

/// Keeps the kernel from giving the device a random IPv6 link-local address, as with WireGuard in the kernel. `wg-quick`
/// would save it as one of the configuration's.
pub(super) async fn withhold_link_local(name: &str) {
    let withhold = async || {
        let change = update(Id::Name(name), &Update { link_local: Some(false), ..Update::default() });
        Netlink::new()?.apply([change]).await
    };
    if let Err(error) = withhold().await {
        // Such as a kernel without IPv6.
        tracing::debug!(%error, device = name, "cannot withhold the link-local address");
    }
}

/// Why the MTU of a device cannot be watched any longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// A socket broke, or the device cannot be asked for.
    #[error("watch the device: {0}")]
    System(#[from] io::Error),
    /// The kernel does not show the device.
    #[error(transparent)]
    Netlink(#[from] Error),
    /// The device's network namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
}

impl WatchError {
    /// Whether the device has been removed.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::System(error) if error.raw_os_error() == Some(libc::EBADFD))
    }
}

/// Waits for changes of the MTU of one TUN device, whoever makes them, and wherever the device is renamed or moved to.
#[derive(Debug)]
pub(super) struct MtuWatch {
    tun: OwnedFd,
    listening: Option<Listening>,
    last: Option<u16>,
}

/// The sockets in the device's network namespace.
#[derive(Debug)]
struct Listening {
    name: String,
    ns: NetNs,
    netlink: Netlink,
    changes: LinkMonitor,
}

impl MtuWatch {
    /// Watches the device that the queue `tun` belongs to.
    pub(super) fn new(tun: OwnedFd) -> Self {
        Self { tun, listening: None, last: None }
    }

    /// Waits until the device has another MTU than at the last call; returns at once at the first one.
    ///
    /// # Errors
    /// When the device is gone, or its network namespace cannot be entered.
    pub(super) async fn next(&mut self) -> Result<u16, WatchError> {
        loop {
            if let Some(listening) = &mut self.listening {
                listening.changes.next().await?;
            }
            let (name, ns) = place(self.tun.as_fd())?;
            let ns = NetNs::of_descriptor(ns);
            let listening = match self.listening.take().filter(|at| at.name == name && at.ns.is_same(&ns)) {
                Some(listening) => listening,
                None => Listening::new(name, ns)?,
            };
            let listening = self.listening.insert(listening);
            let link = listening.netlink.link_named(&listening.name).await?;
            let mtu = link.map(|link| bytes(link.mtu));
            if let Some(mtu) = mtu.filter(|mtu| self.last != Some(*mtu)) {
                self.last = Some(mtu);
                return Ok(mtu);
            }
        }
    }
}

impl Listening {
    fn new(name: String, ns: NetNs) -> Result<Self, WatchError> {
        let runtime = tokio::runtime::Handle::current();
        let open = || {
            let _entered = runtime.enter();
            Ok::<_, WatchError>((LinkMonitor::new()?, Netlink::new()?))
        };
        // Entering a namespace takes CAP_SYS_ADMIN, so the own one is not entered.
        let (changes, netlink) = if NetNs::current()?.is_same(&ns) { open()? } else { ns.run(open)?? };
        Ok(Self { name, ns, netlink, changes })
    }
}

/// TUN devices have at most 65,535.
fn bytes(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}
