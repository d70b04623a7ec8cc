//! The CNI plugin: addresses for pods, and their wiring.
//!
//! In the order in which a call passes: [`request`] reads environment and standard input (pure), [`plugin`] picks the
//! verb, [`node`] reads what the agent wrote down about this node, [`gateway`] is the node's end (bridge, sysctls,
//! unreachable routes), [`lease`] gives addresses out, [`wiring`] builds the pod's interface, [`hostport`] opens ports of
//! the node to it, [`admission`] asks the agent whether the pod may start, [`reply`] is what goes to standard output.
//! [`install`] puts plugin and configuration where the container runtime looks; [`conflist`] is what the configuration says.

pub mod admission;
pub mod attachment;
pub mod conflist;
pub mod error;
pub mod file;
pub mod gateway;
pub mod hostport;
pub mod install;
pub mod lease;
pub mod mapping;
pub mod node;
pub mod plugin;
pub mod pool;
pub mod repair;
pub mod reply;
pub mod request;
pub mod spoof;
pub mod wiring;

mod add;
mod check;
mod del;
mod gc;
mod release;
mod vanished;

pub use install::install;
pub use node::NodeInfo;
pub use repair::repair;

/// Names of the nftables tables of pods' ports and of host ports.
pub const TABLES: [&str; 2] = [spoof::TABLE, hostport::TABLE];
