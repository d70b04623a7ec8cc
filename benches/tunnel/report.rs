//! Medians and spread, and ratios within each round.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// What everything is compared with.
const YARDSTICK: &str = "wireguard-go";

/// What one round gave for one implementation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    /// Bits per second over one connection.
    pub(crate) single: f64,
    /// Bits per second over four.
    pub(crate) four: f64,
    pub(crate) round_trip: Duration,
}

impl Measured {
    fn values(&self) -> [f64; 3] {
        [self.single / 1e9, self.four / 1e9, self.round_trip.as_secs_f64() * 1e6]
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [single, four, round_trip] = self.values();
        write!(f, "1 stream {single:6.2} Gbit/s, 4 streams {four:6.2} Gbit/s, round trip {round_trip:6.1} us")
    }
}

/// All rounds of all implementations.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// By name, with the number of the round.
    rows: Vec<(&'static str, Vec<(u32, Measured)>)>,
}

impl Report {
    pub(crate) fn add(&mut self, name: &'static str, round: u32, measured: Measured) {
        match self.rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, all)) => all.push((round, measured)),
            None => self.rows.push((name, vec![(round, measured)])),
        }
    }

    /// What the others are compared with, by round; nothing if it was left out.
    fn yardstick(&self) -> Option<HashMap<u32, Measured>> {
        let (_, all) = self.rows.iter().find(|(name, _)| *name == YARDSTICK)?;
        Some(all.iter().copied().collect())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Tunnel throughput and round trip\n")?;
        writeln!(
            f,
            "Two namespaces, a veth pair of MTU 1500 between them, tunnels of MTU 1420, TCP one way;"
        )?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        writeln!(f, "sender, receiver and both tunnels share {cores} cores. Kernel {}.", kernel())?;
        writeln!(
            f,
            "Median (smallest to largest) over the rounds, which the implementations took in turns.\n"
        )?;
        writeln!(f, "| | rounds | TCP, 1 stream, Gbit/s | TCP, 4 streams, Gbit/s | idle round trip, us |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (name, all) in &self.rows {
            let cell = |at: usize| spread(all.iter().map(|(_, one)| one.values()[at]));
            writeln!(f, "| {name} | {} | {} | {} | {} |", all.len(), cell(0), cell(1), cell(2))?;
        }
        let Some(yardstick) = self.yardstick() else { return Ok(()) };
        writeln!(f, "\nAs multiples of {YARDSTICK} in the same round:\n")?;
        writeln!(f, "| | TCP, 1 stream | TCP, 4 streams | idle round trip |")?;
        writeln!(f, "|---|---|---|---|")?;
        for (name, all) in &self.rows {
            let ratios = |at: usize| {
                let pairs = all.iter().filter_map(|(round, one)| Some((one, yardstick.get(round)?)));
                spread(pairs.map(move |(one, other)| one.values()[at] / other.values()[at]))
            };
            writeln!(f, "| {name} | {} | {} | {} |", ratios(0), ratios(1), ratios(2))?;
        }
        Ok(())
    }
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(most)) => format!("{median:.2} ({least:.2} to {most:.2})"),
        _ => "none".into(),
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".into(), |text| text.trim().into())
}
