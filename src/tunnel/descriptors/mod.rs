//! The descriptor store: the parent process keeps copies of a worker's descriptors and gives them to the next worker.
//!
//! [`Kept`] is the parent's side, [`Descriptors`] the worker's; a [`Channel`] carries descriptors between the two.

mod channel;
mod parent;
mod worker;

pub(crate) use channel::{Channel, own};
pub(crate) use parent::{Kept, Notice};
pub use worker::Descriptors;

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
    /// The socket on which the next tunnel process asks for the device. Tunnels of other versions know it by this name.
    pub(crate) const TAKEOVER: &str = "door";
    /// The link to the data plane before this one; given to one worker only.
    pub(crate) const LINK: &str = "link";
}
