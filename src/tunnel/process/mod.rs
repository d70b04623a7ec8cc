//! The processes of `selvedge tunnel NAME`.
//!
//! The [`parent`] is tiny: no thread, no runtime, no packets. It holds descriptors that the worker process has
//! given it (TUN queue, UDP sockets, listening sockets, the standalone configuration in memory) and starts the
//! worker again when that dies, handing all of them back: nothing that waits in a queue is lost, and no port or
//! device is ever free for others. The [`child`] is the worker process: it moves packets and serves the sockets.
//!
//! A managed tunnel hands over to the next one that is started with `--take-over`: the parent before gives all that
//! it holds to the parent after, their workers hand over the traffic (see [`super::handover`]), and then the pair
//! before rests until it is stopped, or until the device is free again because its successor is gone.
//!
//! What ends whom: the worker is killed with the parent (`PR_SET_PDEATHSIG`), so there are no orphans; a new
//! parent waits for the lock that the old pair held. SIGTERM or SIGINT to the parent stops both; a standalone
//! device goes then, a persistent one stays, and with it the kernel's routes over it.

mod backoff;
mod channel;
pub mod child;
mod descriptors;
mod door;
pub mod parent;
mod watch;

pub use descriptors::Descriptors;

/// What `selvedge tunnel` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the network device.
    pub name: String,
    /// Configured by an agent over the control API; otherwise over UAPI.
    pub managed: bool,
    /// The device stays when the tunnel ends.
    pub persistent: bool,
    /// MTU of the device, in bytes; a configuration over the control API has its own.
    pub mtu: u16,
    /// UDP port to start with; 0 takes any free one.
    pub listen_port: u16,
    /// Mark of the encrypted datagrams to start with; 0 for none.
    pub firewall_mark: u32,
    /// If another process has the device, have it hand over.
    pub take_over: bool,
}

/// The names under which the parent keeps descriptors.
pub(crate) mod slot {
    pub(crate) const LOCK: &str = "lock";
    pub(crate) const TUN: &str = "tun";
    pub(crate) const UDP4: &str = "udp4";
    pub(crate) const UDP6: &str = "udp6";
    pub(crate) const CONTROL: &str = "control";
    pub(crate) const UAPI: &str = "uapi";
    pub(crate) const SETTINGS: &str = "settings";
    pub(crate) const ROAMED: &str = "roamed";
    /// Where the next tunnel process knocks; see [`super::door`].
    pub(crate) const DOOR: &str = "door";
    /// The way to the data plane before this one; given to one worker only.
    pub(crate) const LINK: &str = "link";
}
