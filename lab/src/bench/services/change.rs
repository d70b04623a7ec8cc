//! One backend changes: from the event in the controller until the kernel has it, beside the same bytes written raw.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::host::{Host, Twin};
use super::object;
use super::sample::Sample;
use crate::error::{Doing as _, Error};

/// With one number of Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// How many Services.
    pub services: u32,
    /// Milliseconds.
    pub millis: Sample,
    /// The same bytes written raw, in milliseconds.
    pub raw_millis: Sample,
    /// The first as a multiple of the second, change by change.
    pub ratio: Sample,
    /// Requests to read something, lists among them, that the connection sent meanwhile.
    pub requests: u64,
    /// Batches that it sent meanwhile.
    pub batches: u64,
}

/// Changes one backend of one Service after another on each host, in turns.
pub(super) fn measure(hosts: &mut [(Host, Twin)], changes: u32) -> Result<Vec<Change>, Error> {
    let mut times: Vec<Vec<[Duration; 2]>> = vec![Vec::new(); hosts.len()];
    let before: Vec<_> = hosts.iter().map(|(host, _)| host.connection.sent()).collect();
    for step in 1..=changes {
        let first = usize::try_from(step).unwrap_or(0);
        for turn in 0..hosts.len() {
            let which = (first + turn) % hosts.len();
            times[which].push(change(&mut hosts[which], step)?);
        }
    }
    let all = hosts.iter().zip(&times).zip(&before);
    let outcome = all.map(|(((host, _), times), before)| {
        let of = |which: usize| Sample::millis(&times.iter().map(|pair| pair[which]).collect::<Vec<_>>());
        let sent = host.connection.sent();
        Change {
            services: host.services,
            millis: of(0),
            raw_millis: of(1),
            ratio: Sample::ratios(times),
            requests: sent.requests - before.requests,
            batches: sent.batches - before.batches,
        }
    });
    Ok(outcome.collect())
}

/// How long one change took, and the same bytes written raw.
fn change((host, twin): &mut (Host, Twin), step: u32) -> Result<[Duration; 2], Error> {
    let number = object::chosen(step, host.services);
    let name = object::parsed(number)?.name;
    let slice_name = object::slice_name(&name.name);
    let slice = object::parsed_slice(number, step)?;
    let begun = Instant::now();
    host.balancer.set_slice(&name, &slice_name, Some(slice));
    let update = host.balancer.update();
    let changes = host.connection.update(&update).doing("change a backend")?;
    let took = begun.elapsed();
    if changes.is_empty() {
        return Err(Error::new("change a backend", "nothing was written".into()));
    }
    let raw = twin.raw.send(&update.batch().doing("encode a change")?)?;
    Ok([took, raw])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_and_nothing_is_read() {
        crate::isolated!(|| {
            let (_, mut hosts) = super::super::cold::measure(&[1, 5], 1, &|_| {}).unwrap();
            let outcome = measure(&mut hosts, 12).unwrap();
            for (change, services) in outcome.iter().zip([1, 5]) {
                assert_eq!((change.services, change.millis.count), (services, 12));
                assert_eq!((change.requests, change.batches), (0, 12));
            }
        });
    }
}
