//! The comparison in figures.

use std::fmt;

use serde_json::Value;

use super::Times;
use crate::bench::figures::Figures;

/// The comparison, as text.
#[derive(Debug)]
pub struct Report {
    pods: usize,
    /// For ADD and DEL: Selvedge's and the other's.
    rows: [(&'static str, [Figures; 2]); 2],
    configuration: Value,
    load: String,
}

impl Report {
    pub(super) fn new(selvedge: &Times, bridge: &Times, configuration: Value) -> Self {
        let rows = [
            ("ADD", [Figures::of(&selvedge.add), Figures::of(&bridge.add)]),
            ("DEL", [Figures::of(&selvedge.del), Figures::of(&bridge.del)]),
        ];
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { pods: selvedge.add.len(), rows, configuration, load: load.trim().to_owned() }
    }

    /// Selvedge's median as a multiple of the other's, for ADD and for DEL.
    #[must_use]
    pub fn ratios(&self) -> [f64; 2] {
        self.rows.map(|(_, [ours, theirs])| ours.median().as_secs_f64() / theirs.median().as_secs_f64())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# CNI: ADD and DEL of a pod, both families\n")?;
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        writeln!(f, "{} pods, added and then deleted, one after another, the plugins in turns.", self.pods)?;
        writeln!(f, "Milliseconds from spawn to exit of the plugin's process.")?;
        writeln!(f, "{cores} cores, load average {}, kernel {}.\n", self.load, kernel.trim())?;
        writeln!(f, "| | p50 | p10 to p90 | p99 | ratio of p50 |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for ((verb, [ours, theirs]), ratio) in self.rows.iter().zip(self.ratios()) {
            writeln!(f, "| {verb}, selvedge | {ours} | {ratio:.2} |")?;
            writeln!(f, "| {verb}, bridge + host-local | {theirs} | 1 |")?;
        }
        writeln!(f, "\nConfiguration of bridge:\n")?;
        writeln!(f, "```json\n{}\n```", serde_json::to_string_pretty(&self.configuration).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let times = |factor: u64| (1..=101).map(|n| Duration::from_millis(n * factor)).collect::<Vec<_>>();
        let of = |factor| Times { add: times(factor), del: times(factor * 2) };
        let report = Report::new(&of(1), &of(4), Value::Null);
        assert_eq!(report.ratios(), [0.25, 0.25]);
        assert!(
            report.to_string().contains("| ADD, selvedge | 51.00 | 11.00 to 91.00 | 100.00 | 0.25 |"),
            "{report}"
        );
    }
}
