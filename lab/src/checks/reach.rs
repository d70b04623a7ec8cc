//! Who reaches whom, without NAT: the far side tells which source it saw.

use std::net::IpAddr;
use std::time::Duration;

use super::{Failed, Host, Short, Stage};
use crate::plan::Family;
use crate::traffic::{self, Ping, TIMEOUT};

pub(super) fn same_node(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let [from, to] = &stage.near;
    exchange(stage, from, to, family, from.address(family)?)
}

pub(super) fn other_node(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let there = exchange(stage, &stage.near[0], &stage.far, family, stage.near[0].address(family)?)?;
    exchange(stage, &stage.far, &stage.near[0], family, stage.far.address(family)?)?;
    Ok(there)
}

pub(super) fn own_pod(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let node = &stage.nodes[0];
    exchange(stage, node, &stage.near[0], family, fabric(node, family)?)
}

pub(super) fn remote_pod(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let node = &stage.nodes[0];
    exchange(stage, node, &stage.far, family, fabric(node, family)?)
}

pub(super) fn own_host(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let from = &stage.near[0];
    exchange(stage, from, &stage.nodes[0], family, from.address(family)?)
}

pub(super) fn remote_host(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let from = &stage.near[0];
    exchange(stage, from, &stage.nodes[1], family, from.address(family)?)
}

/// Every packet of a ping of 1000 packets a second comes back.
pub(super) fn ping(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let (from, to) = (&stage.near[0], stage.far.address(family)?);
    let ping = Ping::start(&from.ns, to, Duration::from_millis(1), stage.canary())?;
    std::thread::sleep(stage.scale.ping);
    let report = ping.stop();
    let [shortest, mean, longest] = report.round_trip.ok_or_else(|| Failed("no reply at all".into()))?;
    if report.lost() > 0 {
        return Err(Failed(format!("{} of {} packets lost", report.lost(), report.sent)));
    }
    Ok(format!("{} packets, none lost, {}/{}/{}", report.sent, Short(shortest), Short(mean), Short(longest)))
}

/// Asks over TCP and UDP; the other side has to see `source` and be who is meant.
fn exchange(
    stage: &Stage<'_>,
    from: &Host,
    to: &Host,
    family: Family,
    source: IpAddr,
) -> Result<String, Failed> {
    let server = to.server(family)?;
    let tcp = traffic::ask(&from.ns, server, stage.canary())?;
    let udp = traffic::ask_udp(&from.ns, server, stage.canary(), TIMEOUT)?;
    for told in [&tcp.told, &udp.told] {
        if told.source.ip() != source {
            return Err(Failed(format!("{} saw {} as source, not {source}", told.name, told.source.ip())));
        }
        if told.name.split('/').next() != Some(&to.name) {
            return Err(Failed(format!("{} answered in place of {}", told.name, to.name)));
        }
    }
    Ok(format!("{} saw {source}, {}", server.ip(), Short(tcp.took)))
}

fn fabric(node: &Host, family: Family) -> Result<IpAddr, Failed> {
    family.pick(&node.fabric).ok_or_else(|| Failed(format!("{} has no {family} fabric address", node.name)))
}
