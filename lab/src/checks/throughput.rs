//! How fast TCP is between pods of two nodes, beside the same path in plaintext: from node to node, with segments of
//! the same size.

use std::net::SocketAddr;

use super::{Failed, Stage};
use crate::plan::Family;
use crate::traffic;

pub(super) fn compared(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let headers = if family == Family::V6 { 60 } else { 40 };
    let segment = stage.cluster.pod_mtu() - headers;
    let time = stage.scale.throughput;
    let mut pause = || stage.cluster.settle();
    let inside = traffic::throughput(&stage.near[0].ns, stage.far.server(family)?, time, None, &mut pause)?;
    let plain = SocketAddr::new(stage.nodes[1].address(family)?, stage.cluster.plain_port());
    let outside = traffic::throughput(&stage.nodes[0].ns, plain, time, Some(segment), &mut pause)?;
    let share = inside.bits_per_second() / outside.bits_per_second() * 100.0;
    Ok(format!("{inside}; in plaintext {outside} ({share:.0} %)"))
}
