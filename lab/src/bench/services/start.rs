//! From the start of a program until all Services are in the kernel, and how much memory it takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::sample::Sample;
use crate::bench::usage;
use crate::error::Error;

/// After its start a program comes to rest.
const REST: Duration = Duration::from_secs(2);

/// Of one program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Its name.
    pub program: String,
    /// Seconds from the start of the process until all Services are in the kernel.
    pub seconds: Sample,
    /// Peak resident memory of the process shortly after that, in MB.
    pub peak_megabytes: Sample,
    /// CPU time of the process and its child processes until then, in seconds.
    pub cpu_seconds: Sample,
}

/// Starts each program that often, in turns, on a node without its tables. In the end all of them run.
pub(super) fn measure(cluster: &mut Cluster, rounds: usize, say: &dyn Fn(&str)) -> Result<Vec<Start>, Error> {
    let mut measured: Vec<[Vec<f64>; 3]> = cluster.contenders.iter().map(|_| Default::default()).collect();
    for round in 0..rounds {
        for (contender, measured) in cluster.contenders.iter_mut().zip(&mut measured) {
            say(&format!("{} starts, round {} of {rounds}", contender.name, round + 1));
            if round > 0 {
                contender.stop()?;
            }
            measured[0].push(contender.start()?.as_secs_f64());
            measured[1].push(usage::cpu_with_ended(contender.process()).as_secs_f64());
            std::thread::sleep(REST);
            measured[2].push(megabytes(usage::memory(contender.process()).peak));
            if round + 1 < rounds {
                // It is not to run beside the other's start.
                contender.process().stop();
            }
        }
    }
    let starts = cluster.contenders.iter().zip(measured).map(|(contender, measured)| {
        let [seconds, cpu_seconds, peak_megabytes] = measured.map(|values| Sample::of(&values));
        Start { program: contender.name.into(), seconds, peak_megabytes, cpu_seconds }
    });
    Ok(starts.collect())
}

/// From KiB.
pub(super) fn megabytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) * 1024.0 / 1e6
}
