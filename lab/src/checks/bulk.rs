//! Large transfers between nodes, both ways, with hashes compared.

use super::{Failed, Short, Stage};
use crate::plan::Family;
use crate::traffic::{self, Bulk};

pub(super) fn transfers(stage: &Stage<'_>, family: Family) -> Result<String, Failed> {
    let (bytes, from, to) = (stage.scale.bulk, &stage.near[0], stage.far.server(family)?);
    let mut pause = || stage.cluster.settle();
    let sent = traffic::upload(&from.ns, to, bytes, stage.canary(), &mut pause)?;
    let fetched = traffic::download(&from.ns, to, bytes, stage.canary(), &mut pause)?;
    for Bulk { bytes: moved, sent, received, .. } in [&sent, &fetched] {
        if *moved != bytes || sent != received {
            return Err(Failed(format!("{moved} of {bytes} bytes, sent {sent}, received {received}")));
        }
    }
    Ok(format!("{} MiB out {}, in {}, hashes equal", bytes >> 20, Short(sent.took), Short(fetched.took)))
}
