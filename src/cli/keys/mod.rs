//! `selvedge keys`: the keys of this node or of many, and their rotation.

mod check;
mod fleet;
mod inventory;
mod local;
mod revoke;
mod show;
mod show_fleet;

use std::time::Duration;

use super::{Exit, Failure, Output, duration};
use crate::cluster::Access;
use crate::paths::Paths;

/// Options of `selvedge keys`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys status
  selvedge keys rotate --all --reason 'planned, Q4'
  selvedge keys rotate --all --reason 'planned, Q4' --yes --wait
  selvedge keys rotate --node worker-1 --yes
  selvedge keys abort r-1a2b3c4d

On a node, as root, these ask the agent there by its local socket, and concern
that node. With --node, --all, --kubeconfig or --context, and on any other
machine, they go through the Kubernetes API: who may ask is a matter of RBAC
(ClusterRole selvedge-key-operator).")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the keys in use and the rotations that run.
    Status(StatusArgs),
    /// Rotate keys without losing a packet.
    Rotate(RotateArgs),
    /// Take a rotation back: peers return to the old key first.
    Abort(AbortArgs),
    /// Continue an operation whose command was interrupted.
    Resume(ResumeArgs),
    /// Make all nodes drop the keys of a node at once.
    Revoke(revoke::RevokeArgs),
    /// Let a node in again whose keys were revoked.
    Readmit(revoke::ReadmitArgs),
    /// Show the keys that are revoked.
    Revocations(revoke::RevocationsArgs),
    /// List every trusted key of the cluster, for an auditor.
    Inventory(inventory::Args),
    /// Find keys that are published twice, too old, or readable by others.
    Check(check::Args),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys status
  selvedge keys status --all
  selvedge keys status --node worker-1 --output json

Exit codes: 0 the answer is there, 1 the API server refused, 2 no cluster is
configured, 4 the agent or the API server does not answer.")]
struct StatusArgs {
    /// Of this Node; may be repeated.
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// Of all nodes.
    #[arg(long, conflicts_with = "node")]
    all: bool,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys rotate --all
  selvedge keys rotate --all --yes --wait --deadline 10m --reason 'laptop stolen'
  selvedge keys rotate --node worker-1 --node worker-2 --yes
  selvedge keys rotate --yes --output json | jq -r .rotation.id

Without --yes it prints what it would do. A new key is made and published; once
every peer with a session has a session on it, it is promoted, and the old key
is wiped when no session needs it any more. No packet is lost. At the deadline
the new key is promoted in any case; the old one then stays for peers that use
it, for 24 hours at most.

Of many nodes, only so many rotate at once that the API server is not asked to
deliver more than about 5,000 Node events a second. The command releases one
node after another, so it runs until the last one has begun. If it is
interrupted, the others wait: `selvedge keys resume ID` continues. After a
rotation that was refused or aborted no further node begins. A node that is
down rotates when it is back.

Exit codes: 0 done, or begun without --wait; 1 a rotation was aborted or refused
or is running already, or an agent has not answered; 2 an option is wrong; 4 the
agent or the API server does not answer.")]
struct RotateArgs {
    /// The keys of this Node; may be repeated.
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// The keys of all nodes.
    #[arg(long, conflicts_with = "node")]
    all: bool,
    /// How many nodes rotate at once; by default as many as the API server can bear.
    #[arg(long, value_name = "COUNT", value_parser = parallel)]
    max_parallel: Option<usize>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// When the new key is promoted although some peers have not confirmed it.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration::parse)]
    deadline: Duration,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// Wait until the old keys are wiped.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Once the new key is in use it is too late; rotate again instead.

Exit codes: 0 it goes back, 1 no such rotation is running, or it is too late,
4 the agent or the API server does not answer.")]
struct AbortArgs {
    /// Name of the rotation or operation, as `selvedge keys status` shows it.
    id: String,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  selvedge keys resume r-1a2b3c4d --wait

Exit codes: as of `selvedge keys rotate`.")]
struct ResumeArgs {
    /// Name of the operation.
    id: String,
    /// How many nodes rotate at once; by default as many as the API server can bear.
    #[arg(long, value_name = "COUNT", value_parser = parallel)]
    max_parallel: Option<usize>,
    /// Wait until the old keys are wiped.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    access: Access,
    /// Form of the answer.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.action {
        Action::Status(args) if is_local(&args.access) && args.node.is_empty() && !args.all => {
            local::status(args)
        }
        Action::Status(args) => super::block_on(fleet::status(args)),
        Action::Rotate(args) if is_local(&args.access) && args.node.is_empty() && !args.all => {
            local::rotate(args)
        }
        Action::Rotate(args) if args.node.is_empty() && !args.all => Err(Failure::new(
            Exit::Usage,
            anyhow::anyhow!(
                "say whose keys to rotate: --node NAME, or --all; without either, ask on the node itself"
            ),
        )),
        Action::Rotate(args) => super::block_on(fleet::rotate(args)),
        Action::Abort(args) if is_local(&args.access) => local::abort(args),
        Action::Abort(args) => super::block_on(fleet::abort(args)),
        Action::Resume(args) => super::block_on(fleet::resume(args)),
        Action::Revoke(args) => super::block_on(revoke::revoke(args)),
        Action::Readmit(args) => super::block_on(revoke::readmit(args)),
        Action::Revocations(args) => super::block_on(revoke::revocations(args)),
        Action::Inventory(args) => inventory::run(args),
        Action::Check(args) => check::run(args),
    }
}

/// Whether to ask the agent of this node: there is one, and no cluster is named.
fn is_local(access: &Access) -> bool {
    access.kubeconfig.is_none() && access.context.is_none() && Paths::from_env().agent_socket().exists()
}

fn parallel(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=10_000).contains(count));
    count.ok_or_else(|| "from 1 to 10000".into())
}

/// The user who runs this command.
fn by() -> String {
    let name = std::env::var("SUDO_USER").or_else(|_| std::env::var("USER"));
    name.unwrap_or_else(|_| format!("uid {}", nix::unistd::getuid()))
}
