//! `selvedge services`: the Services that this node serves, and what becomes of a packet.

mod list;
mod trace;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Exit, Failure, Output, table};
use crate::local::{Client, ClientError, StatusCode, encode};
use crate::paths::Paths;
use crate::service::object::ServiceName;
use crate::service::show::{self, ServiceList, ShownService};
use crate::service::trace::{Packet, Trace, TraceVerdict};

/// Options of `selvedge services`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge services
  selvedge services default/web kube-system/kube-dns
  selvedge services --output json | jq '.conflicts'
  selvedge services trace 10.244.1.7 10.96.0.10:53/udp

Without names, the table shows the first few endpoints of each port.

Exit codes: 0 all is well, 3 several Services claim one address, a Service that
was named is not served here, the kernel's table is not what it should be, or
another proxy serves Services, 4 the agent does not answer.")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    /// Show these Services; all by default.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = name)]
    names: Vec<ServiceName>,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say what becomes of the first packet of a connection on this node.
    Trace(TraceArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge services trace 10.244.1.7 10.96.0.10:53/udp
  selvedge services trace 203.0.113.9 192.0.2.1:30080
  selvedge services trace fd00:10:244:1::7 '[fd00:10:96::a]:53/udp' --output json

The answer follows from what the agent has put into the kernel's table of
Services; no packet is sent. Ask on the node where the packet is first seen:
that of the pod that sends it, or the one whose address it goes to.

Exit codes: 0 a Service serves it, 2 SOURCE or TARGET is wrong, 3 it is rejected,
dropped or refused, no Service has this target, or another proxy serves
Services, 4 the agent does not answer.")]
struct TraceArgs {
    /// Address that sends the packet: of a pod of this node, of this node, or any other, which is outside.
    source: String,
    /// Where it goes: ADDRESS:PORT, with /tcp, /udp or /sctp behind it. TCP by default.
    target: String,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

fn name(text: &str) -> Result<ServiceName, String> {
    show::parse_name(text).ok_or_else(|| "it is not NAMESPACE/NAME".into())
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.action {
        Some(Action::Trace(args)) => run_trace(args),
        None => run_list(args),
    }
}

fn run_list(args: &Args) -> Result<Exit, Failure> {
    let names: Vec<String> = args.names.iter().map(ToString::to_string).collect();
    let path = match names.is_empty() {
        true => "/v1/services".to_owned(),
        false => format!("/v1/services/{}", encode(&names.join(","))),
    };
    let list: ServiceList = ask(&path)?;
    print(&list, args.output, |list| list::render(list, !names.is_empty()))?;
    let gets_all = |service: &ShownService| service.ports.iter().all(|port| port.withheld.is_empty());
    let is_complete =
        list.absent.is_empty() && list.conflicts.is_empty() && list.services.iter().all(gets_all);
    let is_well = list.enabled && list.problem.is_none() && is_complete;
    Ok(if is_well { Exit::Ok } else { Exit::Findings })
}

fn run_trace(args: &TraceArgs) -> Result<Exit, Failure> {
    let packet = Packet::parse(&args.source, &args.target);
    let packet = packet.map_err(|error| Failure::new(Exit::Usage, anyhow::Error::msg(error)))?;
    let (source, target) = (packet.source.to_string(), packet.target.to_string());
    let trace: Trace = ask(&format!("/v1/services/trace/{}/{}", encode(&source), encode(&target)))?;
    print(&trace, args.output, trace::render)?;
    Ok(if trace.verdict == TraceVerdict::Served { Exit::Ok } else { Exit::Findings })
}

fn ask<T: DeserializeOwned>(path: &str) -> Result<T, Failure> {
    let answer = super::block_on(Client::new(&Paths::from_env().agent_socket()).get(path));
    answer.map_err(|error| {
        let exit = match &error {
            ClientError::Refused { status: StatusCode::BAD_REQUEST, .. } => Exit::Usage,
            ClientError::Refused { .. } | ClientError::Malformed { .. } => Exit::Failed,
            _ => Exit::Unreachable,
        };
        Failure::new(exit, anyhow::Error::new(error).context("cannot ask the agent for its Services"))
    })
}

fn print<T: Serialize>(answer: &T, output: Output, render: impl Fn(&T) -> String) -> Result<(), Failure> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(answer).map_err(anyhow::Error::new)? + "\n",
        Output::Table => render(answer),
    };
    super::print(&text)
}

/// Widths of the columns of a block, behind two spaces: 80 together.
const LABEL: usize = 14;
const TEXT: usize = 64;

/// A line of a block: `label` and what is about it, on as many lines as `items` need. An item is never broken.
fn field(label: &str, items: &[String]) -> String {
    let mut lines = vec![String::new()];
    for (index, item) in items.iter().enumerate() {
        let item = if index + 1 < items.len() { format!("{item},") } else { item.clone() };
        let line = lines.last_mut().expect("there is a line from the start");
        let used = line.chars().count();
        if used == 0 {
            line.push_str(&item);
        } else if used + 1 + item.chars().count() <= TEXT {
            *line += &format!(" {item}");
        } else {
            lines.push(item);
        }
    }
    block(label, &lines)
}

/// The same of a sentence.
fn sentence(label: &str, text: &str) -> String {
    block(label, &table::wrap(text, TEXT))
}

fn block(label: &str, lines: &[String]) -> String {
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let label = if index == 0 { label } else { "" };
        text += format!("  {label:<LABEL$}{line}").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from(["services"].iter().chain(words)).map(|line| line.args)
    }

    #[test]
    fn names_and_trace_are_told_apart() {
        let args = parse(&["default/web", "kube-system/dns", "--output", "json"]).unwrap();
        assert_eq!((args.names.len(), args.output, args.action.is_none()), (2, Output::Json, true));
        let args = parse(&["trace", "10.0.0.1", "10.96.0.1:80", "-o", "json"]).unwrap();
        let Some(Action::Trace(trace)) = args.action else { panic!("{args:?}") };
        assert_eq!((trace.target.as_str(), trace.output), ("10.96.0.1:80", Output::Json));
        assert!(parse(&[]).unwrap().names.is_empty());
        for wrong in
            [&["web"][..], &["default/web", "trace", "10.0.0.1", "10.96.0.1:80"], &["trace", "10.0.0.1"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_wrong_packet_is_the_command_lines_fault() {
        let args =
            TraceArgs { source: "10.0.0.1".into(), target: "[fd00::1]:80".into(), output: Output::Table };
        let failure = run_trace(&args).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("address family"), "{failure}");
    }

    #[test]
    fn items_are_never_broken() {
        let items: Vec<String> =
            (0..3).map(|number| format!("[2001:db8:1111:2222:3333:4444:5555:{number}]:8080 local")).collect();
        let text = field("endpoints", &items);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(field("policy", &["a".into(), "b".into()]), "  policy        a, b\n");
    }
}
