//! Cold sync: from objects that are known until all of them are in the kernel, beside the same bytes written raw.

use std::time::Duration;

use selvedge::kernel::netns::NetNs;
use serde::{Deserialize, Serialize};

use super::host::{self, Host, Pairs, Twin};
use super::sample::Sample;
use crate::error::{Doing as _, Error};

/// With one number of Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cold {
    /// How many Services.
    pub services: u32,
    /// Milliseconds.
    pub millis: Sample,
    /// The same bytes written raw, in milliseconds.
    pub raw_millis: Sample,
    /// The first as a multiple of the second, round by round.
    pub ratio: Sample,
}

/// Writes the table for each number of Services once per round, each on a new host. Returns the hosts and twins of the last
/// round, too.
pub(super) fn measure(sizes: &[u32], rounds: usize, say: &dyn Fn(&str)) -> Result<(Vec<Cold>, Pairs), Error> {
    let most = sizes.iter().copied().max().unwrap_or(0);
    let parsed = host::parsed(most)?;
    let mut times: Vec<Vec<[Duration; 2]>> = vec![Vec::new(); sizes.len()];
    // The kernel takes its time to free a large table; it is not to do that beside a measurement.
    let mut earlier: Vec<(NetNs, Twin)> = Vec::new();
    let mut last = Vec::new();
    for round in 1..=rounds.max(1) {
        say(&format!("cold sync, round {round} of {rounds}"));
        earlier.extend(last.drain(..).map(|(host, twin): (Host, Twin)| (host.ns, twin)));
        for (size, times) in sizes.iter().zip(&mut times) {
            let mut host = Host::new(NetNs::create().doing("make a host")?)?;
            let count = usize::try_from(*size).unwrap_or(usize::MAX).min(parsed.len());
            let took = host.start(&parsed[..count])?;
            let (twin, raw) = host.twin()?;
            times.push([took, raw]);
            last.push((host, twin));
        }
    }
    let cold = |(services, times): (&u32, &Vec<[Duration; 2]>)| {
        let of = |which: usize| Sample::millis(&times.iter().map(|pair| pair[which]).collect::<Vec<_>>());
        Cold { services: *services, millis: of(0), raw_millis: of(1), ratio: Sample::ratios(times) }
    };
    Ok((sizes.iter().zip(&times).map(cold).collect(), last))
}
