//! The reference pages that are made from the program itself: `docs/reference/cli.md`, `config.md` and
//! `metrics.md`. The tests fail when
//! a page is not what the program says; with `UPDATE_REFERENCE=1` they write it.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::observe::metrics::{Controller, Dropped, Metrics, Reason, Snapshot};
use crate::observe::proxy::Policy;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares or writes a page.
fn page(name: &str, text: &str) {
    let path = root().join("docs/reference").join(name);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/reference/{name} is not what the program says: run `make reference` and commit the page"
    );
}

#[test]
fn the_command_line() {
    let mut text = String::from(
        "# Command line\n\nMade from the program by `make reference`. Exit codes: 0 done, 1 failed, 2 the command line or the \
         configuration is\nwrong, 3 it worked and found something, 4 what it talks to does not answer.\n",
    );
    let mut command = crate::cli::command().term_width(100);
    command.build();
    verbs(&command, &mut text);
    page("cli.md", &text);
}

/// Every verb below `command` that is not hidden, with its long help.
fn verbs(command: &clap::Command, text: &mut String) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
        let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name()).to_owned();
        let help = verb.clone().render_long_help().to_string();
        let help: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
        write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n")).unwrap();
        verbs(verb, text);
    }
}

#[test]
fn the_metrics() {
    let mut text = String::from(
        "# Metrics\n\nMade from the program by `make reference`. OpenMetrics text at `/metrics` of the agent, \
         127.0.0.1:51831 unless\n`agent.metricsAddress` says otherwise.\n\n| metric | type | what |\n|---|---|---|\n",
    );
    let tunnel = std::fs::read_to_string(root().join("tests/compatibility/0.1/device-status.json")).unwrap();
    let tunnel = serde_json::from_str(&tunnel).unwrap();
    let dropped =
        vec![Dropped { table: "selvedge".into(), counter: "plaintext".into(), packets: 0, bytes: 0 }];
    let metrics = Metrics::default();
    // One that was never counted is not told of.
    let part = Controller { controller: "guard".into() };
    let _ = metrics.reconcile_errors.get_or_create(&part);
    let _ = metrics.changes.get_or_create(&part);
    let reason = Reason { reason: "any".into() };
    let policy = Policy { traffic_policy: String::new() };
    let _ = metrics.proxy.no_local_endpoints.get_or_create(&policy);
    let _ = metrics.refused_nodes.get_or_create(&reason);
    let _ = metrics.refusals.get_or_create(&reason);
    let encoded = metrics.encode(Snapshot { tunnel: Some(tunnel), dropped }).unwrap();
    let mut metrics = std::collections::BTreeMap::<&str, (&str, &str)>::new();
    for line in encoded.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(help), _) => metrics.entry(name).or_default().1 = help,
            (Some("#"), Some("TYPE"), Some(name), Some(kind), _) => metrics.entry(name).or_default().0 = kind,
            _ => {}
        }
    }
    for (name, (kind, help)) in metrics {
        writeln!(text, "| `{name}` | {kind} | {} |", help.trim_end_matches('.')).unwrap();
    }
    page("metrics.md", &text);
}

#[test]
fn the_configuration() {
    let file = std::fs::read_to_string(root().join("deploy/base/config.toml")).unwrap();
    let text = format!(
        "# Configuration\n\nThe file as it is shipped, `deploy/base/config.toml`; written here by `make reference`.\n\n\
         ```toml\n{}\n```\n",
        file.trim_end()
    );
    page("config.md", &text);
}
