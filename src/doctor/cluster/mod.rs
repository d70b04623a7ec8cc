//! The cluster, where its API server can be reached: rights, ranges, the admission policies, Nodes.
//!
//! Asks for what it needs and goes on without what it may not see. Changes nothing.

mod access;
mod admission;
mod gather;
mod nodes;
pub mod ranges;
mod reason;

use std::net::IpAddr;
use std::path::PathBuf;

use kube::ResourceExt as _;

use super::finding::Finding;
use crate::config::Config;
use crate::mesh::node_object;
use gather::Facts;

const CHECK: &str = "cluster";

/// The agent's identity as shipped.
pub const AGENT: &str = "system:serviceaccount:selvedge-system:selvedge-agent";

/// How to reach it, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The kubeconfig; none: `KUBECONFIG` or `~/.kube/config`, else in the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Ask for the rights of this user, by impersonation.
    pub as_agent: Option<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) findings: Vec<Finding>,
    /// Lines for config.toml.
    pub(super) suggestion: Option<String>,
    /// Addresses of this node's Node.
    pub(super) own_addresses: Vec<IpAddr>,
}

pub(super) async fn look(access: &Access, config: Option<&Config>) -> Seen {
    let only = |finding| Seen { findings: vec![finding], ..Seen::default() };
    match gather::gather(access).await {
        Ok(facts) => judge(&facts, config),
        // Whoever names a kubeconfig, or asks for somebody's rights, wants it to work.
        Err(error) if access.kubeconfig.is_some() || access.as_agent.is_some() => {
            only(Finding::problem(CHECK, error, "see the error; --offline leaves the cluster out"))
        }
        Err(error) => only(Finding::skipped(CHECK, error)),
    }
}

fn judge(facts: &Facts, config: Option<&Config>) -> Seen {
    let mut findings = vec![Finding::ok(CHECK, format!("Kubernetes {} at {}", facts.version, facts.server))];
    findings.extend(facts.clock.clone());
    let installed = facts.nodes.as_ref().is_ok_and(|nodes| nodes.iter().any(nodes::is_member));
    findings.push(access::judge(&facts.rights));
    let taint = config.map(|config| config.agent.startup_taint.as_str());
    findings.extend(admission::judge(&facts.policies, taint, installed));
    let nodes = match &facts.nodes {
        Ok(nodes) => {
            findings.push(nodes::judge(nodes));
            findings.extend(config.and_then(|config| nodes::missing(nodes, &config.node_name)));
            nodes.as_slice()
        }
        Err(error) => {
            findings.push(Finding::skipped(nodes::CHECK, error.clone()));
            &[]
        }
    };
    let (ranges, suggestion) = match &facts.ranges {
        Ok(told) => ranges::judge(config, told, nodes),
        Err(error) => (vec![ranges::unasked(error)], None),
    };
    findings.extend(ranges);
    let own = config.and_then(|config| nodes.iter().find(|node| node.name_any() == config.node_name));
    let own_addresses = own.map(|node| node_object::addresses(node, "InternalIP")).unwrap_or_default();
    Seen { findings, suggestion, own_addresses }
}
