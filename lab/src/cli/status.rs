//! `status`: nodes, pods, links.

use std::fmt::Display;
use std::process::ExitCode;

use selvedge::cli::table::render;
use serde::Serialize;

use super::{Failure, Name, Output};
use crate::control::{self, Answer, PodStatus, Request, Status};
use crate::state::Folder;

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    name: Name,
    /// How to print
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let folder = Folder::open(&args.name.name)?;
    let (answer, _) = control::ask(&folder.socket(), &Request::Status)?;
    let Answer::Status { status } = answer else {
        return Err(Failure::new("the lab answered something else"));
    };
    match args.output {
        Output::Json => print_json(&status)?,
        Output::Table => print(&status),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Status) {
    let nodes = status.nodes.iter().flat_map(|node| {
        let ready = if node.ready { "yes".to_owned() } else { "no".to_owned() };
        let pid = |pid: Option<i32>| pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string());
        let cells = vec![node.name.clone(), ready, pid(node.tunnel), pid(node.agent)];
        rows(&cells, &[texts(&node.addresses), texts(&node.pod_cidrs)])
    });
    table(&["NODE", "READY", "TUNNEL", "AGENT", "ADDRESSES", "POD CIDRS"], &nodes.collect::<Vec<_>>());
    for node in status.nodes.iter().filter(|node| !node.ready) {
        line(&format!("{}: {}", node.name, node.message.as_deref().unwrap_or_default()));
    }
    line("");
    print_pods(&status.pods);
    line("");
    let links = status.links.iter().map(|link| {
        let mib = link.bytes >> 20;
        let counts = [link.frames, mib, link.drops, link.leaks].map(|count| count.to_string());
        [&[link.name.clone()][..], &counts].concat()
    });
    table(&["LINK", "FRAMES", "MIB", "NOT CAPTURED", "LEAKS"], &links.collect::<Vec<_>>());
    for link in &status.links {
        if let Some(example) = &link.example {
            line(&format!("{}: {example}", link.name));
        }
    }
}

pub(super) fn print_pods(pods: &[PodStatus]) {
    let table_rows = pods.iter().flat_map(|pod| {
        let name = if pod.namespace == "default" {
            pod.name.clone()
        } else {
            format!("{}/{}", pod.namespace, pod.name)
        };
        rows(&[name, pod.node.clone(), pod.phase.clone()], &[texts(&pod.addresses)])
    });
    table(&["POD", "NODE", "PHASE", "ADDRESSES"], &table_rows.collect::<Vec<_>>());
    for pod in pods {
        if let Some(why) = &pod.message {
            line(&format!("{}: {why}", pod.name));
        }
    }
}

pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::new)?);
    Ok(())
}

fn texts<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

fn table(head: &[&str], rows: &[Vec<String>]) {
    line(render(head, rows, &[]).trim_end());
}

/// A row whose last cells are lists: each further item of them stands in a row of its own below.
fn rows(cells: &[String], lists: &[Vec<String>]) -> Vec<Vec<String>> {
    let height = lists.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let below = vec![String::new(); cells.len()];
    let row = |number: usize| {
        let begin = if number == 0 { cells.to_vec() } else { below.clone() };
        let items = lists.iter().map(|list| list.get(number).cloned().unwrap_or_default());
        begin.into_iter().chain(items).collect()
    };
    (0..height).map(row).collect()
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn line(text: &str) {
    println!("{text}");
}
