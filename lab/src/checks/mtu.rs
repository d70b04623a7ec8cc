//! Packets of the largest size, larger ones, fragments, and path MTU discovery.

use super::{Failed, Host, Stage};
use crate::plan::Family;
use crate::traffic::{self, Canary, Probe};

const LARGE: usize = 9000;
const TRIES: usize = 4;

/// Between pods of two nodes: up to the pods' MTU packets come through whole, one byte more is refused where it must
/// not be fragmented, and fragments come through.
pub(super) fn sizes(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let mtu = stage.cluster.pod_mtu();
    let whole = usize::try_from(mtu).map_err(|error| Failed(error.to_string()))?;
    let near = &stage.near[0];
    for to in [&stage.far, &stage.near[1], &stage.nodes[1]] {
        expect(stage, near, to, family, (whole, true), Probe::Echoed)?;
        expect(stage, near, to, family, (whole + 1, true), Probe::TooBig(mtu))?;
        expect(stage, near, to, family, (whole + 1, false), Probe::Echoed)?;
        expect(stage, near, to, family, (LARGE, false), Probe::Echoed)?;
    }
    expect(stage, &stage.nodes[0], &stage.far, family, (whole, true), Probe::Echoed)?;
    expect(stage, &stage.nodes[0], &stage.far, family, (LARGE, false), Probe::Echoed)?;
    Ok(format!("{whole} whole, {} too big, {LARGE} in fragments", whole + 1))
}

/// A pod learns from the outside that the way there takes less: the router's ICMP error finds it through the NAT.
pub(super) fn internet(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let Some(mtu) = stage.cluster.internet_mtu() else {
        return Ok("the way out takes what pods send".into());
    };
    let whole = usize::try_from(mtu).map_err(|error| Failed(error.to_string()))?;
    let other = Canary::random().map_err(|error| Failed(error.to_string()))?;
    let to = stage.internet.server(family)?;
    let sent = |size, whole| traffic::probe(&stage.near[0].ns, to, size, whole, &other, TRIES);
    for (size, unfragmented, wanted) in
        [(whole, true, Probe::Echoed), (whole + 1, true, Probe::TooBig(mtu)), (LARGE, false, Probe::Echoed)]
    {
        let found = sent(size, unfragmented)?;
        if found != wanted {
            return Err(Failed(format!("{size} bytes to {to}: {found:?}, not {wanted:?}")));
        }
    }
    Ok(format!("the pod has learnt that it is {mtu}"))
}

fn expect(
    stage: &Stage<'_>,
    from: &Host,
    to: &Host,
    family: Family,
    (size, whole): (usize, bool),
    wanted: Probe,
) -> Result<(), Failed> {
    let found = traffic::probe(&from.ns, to.server(family)?, size, whole, stage.canary(), TRIES)?;
    match found == wanted {
        true => Ok(()),
        false => {
            Err(Failed(format!("{size} bytes from {} to {}: {found:?}, not {wanted:?}", from.name, to.name)))
        }
    }
}
