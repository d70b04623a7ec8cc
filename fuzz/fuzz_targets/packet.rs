//! Packets from the TUN that are cut, and packets from the network that are joined.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge::tunnel::io::coalesce::Coalescer;
use selvedge::tunnel::io::packet::destination;
use selvedge::tunnel::io::segment::Segments;
use selvedge::tunnel::io::unreachable::Unreachable;
use selvedge::tunnel::io::vnet::{LEN, VnetHeader};

#[path = "../checks/packet.rs"]
mod packet;

fuzz_target!(|input: &[u8]| packet::check(input));
