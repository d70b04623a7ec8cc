//! The events of a device.

use std::net::SocketAddr;

/// An event of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A session with the peer was confirmed: transport data was received on it.
    Confirmed {
        /// Name of the peer.
        peer: String,
        /// Epoch of the own key.
        own_epoch: u64,
        /// Epoch of the peer's key.
        peer_epoch: u64,
    },
    /// The peer's endpoint changed, on authenticated data. Moves of one peer within a second are one event, with the newest
    /// endpoint.
    Roamed {
        /// Name of the peer.
        peer: String,
        /// The new endpoint.
        endpoint: SocketAddr,
    },
    /// The peer has not answered for 90 s; handshakes go on.
    Silent {
        /// Name of the peer.
        peer: String,
    },
    /// Events were dropped for lack of room.
    Missed {
        /// Number of dropped events.
        count: u64,
    },
}
