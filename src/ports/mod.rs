//! The sockets that Services want on this host: a process of its own holds them, so that they are there while the agent is not.
//!
//! Load balancers ask a node whether it has endpoints of a Service (`healthCheckNodePort`), and whether its proxy is well
//! (port 10256); both as kube-proxy answers. The agent says what there is to hold and to answer, again and again: where it has
//! been silent for [`FRESH`], the answer is 503.
//!
//! It also has the node ports on loopback, which lead to the cluster IPs.
//!
//! In the order in which a wish passes: [`wanted`] comes over the local API of the [`holder`], which opens and closes
//! `listeners`; they [`answer`] from what was wanted last.

pub mod answer;
mod forward;
mod hold;
pub mod holder;
pub mod wanted;

use std::time::Duration;

/// How long what the agent has said is believed.
pub const FRESH: Duration = Duration::from_secs(60);
/// The path of the local API.
pub const ROUTE: &str = "/v1/ports";
