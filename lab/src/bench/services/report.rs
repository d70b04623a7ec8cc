//! The figures as two Markdown tables of at most 80 characters: what was measured, and the goals.

use super::goal::{self, figure};
use super::outcome::{InCluster, Outcome, Rate};
use super::sample::Sample;

/// Few values have no 99th percentile.
const MANY: usize = 100;

/// The tables.
#[must_use]
pub fn table(outcome: &Outcome) -> String {
    let mut rows = Rows(vec![["", "median", "spread", "p99"].map(str::to_owned)]);
    for cold in &outcome.cold {
        rows.add(format!("cold sync, {}, ms", cold.services), &cold.millis);
        rows.add("  / the same bytes raw", &cold.ratio);
    }
    for change in &outcome.change {
        rows.add(format!("change, {}, us", change.services), &micros(&change.millis));
        rows.add("  / the same bytes raw", &change.ratio);
    }
    for resync in &outcome.resync {
        rows.add(format!("resync, {}, ms", resync.services), &resync.millis);
    }
    if let Some(connect) = &outcome.connect {
        for (services, millis) in connect.services.iter().zip(&connect.millis) {
            rows.add(format!("connect, {services}, us"), &micros(millis));
        }
        rows.add(format!("  {} / {}", connect.services[1], connect.services[0]), &connect.ratio);
    }
    if let Some(stream) = &outcome.stream {
        rows.add("stream, ClusterIP, Gbit/s", &stream.service);
        rows.add("stream, direct, Gbit/s", &stream.direct);
        rows.add("  ClusterIP / direct", &stream.ratio);
    }
    outcome.clusters.iter().for_each(|cluster| rows.add_cluster(cluster));
    let machine = &outcome.machine;
    let head = format!(
        "# Services: Selvedge beside kube-proxy (nftables)\n\n{} cores, kernel {}, load average before: {}.\n\
         Numbers in labels are Services with 2 endpoints each. Spread: p10 to p90;\n\
         of fewer than 20 values least to greatest.\n\n",
        machine.cores, machine.kernel, machine.load
    );
    head + &rows.render() + "\n" + &goals(outcome)
}

fn goals(outcome: &Outcome) -> String {
    let head = ["goal", "measured", "met"].map(str::to_owned);
    let goals = goal::all(outcome)
        .into_iter()
        .map(|goal| [goal.goal, goal.measured, if goal.met { "yes" } else { "MISSED" }.to_owned()]);
    render(&[head].into_iter().chain(goals).collect::<Vec<_>>())
}

/// The first is the head.
struct Rows(Vec<[String; 4]>);

impl Rows {
    fn add(&mut self, label: impl Into<String>, sample: &Sample) {
        let spread = format!("{} to {}", figure(sample.low), figure(sample.high));
        let p99 = if sample.count < MANY { "-".to_owned() } else { figure(sample.p99) };
        self.0.push([label.into(), figure(sample.median), spread, p99]);
    }

    fn add_one(&mut self, label: &str, value: f64) {
        self.0.push([label.into(), figure(value), "-".into(), "-".into()]);
    }

    fn add_cluster(&mut self, cluster: &InCluster) {
        for start in &cluster.starts {
            let (services, program) = (cluster.services, &start.program);
            self.add(format!("start, {services}, s: {program}"), &start.seconds);
            self.add("  CPU, s", &start.cpu_seconds);
            self.add("  peak memory, MB", &start.peak_megabytes);
        }
        for follow in &cluster.follow {
            let (services, program) = (cluster.services, &follow.program);
            self.add(format!("to packet, {services}, ms: {program}"), &follow.millis);
        }
        cluster.rate.iter().for_each(|rate| self.add_rate(rate));
    }

    fn add_rate(&mut self, rate: &Rate) {
        self.add_one("changes per second", rate.per_second);
        self.add("  lag, ms", &rate.lag_millis);
        self.add("  in the first third", &rate.lag_early_millis);
        self.add("  in the last third", &rate.lag_late_millis);
        self.add_one("  transactions per second", rate.transactions_per_second);
        self.add_one("  CPU of the agent, % of a core", rate.agent_percent);
        self.add_one("  peak memory of the agent, MB", rate.peak_megabytes);
    }

    fn render(&self) -> String {
        render(&self.0)
    }
}

/// The first row is the head; the first column begins at the left, the others end at the right.
fn render<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(3);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cell = |(column, text): (usize, &String)| {
            let width = widths[column];
            if column == 0 { format!("| {text:width$} ") } else { format!("| {text:>width$} ") }
        };
        row.iter().enumerate().map(cell).collect::<String>() + "|\n"
    };
    let rule = |(column, width): (usize, &usize)| {
        if column == 0 {
            format!("|{}", "-".repeat(width + 2))
        } else {
            format!("|{}:", "-".repeat(width + 1))
        }
    };
    let rule = widths.iter().enumerate().map(rule).collect::<String>() + "|\n";
    let mut lines = rows.iter().map(line);
    lines.next().unwrap_or_default() + &rule + &lines.collect::<String>()
}

fn micros(millis: &Sample) -> Sample {
    let Sample { count, low, median, high, p99 } = *millis;
    Sample { count, low: low * 1e3, median: median * 1e3, high: high * 1e3, p99: p99 * 1e3 }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Change, Cold, Connect, Follow, Resync, Start, Stream};
    use super::*;

    fn outcome() -> Outcome {
        let wide = Sample { count: 500, low: 1234.0, median: 1234.0, high: 1234.0, p99: 1234.0 };
        let cold = Cold { services: 45_000, millis: wide, raw_millis: wide, ratio: wide };
        let change = Change { services: 45_000, millis: wide, ratio: wide, ..Change::default() };
        let start = Start { program: "kube-proxy".into(), seconds: wide, ..Start::default() };
        let follow = Follow { program: "kube-proxy".into(), millis: wide };
        let ours = Follow { program: "selvedge".into(), millis: wide };
        let rate = Rate { lag_millis: wide, ..Rate::default() };
        Outcome {
            cold: vec![cold],
            change: vec![change],
            resync: vec![Resync { services: 45_000, millis: wide, ..Resync::default() }],
            connect: Some(Connect { services: [10, 30_000], millis: [wide; 2], ratio: wide }),
            stream: Some(Stream::default()),
            clusters: vec![InCluster {
                services: 45_000,
                starts: vec![start],
                follow: vec![follow, ours],
                rate: Some(rate),
            }],
            ..Outcome::default()
        }
    }

    #[test]
    fn no_line_is_too_long_and_every_figure_is_there() {
        let text = table(&outcome());
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        for label in
            ["cold sync, 45000, ms", "to packet, 45000, ms: kube-proxy", "  in the last third", "MISSED"]
        {
            assert!(text.contains(label), "{label}: {text}");
        }
        assert!(text.contains("| 1234000 |"), "{text}");
    }

    #[test]
    fn few_values_have_no_percentile() {
        let mut rows = Rows(vec![["", "a", "b", "c"].map(str::to_owned)]);
        rows.add("x", &Sample { count: 3, low: 1.0, median: 2.0, high: 3.0, p99: 3.0 });
        assert!(rows.render().ends_with("| x   | 2.00 | 1.00 to 3.00 |   - |\n"), "{}", rows.render());
    }
}
