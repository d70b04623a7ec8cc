//! The slow comparison of the whole table where nothing is different: what it costs, and that it writes nothing.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::host::{Host, Twin};
use super::sample::Sample;
use crate::error::{Doing as _, Error};

/// With one number of Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resync {
    /// How many Services.
    pub services: u32,
    /// Milliseconds.
    pub millis: Sample,
    /// Batches that were sent.
    pub batches: u64,
    /// By how much the number of the kernel's ruleset grew: one for each batch, anybody's.
    pub generations: u32,
}

/// Compares the table of each host that often.
pub(super) fn measure(hosts: &mut [(Host, Twin)], rounds: usize) -> Result<Vec<Resync>, Error> {
    hosts.iter_mut().map(|(host, _)| resync(host, rounds)).collect()
}

fn resync(host: &mut Host, rounds: usize) -> Result<Resync, Error> {
    let what = "read the number of the ruleset";
    let (sent, generation) = (host.connection.sent(), host.connection.generation().doing(what)?);
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        host.resync()?;
        times.push(begun.elapsed());
    }
    Ok(Resync {
        services: host.services,
        millis: Sample::millis(&times),
        batches: host.connection.sent().batches - sent.batches,
        generations: host.connection.generation().doing(what)?.wrapping_sub(generation),
    })
}
