//! Batches in and out: TUN super-packets and UDP segmentation, and what turns one into the other.
//!
//! In the order in which data passes: [`tun`] reads a super-packet with its [`vnet`] header, [`segment`] cuts it,
//! [`udp`] sends many sealed datagrams with one call; the other way [`udp`] receives many at once, [`coalesce`]
//! joins what was opened, as far as [`joins`] says, and [`tun`] takes it in one write of the [`writer`]. [`checksum`] and [`packet`] serve both ways;
//! [`unreachable`] answers what has nowhere to go.
//!
//! The pure parts ([`segment`], [`coalesce`], [`checksum`], [`packet`], [`vnet`]) never panic on any bytes.

pub mod batch;
pub mod checksum;
pub mod coalesce;
pub mod joins;
pub mod packet;
#[cfg(test)]
mod replay;
pub mod segment;
mod sys;
#[cfg(test)]
mod testing;
pub mod tun;
pub mod udp;
pub mod unreachable;
pub mod vnet;
pub mod writer;

/// Largest IP packet a TUN carries, in bytes.
pub const MAX_PACKET: usize = 65_535;
