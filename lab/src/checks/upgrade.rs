//! A cluster that began with another version of Selvedge is upgraded, rolled back and upgraded again. Meanwhile nodes of
//! both versions speak with each other, and agents of one with tunnels of the other.

use super::pair::Pair;
use super::{Report, check};
use crate::kubernetes::{Kubernetes, Version};

/// Runs these checks where there is another version, and tells `report` of each as it begins and ends.
pub fn upgrade(cluster: &Kubernetes, report: &mut dyn FnMut(Report<'_>)) {
    if !cluster.has_previous() {
        return;
    }
    let what = "for the upgrade";
    let Some(pair) = Pair::begin(cluster, "upgrade", what, report) else { return };
    for (name, version) in [
        ("upgraded, ping and bulk TCP", Version::Ours),
        ("rolled back, ping and bulk TCP", Version::Previous),
        ("upgraded again, ping and bulk TCP", Version::Ours),
    ] {
        check(name, report, || pair.under_load(|| Ok(cluster.install_version(version)?))?.nothing_lost());
    }
    pair.finish(what, report);
}
