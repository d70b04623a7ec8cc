//! API servers without ServiceCIDRs, and agents that may not read them.

use selvedge_lab::api::{Action, Failure, Fault, Request};
use selvedge_lab::isolated;

use crate::cluster::Cluster;

/// Starts node1's agent as on a new node, under an API server that fails requests for ServiceCIDRs in this way.
fn start_with(cluster: &Cluster, failure: Failure) -> impl Sized + use<> {
    let node = &cluster.lab.nodes()[0];
    node.agent.hold();
    let _ = std::fs::remove_file(node.disk().join("state/service-cidrs.json"));
    let is_asked =
        |request: &Request| request.resource.is_some_and(|resource| resource.plural == "servicecidrs");
    let fault = cluster.lab.api().inject(Fault::new(Action::Fail(failure)).when(is_asked));
    node.agent.resume();
    fault
}

#[test]
fn a_node_is_ready_without_service_cidrs() {
    isolated!(|| {
        let cluster = Cluster::start();
        let absent = Failure::new(404, "NotFound", "the server could not find the requested resource");
        for failure in [absent, Failure::forbidden("servicecidrs.networking.k8s.io is forbidden")] {
            let fault = start_with(&cluster, failure.clone());
            cluster.wait_for("node1 to be ready", |cluster| {
                cluster.status(0).is_some_and(|status| status.ready && status.problems.is_empty())
            });
            assert!(cluster.get("/metrics").contains("selvedge_agent_watch_errors_total 0"), "{failure:?}");
            drop(fault);
        }
        // One that fails otherwise is a problem, and what was in force stays.
        let fault = start_with(&cluster, Failure::internal());
        cluster.wait_for("the problem", |cluster| {
            let problems = cluster.status(0).map(|status| status.problems).unwrap_or_default();
            problems.iter().any(|problem| problem.contains("on all ServiceCIDRs"))
        });
        drop(fault);
        cluster.wait_for("node1 to be ready", |cluster| {
            cluster.status(0).is_some_and(|status| status.ready && status.problems.is_empty())
        });
    });
}
