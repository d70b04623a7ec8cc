//! How one tunnel is to run.

/// MTU of a new device, in bytes: that of an Ethernet less the most that WireGuard adds.
pub const DEFAULT_MTU: u16 = 1420;

/// What `selvedge tunnel` was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the network device.
    pub name: String,
    /// Configured by an agent over the control API; otherwise over UAPI.
    pub managed: bool,
    /// The device stays when the tunnel ends.
    pub persistent: bool,
    /// MTU of the device, in bytes; a configuration over the control API has its own. Without one a new device gets
    /// [`DEFAULT_MTU`], and one that exists keeps what it has.
    pub mtu: Option<u16>,
    /// UDP port to start with; 0 takes any free one.
    pub listen_port: u16,
    /// Mark of the encrypted datagrams to start with; 0 for none.
    pub firewall_mark: u32,
    /// If another process has the device, have it hand over.
    pub take_over: bool,
    /// Whoever started this waits until the tunnel is ready: see [`background`](super::process::background).
    pub detached: bool,
}
