//! What the project wants of these figures.

use super::outcome::{Change, Goal, InCluster, Outcome};

/// Program that the goals are for.
const OURS: &str = "selvedge";
/// Cold sync: Services and seconds.
const COLD: [(u32, f64); 2] = [(10_000, 0.2), (45_000, 0.8)];
/// A change, in milliseconds.
const CHANGE: f64 = 1.0;
/// A change with the most Services as a multiple of one with the fewest.
const GROWTH: f64 = 1.3;
/// As a multiple of the same bytes written raw.
const RAW: f64 = 5.0;
/// From a write to the first packet, in milliseconds.
const FOLLOW: f64 = 50.0;
/// `connect()` with many Services as a multiple of that with few.
const CONNECT: f64 = 1.1;
/// A stream through a cluster IP as a multiple of a direct one.
const STREAM: f64 = 0.97;
/// Services and MB.
const MEMORY: (u32, f64) = (10_000, 100.0);
/// The lag in the end as a multiple of that in the beginning: more is a backlog that grows.
const BACKLOG: f64 = 2.0;

impl Goal {
    fn at_most(what: &str, limit: f64, value: f64, unit: &str) -> Self {
        let goal = format!("{what}: at most {limit}{unit}");
        Self { goal, measured: format!("{}{unit}", figure(value)), met: value <= limit }
    }
}

/// All goals that something was measured for.
#[must_use]
pub fn all(outcome: &Outcome) -> Vec<Goal> {
    let mut goals = Vec::new();
    for cold in &outcome.cold {
        let (services, name) = (cold.services, format!("cold sync of {} x 2", cold.services));
        if let Some((_, limit)) = COLD.iter().find(|(of, _)| *of == services) {
            goals.push(Goal::at_most(&name, *limit, cold.millis.median / 1e3, " s"));
            goals.push(Goal::at_most(&format!("{name} / raw netlink"), RAW, cold.ratio.median, ""));
        }
    }
    changes(&outcome.change, &mut goals);
    for resync in &outcome.resync {
        let name = format!("batches of a resync, {} Services", resync.services);
        goals.push(Goal::at_most(&name, 0.0, number(resync.batches), ""));
    }
    if let Some(connect) = &outcome.connect {
        let [few, many] = connect.services;
        let name = format!("connect, {many} / {few} Services");
        goals.push(Goal::at_most(&name, CONNECT, connect.ratio.median, ""));
    }
    if let Some(stream) = &outcome.stream {
        goals.push(Goal {
            goal: format!("stream, ClusterIP / direct: at least {STREAM}"),
            measured: figure(stream.ratio.median),
            met: stream.ratio.median >= STREAM,
        });
    }
    outcome.clusters.iter().for_each(|cluster| in_cluster(cluster, &mut goals));
    goals
}

fn changes(changes: &[Change], goals: &mut Vec<Goal>) {
    for change in changes {
        let name = format!("change, {} Services", change.services);
        goals.push(Goal::at_most(&format!("{name}, p99"), CHANGE, change.millis.p99, " ms"));
        goals.push(Goal::at_most(&format!("{name} / raw netlink"), RAW, change.ratio.median, ""));
    }
    let by_size = |change: &&Change| change.services;
    let ends = (changes.iter().min_by_key(by_size), changes.iter().max_by_key(by_size));
    if let (Some(few), Some(many)) = ends
        && few.services < many.services
    {
        let name = format!("change, {} / {} Services", many.services, few.services);
        goals.push(Goal::at_most(&name, GROWTH, many.millis.median / few.millis.median, ""));
    }
    if !changes.is_empty() {
        let requests = changes.iter().map(|change| change.requests).sum();
        goals.push(Goal::at_most("dumps while backends change", 0.0, number(requests), ""));
    }
}

fn in_cluster(cluster: &InCluster, goals: &mut Vec<Goal>) {
    let services = cluster.services;
    for start in cluster.starts.iter().filter(|start| start.program == OURS && services == MEMORY.0) {
        let name = format!("memory of the agent, {services} x 2");
        goals.push(Goal::at_most(&name, MEMORY.1, start.peak_megabytes.high, " MB"));
    }
    for follow in cluster.follow.iter().filter(|follow| follow.program == OURS) {
        let name = format!("write to first packet, {services}, p99");
        goals.push(Goal::at_most(&name, FOLLOW, follow.millis.p99, " ms"));
    }
    if let Some(rate) = &cluster.rate {
        let growth = rate.lag_late_millis.median / rate.lag_early_millis.median;
        let name = format!("{:.0} changes/s, lag in the end / begin", rate.per_second);
        goals.push(Goal::at_most(&name, BACKLOG, growth, ""));
    }
}

/// Three digits that count.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A count as a figure.
fn number(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Cold, Follow};
    use super::super::sample::Sample;
    use super::*;

    fn sample(median: f64, p99: f64) -> Sample {
        Sample { count: 100, low: median, median, high: median, p99 }
    }

    fn met(outcome: &Outcome) -> Vec<(String, bool)> {
        all(outcome).into_iter().map(|goal| (goal.goal, goal.met)).collect()
    }

    #[test]
    fn goals_are_for_the_sizes_they_name() {
        let cold = |services, millis| Cold {
            services,
            millis: sample(millis, millis),
            ratio: sample(2.0, 9.0),
            ..Cold::default()
        };
        let outcome = Outcome { cold: vec![cold(10, 900.0), cold(10_000, 210.0)], ..Outcome::default() };
        let expected = [
            ("cold sync of 10000 x 2: at most 0.2 s".to_owned(), false),
            ("cold sync of 10000 x 2 / raw netlink: at most 5".to_owned(), true),
        ];
        assert_eq!(met(&outcome), expected);
    }

    #[test]
    fn growth_is_from_the_fewest_to_the_most() {
        let change = |services, median| Change {
            services,
            millis: sample(median, 0.9),
            ratio: sample(1.0, 1.0),
            ..Change::default()
        };
        let outcome = Outcome {
            change: vec![change(1000, 9.0), change(45_000, 1.4), change(10, 1.0)],
            ..Outcome::default()
        };
        let found = met(&outcome);
        assert!(found.contains(&("change, 45000 / 10 Services: at most 1.3".to_owned(), false)), "{found:?}");
        assert!(found.contains(&("dumps while backends change: at most 0".to_owned(), true)), "{found:?}");
    }

    #[test]
    fn kube_proxy_has_no_goals() {
        let follow = |program: &str, p99| Follow { program: program.into(), millis: sample(1.0, p99) };
        let cluster = InCluster {
            services: 7,
            follow: vec![follow(OURS, 49.0), follow("kube-proxy", 900.0)],
            ..InCluster::default()
        };
        let outcome = Outcome { clusters: vec![cluster], ..Outcome::default() };
        assert_eq!(met(&outcome), [("write to first packet, 7, p99: at most 50 ms".to_owned(), true)]);
    }

    #[test]
    fn figures_have_three_digits() {
        let all = [0.0, 0.0123, 0.9999, 9.999, 12.34, 99.97, 1234.5].map(figure);
        assert_eq!(all, ["0", "0.012", "1.00", "10.0", "12.3", "100", "1234"]);
    }
}
