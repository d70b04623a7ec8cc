//! A thousand changes a second: whether the agent keeps up. One change in a hundred is observed until its first packet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::contender::{Contender, Site};
use super::object;
use super::probe::Probe;
use super::sample::Sample;
use super::start::megabytes;
use crate::bench::usage;
use crate::error::{Doing as _, Error};

/// Pause between two observed changes.
const INTERVAL: Duration = Duration::from_millis(50);

/// Under a steady rate of changes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Changes of EndpointSlices that were written per second.
    pub per_second: f64,
    /// For how many seconds.
    pub seconds: f64,
    /// Milliseconds from an observed change to its first packet.
    pub lag_millis: Sample,
    /// The same in the first third of the time, ...
    pub lag_early_millis: Sample,
    /// ... and in the last.
    pub lag_late_millis: Sample,
    /// Transactions per second on the node.
    pub transactions_per_second: f64,
    /// CPU time of the agent, in % of a core.
    pub agent_percent: f64,
    /// Peak resident memory of the agent since its start, in MB.
    pub peak_megabytes: f64,
}

/// Writes `wanted` changes per second for `time`, to one Service after another.
pub(super) fn measure(
    contender: &mut Contender,
    probe: &Probe,
    (wanted, time): (u32, Duration),
    services: u32,
) -> Result<Rate, Error> {
    let (generation, cpu, begun) = (contender.generation()?, usage::cpu(contender.process()), Instant::now());
    let over = AtomicBool::new(false);
    let site = contender.site();
    let (written, lags) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(site, wanted, services, &over));
        let lags = observe(site, probe, time);
        over.store(true, Ordering::Release);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (written, lags)
    });
    let (written, lags) = (written?, lags?);
    let seconds = begun.elapsed().as_secs_f64();
    let used = usage::cpu(contender.process()).saturating_sub(cpu).as_secs_f64();
    let transactions = contender.generation()?.wrapping_sub(generation);
    let third = lags.len() / 3;
    Ok(Rate {
        per_second: f64::from(written) / seconds,
        seconds,
        lag_millis: Sample::millis(&lags),
        lag_early_millis: Sample::millis(&lags[..third]),
        lag_late_millis: Sample::millis(&lags[lags.len() - third..]),
        transactions_per_second: f64::from(transactions) / seconds,
        agent_percent: used / seconds * 100.0,
        peak_megabytes: megabytes(usage::memory(contender.process()).peak),
    })
}

/// Returns how many changes it has written.
fn write(site: Site<'_>, wanted: u32, services: u32, over: &AtomicBool) -> Result<u32, Error> {
    let interval = Duration::from_secs(1) / wanted.max(1);
    let (begun, mut step) = (Instant::now(), 0);
    while !over.load(Ordering::Acquire) {
        step += 1;
        let number = object::chosen(step, services);
        site.set_slice(&object::name(number), || object::slice(number, step)).doing("keep up the rate")?;
        std::thread::sleep((begun + interval * step).saturating_duration_since(Instant::now()));
    }
    Ok(step)
}

fn observe(site: Site<'_>, probe: &Probe, time: Duration) -> Result<Vec<Duration>, Error> {
    let (begun, mut lags) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        lags.push(probe.time(site, (lags.len() + 1) % 2)?);
        std::thread::sleep(INTERVAL);
    }
    // The Service ends with the endpoint that it began with.
    if lags.len() % 2 == 1 {
        lags.push(probe.time(site, 0)?);
    }
    Ok(lags)
}
