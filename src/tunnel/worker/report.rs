//! The state of a worker at one moment.

use crate::tunnel::device::DeviceReport;
use crate::tunnel::io::joins::Joins;

/// The state of a worker and its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    /// The device. Its `send_errors` include packets that the TUN refused.
    pub device: DeviceReport,
    /// Offloads in use.
    pub offloads: Offloads,
    /// How far packets are joined for the TUN: less than it offers once it refused too many.
    pub joins: Joins,
    /// Super-packets that the TUN refused; their parts were written one by one.
    pub resent: u64,
}

/// The offloads that the kernel offers and the worker uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TUN carries TCP segments of up to 64 KiB (`TUN_F_TSO4`, `TUN_F_TSO6`).
    pub tun_tso: bool,
    /// TUN carries UDP super-datagrams (`TUN_F_USO4`, `TUN_F_USO6`; Linux 6.2).
    pub tun_uso: bool,
    /// One send takes many datagrams (`UDP_SEGMENT`).
    pub udp_gso: bool,
    /// One receive brings many datagrams (`UDP_GRO`).
    pub udp_gro: bool,
}
