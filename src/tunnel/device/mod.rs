//! The WireGuard device as a pure state machine: peers, sessions, cryptokey routing, timers. No I/O, no thread,
//! no clock: time comes in as an argument, datagrams go out by [`Device::poll_transmit`].
//!
//! One batch of the caller:
//! 1. [`Device::handle_timeout`] when [`Device::poll_timeout`] is due;
//! 2. for each packet of the TUN [`Device::route`], then [`Device::seal`] to what [`Device::endpoint`] says;
//! 3. for each datagram of the socket [`Device::open`];
//! 4. [`Device::poll_transmit`] until it gives none (handshakes, keepalives, packets that had waited), and
//!    [`Device::poll_event`] likewise.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use jiff::Timestamp;

use super::api::{Applied, Counters, DeviceStatus, Event};
use super::command::{Config, ConfigError};

/// Bytes that a data message has more than the packet in it: header of 16, authentication tag of 16.
pub const OVERHEAD: usize = 32;

/// Room that [`Device::seal`] needs in `out` for a packet of `length` bytes: padding to 16 included.
#[must_use]
pub const fn sealed_room(length: usize) -> usize {
    length.next_multiple_of(16) + OVERHEAD
}

/// A peer of the device. Valid until the next [`Device::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerIndex(u32);

/// What became of a packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The first so many bytes of `out` are the datagram to send to the peer's endpoint.
    Data(usize),
    /// The packet waits for a handshake; it comes out of [`Device::poll_transmit`] after it.
    Queued,
    /// The packet is dropped and counted.
    Dropped,
}

/// What a datagram held.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An IP packet from a peer that may send from its source address.
    Packet {
        /// The peer.
        peer: PeerIndex,
        /// The packet, at the start of `out`, cut to the length its IP header says.
        packet: &'a [u8],
    },
    /// Nothing to pass on: a handshake message, a keepalive, or something refused and counted.
    Nothing,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

/// The device.
#[derive(Debug)]
pub struct Device {
    counters: Counters,
}

impl Device {
    /// A device without identity or peers. Packets are never padded beyond `mtu`, that of the TUN device.
    #[must_use]
    pub fn new(_mtu: u16, _now: Instant) -> Self {
        Self { counters: Counters::default() }
    }

    /// Makes `config` the whole configuration. Sessions of unchanged keys stay; the same again changes nothing.
    ///
    /// # Errors
    /// When the configuration contradicts itself; then nothing of it is applied.
    pub fn apply(&mut self, _config: &Config, _now: Instant) -> Result<Applied, ConfigError> {
        Ok(Applied::default())
    }

    /// The peer that `destination` belongs to: longest prefix over the allowed IPs of all peers.
    #[must_use]
    pub fn route(&self, _destination: IpAddr) -> Option<PeerIndex> {
        None
    }

    /// Where datagrams for `peer` go now.
    #[must_use]
    pub fn endpoint(&self, _peer: PeerIndex) -> Option<SocketAddr> {
        None
    }

    /// Encrypts `packet` for `peer` into `out`, which needs [`sealed_room`].
    pub fn seal(&mut self, _peer: PeerIndex, _packet: &[u8], _out: &mut [u8], _now: Instant) -> Sealed {
        Sealed::Dropped
    }

    /// Takes a datagram that came from `from`. `out` needs room for as many bytes as the datagram has; all of
    /// it may be written, whatever the outcome.
    pub fn open<'a>(
        &mut self,
        _from: SocketAddr,
        _datagram: &[u8],
        _out: &'a mut [u8],
        _now: Instant,
    ) -> Opened<'a> {
        Opened::Nothing
    }

    /// Runs what is due at `now`: retries, rekeys, keepalives, expiry.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Device::handle_timeout`] wants to be called next; may move with every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next datagram to send beside those that [`Device::seal`] gave.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// The counters, also for the caller to count what only it sees.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The state of identities and peers. `device`, `managed`, `listen_port` and `features` are left for the
    /// caller to fill in. `wall` is the wall clock's time at `now`.
    #[must_use]
    pub fn status(&self, _now: Instant, _wall: Timestamp) -> DeviceStatus {
        DeviceStatus {
            device: String::new(),
            managed: false,
            listen_port: 0,
            identities: Vec::new(),
            features: super::api::Features::default(),
            peers: Vec::new(),
            counters: self.counters.clone(),
        }
    }
}
