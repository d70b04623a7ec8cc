//! Pods reach the internet with their node's address.

use super::{Failed, Short, Stage};
use crate::plan::Family;
use crate::traffic::{self, Canary, TIMEOUT};

pub(super) fn internet(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let (pod, node) = (&stage.near[0], &stage.nodes[0]);
    // This is plaintext on the underlay, and meant to be: it must not carry the canary.
    let other = Canary::random().map_err(|error| Failed(error.to_string()))?;
    let server = stage.internet.server(family)?;
    let tcp = traffic::ask(&pod.ns, server, &other)?;
    let udp = traffic::ask_udp(&pod.ns, server, &other, TIMEOUT)?;
    let wanted = node.address(family)?;
    for told in [&tcp.told, &udp.told] {
        if told.source.ip() != wanted {
            return Err(Failed(format!("the internet saw {}, not the node's {wanted}", told.source.ip())));
        }
    }
    Ok(format!("{} saw {wanted}, {}", server.ip(), Short(tcp.took)))
}
