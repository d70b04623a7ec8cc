//! `selvedge uninstall`: takes Selvedge off this node, or off the whole cluster.

mod cluster;
mod node;

use std::time::Duration;

use super::{Exit, Failure, Output};
use crate::cluster::Access;

/// Options of `selvedge uninstall`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Without --yes it says what it would remove, and removes nothing.

From the cluster: ends the agents and tunnels, cleans every node by a DaemonSet of short life, then removes
the admission policy, the annotations selvedge.dev/* of the Nodes, the rights and the namespace. Broken off,
it goes on when it is run again.

From a node (--node): removes the CNI configuration, network devices of link group 51830 (pods lose their
network), routes and rules of protocol 83, nftables tables, /run/selvedge. Stop the agent and the tunnel
first. The node's annotations (selvedge.dev/...) stay on its Node object.

Exit codes: 0 nothing is left, 1 something could not be removed, 3 there is something to remove, or nodes have
to be cleaned by hand, or Selvedge is in another namespace, 4 the API server does not answer.")]
pub(super) struct Args {
    /// Take Selvedge off this node alone, without asking the cluster.
    #[arg(long)]
    node: bool,
    /// Do it, without asking.
    #[arg(long)]
    yes: bool,
    /// Remove the keys and records and the CNI plugin's program too. A node that comes back after this has a new
    /// identity.
    #[arg(long)]
    purge: bool,
    /// The image that cleans the nodes, in place of the agent's.
    #[arg(long, value_name = "IMAGE", conflicts_with = "node")]
    image: Option<String>,
    /// How long each step may take.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = super::duration::parse)]
    timeout: Duration,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table", conflicts_with = "node")]
    output: Output,
    #[command(flatten)]
    access: Access,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    if args.node { node::run(args) } else { cluster::run(args) }
}
