//! `status`: nodes, pods, links.

use std::fmt::Display;
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use super::{Failure, Name};
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

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Tables for people
    Table,
    /// JSON for programs
    Json,
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
    let nodes = status.nodes.iter().map(|node| {
        let ready = if node.ready { "yes".to_owned() } else { "no".to_owned() };
        let pid = |pid: Option<i32>| pid.map_or_else(|| "down".to_owned(), |pid| pid.to_string());
        vec![
            node.name.clone(),
            ready,
            pid(node.tunnel),
            pid(node.agent),
            join(&node.addresses),
            join(&node.pod_cidrs),
        ]
    });
    table(&["NODE", "READY", "TUNNEL", "AGENT", "ADDRESSES", "POD CIDRS"], nodes.collect());
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
    table(&["LINK", "FRAMES", "MIB", "NOT CAPTURED", "LEAKS"], links.collect());
    for link in &status.links {
        if let Some(example) = &link.example {
            line(&format!("{}: {example}", link.name));
        }
    }
}

pub(super) fn print_pods(pods: &[PodStatus]) {
    let rows = pods.iter().map(|pod| {
        let name = if pod.namespace == "default" {
            pod.name.clone()
        } else {
            format!("{}/{}", pod.namespace, pod.name)
        };
        vec![name, pod.node.clone(), pod.phase.clone(), join(&pod.addresses)]
    });
    table(&["POD", "NODE", "PHASE", "ADDRESSES"], rows.collect());
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

fn join<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn table(head: &[&str], rows: Vec<Vec<String>>) {
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = all[0].len();
    let width = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in &all {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn line(text: &str) {
    println!("{text}");
}
