//! The figures as a Markdown table: one row per figure, one column per number of Nodes, at most 80 characters wide.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delays, Outcome, Rest, Served, Start};

/// Width that a terminal has at least.
const WIDTH: usize = 80;
/// Stands for a figure that was not measured.
const NONE: &str = "-";

/// The table. Where the columns do not fit the width, several tables follow each other.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let mut rows = Rows { outcomes, rows: Vec::new() };
    rows.add("Nodes", |outcome| Some(outcome.nodes.to_string()));
    rows.add("heartbeats per second", |outcome| number(outcome.heartbeats_per_second, 1));
    rows.add_start("first start", |outcome| Some(&outcome.first));
    rows.add_start("restart with records", |outcome| outcome.restart.as_ref());
    rows.add_rest();
    rows.add_delays("endpoints changed", |outcome| outcome.moves.as_ref());
    rows.add_delays("Node joined", |outcome| outcome.joins.as_ref());
    rows.add_applied();
    rows.add("peak memory of the agent in the end, MiB", |outcome| mib(outcome.agent_peak_kib));
    rows.render() + &notes(outcomes)
}

/// Label and cells of each row.
struct Rows<'a> {
    outcomes: &'a [Outcome],
    rows: Vec<(String, Vec<String>)>,
}

type StartOf = fn(&Outcome) -> Option<&Start>;
type CpuOf = fn(&Rest) -> f64;
type DelaysOf = fn(&Outcome) -> Option<&Delays>;

impl Rows<'_> {
    fn add(&mut self, label: impl Into<String>, cell: impl Fn(&Outcome) -> Option<String>) {
        let cells = self.outcomes.iter().map(|outcome| cell(outcome).unwrap_or_else(|| NONE.to_owned()));
        self.rows.push((label.into(), cells.collect()));
    }

    fn add_start(&mut self, what: &str, start: StartOf) {
        self.add(format!("{what}: ready after, s"), |outcome| number(start(outcome)?.seconds?, 2));
        self.add("  CPU of the agent, s", |outcome| number(start(outcome)?.agent_cpu_seconds, 2));
        self.add("  peak memory of the agent, MiB", |outcome| mib(start(outcome)?.agent_peak_kib));
        let sent = |start: &Start| total(&start.served).bytes / f64::from(1 << 20);
        self.add("  sent by the API server, MiB", |outcome| number(sent(start(outcome)?), 1));
        let kinds: BTreeSet<&String> =
            self.outcomes.iter().filter_map(start).flat_map(|start| start.served.keys()).collect();
        for kind in kinds {
            self.add(format!("  requests: {kind}"), |outcome| {
                Some(start(outcome)?.served.get(kind).map_or(0, |served| served.requests).to_string())
            });
        }
    }

    fn add_rest(&mut self) {
        fn rest(outcome: &Outcome) -> Option<&Rest> {
            outcome.rest.as_ref()
        }
        let cpus: [(&str, CpuOf); 2] =
            [("agent", |rest| rest.agent_cpu_seconds), ("tunnel", |rest| rest.tunnel_cpu_seconds)];
        for (whose, cpu) in cpus {
            let per_second = |outcome: &Outcome| rest(outcome).map(|rest| cpu(rest) / rest.seconds);
            let label = format!("at rest: CPU of the {whose}, s per minute");
            self.add(label, |outcome| number(per_second(outcome)? * 60.0, 2));
            self.add("  in % of a core", |outcome| number(per_second(outcome)? * 100.0, 1));
        }
        self.add("  memory of the agent, MiB", |outcome| mib(rest(outcome)?.agent_kib));
        self.add("  memory of the tunnel, MiB", |outcome| mib(rest(outcome)?.tunnel_kib));
        let per_minute = |rest: &Rest, value: f64| value * 60.0 / rest.seconds;
        self.add("  API requests per minute", |outcome| {
            number(per_minute(rest(outcome)?, total(&rest(outcome)?.served).requests), 1)
        });
        self.add("  sent by the API server, KiB per minute", |outcome| {
            number(per_minute(rest(outcome)?, total(&rest(outcome)?.served).bytes / 1024.0), 0)
        });
    }

    fn add_delays(&mut self, what: &str, delays: DelaysOf) {
        let label = format!("{what}: in the tunnel, p50, ms");
        self.add(label, |outcome| number(delays(outcome)?.p50_millis, 0));
        self.add("  p99, ms", |outcome| number(delays(outcome)?.p99_millis, 0));
        self.add("  changes, missing", |outcome| {
            let delays = delays(outcome)?;
            Some(format!("{}, {}", delays.changes, delays.missing))
        });
        self.add("  API requests", |outcome| number(total(&delays(outcome)?.served).requests, 0));
    }

    fn add_applied(&mut self) {
        let names: BTreeSet<&String> =
            self.outcomes.iter().flat_map(|outcome| outcome.applied.keys()).collect();
        for name in names {
            self.add(format!("applied within 20 ms, %: {name}"), |outcome| {
                let applied = outcome.applied.get(name).filter(|applied| applied.events > 0)?;
                // Far below 2^52.
                #[expect(clippy::cast_precision_loss, reason = "counts of events are small")]
                let share = applied.within_20_millis as f64 / applied.events as f64;
                number(share * 100.0, 1)
            });
        }
    }

    fn render(&self) -> String {
        let label = self.rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let cell = self.rows.iter().flat_map(|(_, cells)| cells).map(String::len).max().unwrap_or(0);
        let columns = (WIDTH.saturating_sub(label + 4) / (cell + 3)).max(1);
        let mut tables = Vec::new();
        for from in (0..self.outcomes.len()).step_by(columns) {
            let mut lines = self.rows.iter().map(|(name, cells)| {
                let cells = cells.iter().skip(from).take(columns).map(|text| format!(" {text:>cell$} |"));
                format!("| {name:label$} |{}\n", cells.collect::<String>())
            });
            let head = lines.next().unwrap_or_default();
            let rule = format!(
                "|{}|{}\n",
                "-".repeat(label + 2),
                format!("{}:|", "-".repeat(cell + 1)).repeat(columns.min(self.outcomes.len() - from))
            );
            tables.push(head + &rule + &lines.collect::<String>());
        }
        tables.join("\n")
    }
}

fn notes(outcomes: &[Outcome]) -> String {
    let mut notes = String::new();
    for outcome in outcomes {
        for (which, start) in [("first start", Some(&outcome.first)), ("restart", outcome.restart.as_ref())] {
            if let Some(why) = start.and_then(|start| start.unready.as_ref()) {
                notes += &format!("\n{} Nodes, {which}, not ready: {why}\n", outcome.nodes);
            }
        }
    }
    let observed: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.observed_through.as_str()).collect();
    let observed: Vec<&str> = observed.into_iter().filter(|name| !name.is_empty()).collect();
    if !observed.is_empty() {
        notes += &format!("\nChanges in the tunnel were observed through: {}.\n", observed.join(", "));
    }
    notes
}

struct Total {
    requests: f64,
    bytes: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn total(served: &BTreeMap<String, Served>) -> Total {
    let sum = |of: fn(&Served) -> u64| served.values().map(of).sum::<u64>() as f64;
    Total { requests: sum(|served| served.requests), bytes: sum(|served| served.bytes) }
}

fn number(value: f64, digits: usize) -> Option<String> {
    Some(format!("{value:.digits$}"))
}

/// None for 0: not measured.
fn mib(kib: u64) -> Option<String> {
    (kib > 0).then(|| (kib >> 10).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(nodes: u32) -> Outcome {
        let served = [("list nodes".to_owned(), Served { requests: 2, bytes: 3 << 20 })];
        let start = Start { seconds: Some(1.5), served: served.into(), ..Start::default() };
        let delays = Delays { changes: 100, missing: 1, p50_millis: 20.4, ..Delays::default() };
        Outcome {
            nodes,
            first: start,
            rest: Some(Rest { seconds: 30.0, agent_cpu_seconds: 0.3, ..Rest::default() }),
            moves: Some(delays),
            ..Outcome::default()
        }
    }

    #[test]
    fn every_figure_has_a_row_and_no_line_is_too_long() {
        let text = table(&[1000, 2000, 5000, 10_000, 20_000].map(outcome));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        let row = |label: &str| text.lines().find(|line| line.contains(label)).unwrap().to_owned();
        assert!(row("requests: list nodes").contains(" 2 |"), "{text}");
        assert!(row("CPU of the agent, s per minute").contains(" 0.60 |"), "{text}");
        assert!(row("in % of a core").contains(" 1.0 |"), "{text}");
        assert!(row("restart with records").contains(" - |"), "{text}");
        assert!(row("changes, missing").contains(" 100, 1 |"), "{text}");
        assert!(text.contains("20000"), "{text}");
    }

    #[test]
    fn a_start_that_does_not_get_ready_is_explained() {
        let first = Start { unready: Some("mesh: nothing".into()), ..Start::default() };
        let text = table(&[Outcome { nodes: 5, first, ..Outcome::default() }]);
        assert!(text.contains("5 Nodes, first start, not ready: mesh: nothing"), "{text}");
    }
}
