//! The cluster, where its API server can be reached: rights, ranges, the admission policy, Nodes.
//!
//! Asks for what it needs and goes on without what it may not see. Changes nothing.

mod access;
mod admission;
mod gather;
mod nodes;
pub mod ranges;

use std::path::PathBuf;

use super::finding::Finding;
use crate::config::Config;
use gather::Facts;

const CHECK: &str = "cluster";

/// The agent's identity as shipped.
pub const AGENT: &str = "system:serviceaccount:selvedge-system:selvedge-agent";

/// How to reach it, and as whom.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The kubeconfig; none: in-cluster, `KUBECONFIG` or `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Ask for the rights of this user, by impersonation.
    pub as_agent: Option<String>,
}

/// What was found, and lines for config.toml.
pub(super) async fn look(access: &Access, config: Option<&Config>) -> (Vec<Finding>, Option<String>) {
    match gather::gather(access).await {
        Ok(facts) => judge(&facts, config),
        // Whoever names a kubeconfig wants it to work.
        Err(error) if access.kubeconfig.is_some() => {
            (vec![Finding::problem(CHECK, error, "see the error; --offline leaves the cluster out")], None)
        }
        Err(error) => (vec![Finding::skipped(CHECK, error)], None),
    }
}

fn judge(facts: &Facts, config: Option<&Config>) -> (Vec<Finding>, Option<String>) {
    let mut findings = vec![Finding::ok(CHECK, format!("Kubernetes {} at {}", facts.version, facts.server))];
    findings.extend(facts.clock.clone());
    let installed = facts.nodes.as_ref().is_ok_and(|nodes| nodes.iter().any(nodes::is_member));
    findings.push(access::judge(&facts.rights));
    findings.push(admission::judge(&facts.policy, &facts.binding, installed));
    let nodes = match &facts.nodes {
        Ok(nodes) => {
            findings.push(nodes::judge(nodes));
            nodes.as_slice()
        }
        Err(error) => {
            findings.push(Finding::skipped(nodes::CHECK, error.clone()));
            &[]
        }
    };
    let (ranges, suggestion) = ranges::judge(config, &facts.ranges, nodes);
    findings.extend(ranges);
    (findings, suggestion)
}
