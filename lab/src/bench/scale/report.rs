//! The outcome as a table: a row for each figure, a column for each number of Nodes, at most 80 characters wide.

use std::collections::BTreeSet;

use super::{Delays, Outcome, Rest, Served, Start};

/// Width that a terminal has at least.
const WIDTH: usize = 80;
/// For what was not measured.
const NONE: &str = "-";

type Row = (String, Vec<String>);

/// The table, in Markdown; as many tables below each other as the width asks for.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> String {
    let rows = rows(outcomes);
    let label = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let cell = rows.iter().flat_map(|(_, cells)| cells).map(String::len).max().unwrap_or(0);
    let columns = (WIDTH.saturating_sub(label + 4) / (cell + 3)).max(1);
    let first: Vec<usize> = (0..outcomes.len()).step_by(columns).collect();
    let part = |&from: &usize| {
        let cells = |row: &Row| row.1.iter().skip(from).take(columns).cloned().collect::<Vec<_>>();
        let lines = rows.iter().enumerate().map(|(index, row)| {
            let cells: Vec<String> = cells(row).iter().map(|text| format!(" {text:>cell$} |")).collect();
            let rule = format!(
                "|{}|{}\n",
                "-".repeat(label + 2),
                format!("{}:|", "-".repeat(cell + 1)).repeat(cells.len())
            );
            let rule = if index == 0 { rule.as_str() } else { "" };
            format!("| {:label$} |{}\n{rule}", row.0, cells.concat())
        });
        lines.collect::<String>()
    };
    first.iter().map(part).collect::<Vec<_>>().join("\n") + &notes(outcomes)
}

fn notes(outcomes: &[Outcome]) -> String {
    let unready = outcomes.iter().flat_map(|outcome| {
        let starts = [("first start", Some(&outcome.first)), ("restart", outcome.restart.as_ref())];
        let why = |(which, start): (&str, Option<&Start>)| {
            let why = start?.unready.as_ref()?;
            Some(format!("\n{} Nodes, {which}, not ready: {why}\n", outcome.nodes))
        };
        starts.into_iter().filter_map(why).collect::<Vec<_>>()
    });
    let seen_by: BTreeSet<&str> = outcomes.iter().map(|outcome| outcome.seen_by.as_str()).collect();
    let seen_by: Vec<&str> = seen_by.into_iter().filter(|name| !name.is_empty()).collect();
    let looked = match seen_by.is_empty() {
        true => String::new(),
        false => format!("\nThe tunnel's peers were looked at by: {}.\n", seen_by.join(", ")),
    };
    unready.collect::<String>() + &looked
}

fn rows(outcomes: &[Outcome]) -> Vec<Row> {
    let row = |label: &str, cell: &dyn Fn(&Outcome) -> Option<String>| {
        let cells = outcomes.iter().map(|outcome| cell(outcome).unwrap_or_else(|| NONE.to_owned()));
        (label.to_owned(), cells.collect())
    };
    let mut rows = vec![
        row("Nodes", &|outcome| Some(outcome.nodes.to_string())),
        row("heartbeats a second", &|outcome| number(outcome.heartbeats_a_second, 1)),
    ];
    let first: StartOf = |outcome| Some(&outcome.first);
    let restart: StartOf = |outcome| outcome.restart.as_ref();
    for (what, start) in [("first start", first), ("restart with records", restart)] {
        rows.push(row(&format!("{what}: ready after, s"), &|outcome| number(start(outcome)?.seconds?, 2)));
        rows.push(row("  CPU of the agent, s", &|outcome| number(start(outcome)?.agent_cpu_seconds, 2)));
        rows.push(row("  peak memory of the agent, MiB", &|outcome| mib(start(outcome)?.agent_peak_kib)));
        rows.push(row("  served by the API server, MiB", &|outcome| {
            number(bytes(start(outcome)?.served.values()) / f64::from(1 << 20), 1)
        }));
        let kinds: BTreeSet<&String> =
            outcomes.iter().filter_map(start).flat_map(|s| s.served.keys()).collect();
        rows.extend(kinds.into_iter().map(|kind| {
            row(&format!("  requests: {kind}"), &|outcome| {
                Some(start(outcome)?.served.get(kind).map_or(0, |served| served.requests).to_string())
            })
        }));
    }
    let a_minute = |value: f64, rest: &Rest| value * 60.0 / rest.seconds;
    for (whose, cpu) in
        [("agent", (|rest| rest.agent_cpu_seconds) as CpuOf), ("tunnel", |rest| rest.tunnel_cpu_seconds)]
    {
        let of = |outcome: &Outcome| outcome.rest.as_ref().map(|rest| a_minute(cpu(rest), rest));
        rows.push(row(&format!("at rest: CPU of the {whose}, s a minute"), &|outcome| {
            number(of(outcome)?, 2)
        }));
        rows.push(row("  in % of a core", &|outcome| number(of(outcome)? / 0.6, 1)));
    }
    rows.extend([
        row("  memory of the agent, MiB", &|outcome| mib(outcome.rest.as_ref()?.agent_kib)),
        row("  memory of the tunnel, MiB", &|outcome| mib(outcome.rest.as_ref()?.tunnel_kib)),
        row("  requests a minute, all kinds", &|outcome| {
            let rest = outcome.rest.as_ref()?;
            let requests: u64 = rest.served.values().map(|served| served.requests).sum();
            number(a_minute(f64::from(u32::try_from(requests).unwrap_or(u32::MAX)), rest), 1)
        }),
        row("  served by the API server, KiB a minute", &|outcome| {
            let rest = outcome.rest.as_ref()?;
            number(a_minute(bytes(rest.served.values()) / 1024.0, rest), 0)
        }),
    ]);
    let moves: DelaysOf = |outcome| outcome.moves.as_ref();
    let joins: DelaysOf = |outcome| outcome.joins.as_ref();
    for (what, delays) in [("endpoints changed", moves), ("Node joined", joins)] {
        rows.extend([
            row(&format!("{what}: in the tunnel, p50, ms"), &|outcome| {
                number(delays(outcome)?.p50_millis, 0)
            }),
            row("  p99, ms", &|outcome| number(delays(outcome)?.p99_millis, 0)),
            row("  of, not arrived", &|outcome| {
                let delays = delays(outcome)?;
                Some(format!("{}, {}", delays.changes + delays.missing, delays.missing))
            }),
        ]);
    }
    rows.push(row("peak memory of the agent since, MiB", &|outcome| mib(outcome.agent_peak_kib)));
    rows
}

type StartOf = fn(&Outcome) -> Option<&Start>;
type DelaysOf = fn(&Outcome) -> Option<&Delays>;
type CpuOf = fn(&Rest) -> f64;

fn number(value: f64, digits: usize) -> Option<String> {
    Some(format!("{value:.digits$}"))
}

/// None for 0: not measured.
fn mib(kib: u64) -> Option<String> {
    (kib > 0).then(|| (kib >> 10).to_string())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn bytes<'a>(served: impl Iterator<Item = &'a Served>) -> f64 {
    served.map(|served| served.bytes).sum::<u64>() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(nodes: u32) -> Outcome {
        let served = [("list nodes".to_owned(), Served { requests: 2, bytes: 3 << 20 })];
        let start = Start { seconds: Some(1.5), served: served.into(), ..Start::default() };
        let delays = Delays { changes: 99, missing: 1, p50_millis: 20.4, ..Delays::default() };
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
        assert!(row("CPU of the agent, s a minute").contains(" 0.60 |"), "{text}");
        assert!(row("in % of a core").contains(" 1.0 |"), "{text}");
        assert!(row("restart with records").contains(" - |"), "{text}");
        assert!(row("of, not arrived").contains(" 100, 1 |"), "{text}");
        assert!(text.contains("20000"), "{text}");
    }

    #[test]
    fn what_was_not_ready_is_named() {
        let first = Start { unready: Some("mesh: nothing".into()), ..Start::default() };
        let text = table(&[Outcome { nodes: 5, first, ..Outcome::default() }]);
        assert!(text.contains("5 Nodes, first start, not ready: mesh: nothing"), "{text}");
    }
}
