//! The cluster's ranges of pods and Services, found where they are told, against the configured ones.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use super::super::finding::Finding;
use super::nodes;
use crate::cluster::discover::Found;
use crate::config::Config;

const CHECK: &str = "cluster-ranges";

/// Prefixes as texts; what is none is left out.
fn nets<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpNet> {
    texts.into_iter().filter_map(|text| text.trim().parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

/// What the cluster tells of its ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Of pods.
    pub(super) pods: Option<Found>,
    /// Of Services.
    pub(super) services: Option<Found>,
}

/// Findings, and lines for config.toml.
pub(super) fn judge(
    config: Option<&Config>,
    found: &Ranges,
    nodes: &[Node],
) -> (Vec<Finding>, Option<String>) {
    let (pods, services) = (found.pods.as_ref(), found.services.as_ref());
    let of_nodes = of_nodes(nodes);
    let suggestion = suggest(pods, services, &of_nodes);
    let Some(config) = config else {
        return (vec![unconfigured(pods, services)], suggestion);
    };
    let mut findings: Vec<Finding> = [
        pods.and_then(|told| differ("clusterPodCIDRs", &config.cluster_pod_cidrs, told)),
        services.and_then(|told| differ("serviceCIDRs", &config.service_cidrs, told)),
        outside(config, nodes),
    ]
    .into_iter()
    .flatten()
    .collect();
    // Who has them right needs no lines.
    let suggestion = suggestion.filter(|_| !findings.is_empty());
    if findings.is_empty() {
        findings.push(match (pods, services) {
            (Some(_), Some(_)) => Finding::ok(CHECK, "the configured ranges are the cluster's"),
            (Some(_), None) => {
                Finding::ok(CHECK, "clusterPodCIDRs are the cluster's; of Services it tells nothing")
            }
            (None, Some(_)) => {
                Finding::ok(CHECK, "serviceCIDRs are the cluster's, and no pod range of a Node is left out")
            }
            (None, None) if of_nodes.is_empty() => {
                Finding::skipped(CHECK, "the cluster tells its ranges nowhere")
            }
            (None, None) => Finding::ok(
                CHECK,
                "no pod range of a Node is left out; of Services the cluster tells nothing",
            ),
        });
    }
    (findings, suggestion)
}

/// Nobody could ask.
pub(super) fn unasked(error: &str) -> Finding {
    Finding::skipped(CHECK, format!("the cluster could not be asked for its ranges: {error}"))
}

fn unconfigured(pods: Option<&Found>, services: Option<&Found>) -> Finding {
    let sources: BTreeSet<_> = pods.iter().chain(&services).map(|told| told.from.as_str()).collect();
    match sources.is_empty() {
        true => Finding::skipped(CHECK, "the cluster tells its ranges nowhere, and none are configured"),
        false => {
            let sources: Vec<_> = sources.into_iter().collect();
            Finding::ok(CHECK, format!("found in {}; see below for config.toml", sources.join(", ")))
        }
    }
}

/// A range that is not configured is a leak in waiting; one that is too much only takes addresses from the internet.
fn differ(key: &str, configured: &[IpNet], told: &Found) -> Option<Finding> {
    let text = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let Found { cidrs, from } = told;
    let (missing, line) = (told.outside(configured), line(key, cidrs));
    if !missing.is_empty() {
        if from.starts_with("ServiceCIDR ") {
            let seen = format!(
                "{key} lacks {} of {from}: an agent adds that once it has read the object",
                text(&missing)
            );
            return Some(Finding::warning(
                CHECK,
                seen,
                format!("write {line} on every node, so that it is known before"),
            ));
        }
        let seen = format!("{key} lacks {} of {from}: to Selvedge that is the internet", text(&missing));
        return Some(Finding::problem(CHECK, seen, format!("write {line} on every node")));
    }
    let mut more = IpNet::aggregate(&configured.to_vec());
    more.retain(|own| !cidrs.contains(own));
    (!more.is_empty()).then(|| {
        let seen = format!("{key} has {}, and {from} tells {}", text(&more), text(cidrs));
        Finding::warning(CHECK, seen, format!("write {line} unless more is meant to be the cluster's"))
    })
}

fn outside(config: &Config, nodes: &[Node]) -> Option<Finding> {
    let is_inside = |net: IpNet| config.cluster_pod_cidrs.iter().any(|own| own.contains(&net));
    let is_outside = |node: &&Node| {
        let cidrs = nodes::pod_cidrs(node);
        !nets(cidrs.iter().map(String::as_str)).into_iter().all(is_inside)
    };
    let nodes: Vec<&Node> = nodes.iter().filter(is_outside).collect();
    (!nodes.is_empty()).then(|| {
        let seen = format!("pod CIDRs outside of clusterPodCIDRs: Nodes {}", nodes::names(&nodes));
        Finding::problem(CHECK, seen, "correct clusterPodCIDRs: such Nodes are refused")
    })
}

fn of_nodes(nodes: &[Node]) -> BTreeSet<IpNet> {
    let texts: Vec<_> = nodes.iter().flat_map(nodes::pod_cidrs).collect();
    nets(texts.iter().map(String::as_str)).into_iter().collect()
}

fn line(key: &str, nets: &[IpNet]) -> String {
    let quoted: Vec<_> = nets.iter().map(|net| format!("\"{net}\"")).collect();
    format!("{key} = [{}]", quoted.join(", "))
}

/// Ready to be pasted; where nobody tells the range of pods, a comment says what it has to hold.
fn suggest(pods: Option<&Found>, services: Option<&Found>, nodes: &BTreeSet<IpNet>) -> Option<String> {
    /// More are no help.
    const NODES: usize = 8;
    let mut lines = Vec::new();
    match pods {
        Some(told) => lines.push(line("clusterPodCIDRs", &told.cidrs)),
        None if !nodes.is_empty() => {
            let list: Vec<_> = nodes.iter().take(NODES).map(ToString::to_string).collect();
            lines.push(format!(
                "# clusterPodCIDRs is told nowhere; it has to hold the Nodes' {}",
                list.join(", ")
            ));
        }
        None => {}
    }
    lines.extend(services.map(|told| line("serviceCIDRs", &told.cidrs)));
    (!lines.is_empty()).then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Severity;
    use super::super::super::tests::config;
    use super::super::nodes::tests::node;
    use super::*;

    fn told(pods: &[&str], services: &[&str]) -> Ranges {
        let of =
            |texts: &[&str]| Some(Found { cidrs: nets(texts.iter().copied()), from: "its flags".into() });
        Ranges { pods: of(pods), services: of(services) }
    }

    fn severities(found: &Ranges, nodes: &[Node]) -> Vec<Severity> {
        judge(Some(&config("")), found, nodes).0.into_iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn what_is_found_is_ready_to_paste() {
        let found = told(&["10.244.0.0/16"], &["10.96.0.0/12", "fd00::/112"]);
        let (findings, suggestion) = judge(None, &found, &[]);
        assert_eq!(findings[0].severity, Severity::Ok);
        let suggestion = suggestion.unwrap();
        assert_eq!(
            suggestion,
            "clusterPodCIDRs = [\"10.244.0.0/16\"]\nserviceCIDRs = [\"10.96.0.0/12\", \"fd00::/112\"]\n"
        );
        Config::parse(std::path::Path::new("x"), &suggestion, &crate::config::Overrides::default()).unwrap();
        let (_, suggestion) = judge(None, &Ranges::default(), &[node("a", &["10.1.0.0/24"])]);
        assert!(suggestion.unwrap().contains("the Nodes' 10.1.0.0/24"));
    }

    #[test]
    fn configured_and_found_are_compared() {
        let right = told(&["10.244.0.0/16"], &["10.96.0.0/12"]);
        let (findings, suggestion) = judge(Some(&config("")), &right, &[]);
        assert_eq!((findings[0].severity, suggestion), (Severity::Ok, None));
        assert_eq!(severities(&Ranges::default(), &[]), [Severity::Skipped]);
        let wrong = told(&["10.245.0.0/16"], &["10.96.0.0/16"]);
        assert_eq!(severities(&wrong, &[]), [Severity::Problem, Severity::Warning]);
        let (findings, _) = judge(Some(&config("")), &wrong, &[]);
        assert_eq!(
            findings[0].remedy.as_deref(),
            Some("write clusterPodCIDRs = [\"10.245.0.0/16\"] on every node")
        );
        let services =
            Found { cidrs: nets(["10.96.0.0/12", "10.3.0.0/24"]), from: "ServiceCIDR a, b".into() };
        let found = Ranges { services: Some(services), ..right };
        assert_eq!(severities(&found, &[]), [Severity::Warning]);
        assert_eq!(severities(&Ranges::default(), &[node("a", &["10.244.1.0/24"])]), [Severity::Ok]);
        assert_eq!(severities(&Ranges::default(), &[node("b", &["10.250.1.0/24"])]), [Severity::Problem]);
    }
}
