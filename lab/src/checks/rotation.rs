//! The keys of all nodes of a lab are rotated, through its API server, while pods of all nodes ping each other.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Failed, Report, Short, check};
use crate::lab::Lab;
use crate::process;
use crate::traffic::{Ping, PingReport};

const EVERY: Duration = Duration::from_millis(10);
/// For the first answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the check and reports it.
pub fn rotation(lab: &Lab, report: &mut dyn FnMut(Report<'_>)) {
    check("keys of all nodes rotated, ping", report, || rotate(lab));
}

fn rotate(lab: &Lab) -> Result<String, Failed> {
    let mut pods = Vec::new();
    for node in lab.nodes() {
        let name = format!("rotation-{}", node.name());
        let (ns, addresses) = lab.create_pod(&name, node.name(), &[])?;
        pods.push((name, ns, addresses));
    }
    let mut pings = Vec::new();
    for (from, ns, _) in &pods {
        for (_, _, addresses) in pods.iter().filter(|(to, ..)| to != from) {
            for to in addresses {
                pings.push((format!("{from} to {to}"), Ping::start(ns, *to, EVERY, lab.canary())?));
            }
        }
    }
    process::wait_for("the pods to be reached", PATIENCE, || {
        pings.iter().all(|(_, ping)| ping.received() > 0)
    })?;
    let begun = Instant::now();
    let rotated = ask(lab);
    let took = begun.elapsed();
    let reports: Vec<(String, PingReport)> =
        pings.into_iter().map(|(flow, ping)| (flow, ping.stop())).collect();
    pods.iter().try_for_each(|(name, ..)| lab.delete_pod(name))?;
    rotated?;
    let sent: u64 = reports.iter().map(|(_, report)| report.sent).sum();
    if let Some((flow, report)) = reports.iter().find(|(_, report)| report.lost() > 0) {
        return Err(Failed(format!("{flow}: {} of {} packets lost", report.lost(), report.sent)));
    }
    let nodes = lab.nodes().len();
    Ok(format!("{nodes} nodes in {}; 0 of {sent} packets lost", Short(took)))
}

/// As an operator does, with a kubeconfig.
fn ask(lab: &Lab) -> Result<(), Failed> {
    let mut command = Command::new(&lab.options().binary);
    command.args([
        "keys",
        "rotate",
        "--all",
        "--yes",
        "--wait",
        "--reason",
        "check of the lab",
        "--kubeconfig",
    ]);
    let output = command.arg(lab.kubeconfig()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Failed(format!("cannot run selvedge: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failed(
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )),
    }
}
