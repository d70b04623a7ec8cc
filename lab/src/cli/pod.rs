//! `pod create`, `pod delete`, `pod list`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failure, Name, Output, status};
use crate::control::{self, Answer, Request};
use crate::state::Folder;

/// Options of `pod`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    name: Name,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a pod and wait until it runs; a server in it answers over HTTP and UDP with the source it saw
    Create {
        /// Name of the pod
        pod: String,
        /// Node to run on; the emptiest by default
        #[arg(long)]
        node: Option<String>,
        /// Port of its server; several make several containers
        #[arg(long = "port", default_values_t = [crate::sandbox::PORT])]
        ports: Vec<u16>,
    },
    /// Delete a pod and wait until it is gone
    Delete {
        /// Name of the pod
        pod: String,
    },
    /// List pods
    List {
        /// How to print
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
    },
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let socket = Folder::open(&args.name.name)?.socket();
    match &args.verb {
        Verb::Create { pod, node, ports } => {
            let objects = vec![object(pod, node.as_deref(), ports)];
            control::ask(&socket, &Request::Create { objects })?;
            list(&socket, Output::Table, |name| name == pod)
        }
        Verb::Delete { pod } => {
            control::ask(&socket, &Request::DeletePod { name: pod.clone() })?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::List { output } => list(&socket, *output, |_| true),
    }
}

fn object(name: &str, node: Option<&str>, ports: &[u16]) -> Value {
    let container = |(number, port): (usize, &u16)| json!({"name": format!("c{}", number + 1), "image": "lab", "ports": [{"containerPort": port}]});
    let containers: Vec<Value> = ports.iter().enumerate().map(container).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node.unwrap_or_default(), "containers": containers},
    })
}

fn list(
    socket: &std::path::Path,
    output: Output,
    wanted: impl Fn(&str) -> bool,
) -> Result<ExitCode, Failure> {
    let (answer, _) = control::ask(socket, &Request::Status)?;
    let Answer::Status { mut status } = answer else {
        return Err(Failure::new("the lab answered something else"));
    };
    status.pods.retain(|pod| wanted(&pod.name));
    match output {
        Output::Json => status::print_json(&status.pods)?,
        Output::Table => status::print_pods(&status.pods),
    }
    Ok(ExitCode::SUCCESS)
}
