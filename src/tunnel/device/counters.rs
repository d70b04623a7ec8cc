//! The counters of a device.

/// What a device has dropped or put off since it was made, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Packets from the TUN for whose destination no peer exists.
    pub no_peer: u64,
    /// Packets dropped for lack of a session and room to wait.
    pub no_session: u64,
    /// Packets from the TUN that are not valid IP.
    pub invalid_packet: u64,
    /// Datagrams that are not a WireGuard message, or for an unknown index.
    pub unknown_datagram: u64,
    /// Messages that failed authentication.
    pub bad_mac: u64,
    /// Replayed or too old messages.
    pub replayed: u64,
    /// Decrypted packets whose source belongs to another peer or to none.
    pub wrong_source: u64,
    /// Handshake messages put off or answered with a cookie under load.
    pub under_load: u64,
    /// Sends that the kernel refused.
    pub send_errors: u64,
}
