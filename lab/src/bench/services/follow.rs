//! End to end: from a write of an EndpointSlice at the API server until the first packet that follows it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::probe::Probe;
use super::sample::Sample;
use crate::error::Error;

/// Of one program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    /// Its name.
    pub program: String,
    /// Milliseconds.
    pub millis: Sample,
}

/// Changes the endpoint of one Service that often for each program, in turns. `rest` is the pause between two changes for the
/// same program.
pub(super) fn measure(
    contenders: &[Contender],
    probe: &Probe,
    changes: usize,
    rest: Duration,
) -> Result<Vec<Follow>, Error> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); contenders.len()];
    // What a program still does after a change is not to run beside the other's.
    let pause = rest / u32::try_from(contenders.len()).unwrap_or(1).max(1);
    for change in 1..=changes {
        for (contender, times) in contenders.iter().zip(&mut times) {
            std::thread::sleep(pause);
            times.push(probe.time(contender.site(), change % 2)?);
        }
    }
    let all = contenders.iter().zip(times);
    Ok(all
        .map(|(contender, times)| Follow { program: contender.name.into(), millis: Sample::millis(&times) })
        .collect())
}
