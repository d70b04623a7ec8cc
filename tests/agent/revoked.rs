//! Who is believed while it is not known which keys are revoked.

use selvedge_lab::api::{Action, Failure, Fault, Request};
use selvedge_lab::isolated;

use crate::cluster::Cluster;

#[test]
fn nobody_is_believed_before_the_revoked_keys_are_known() {
    isolated!(|| {
        let cluster = Cluster::start();
        let node = &cluster.lab.nodes()[0];
        let is_asked =
            |request: &Request| request.resource.is_some_and(|resource| resource.plural == "keyrevocations");
        let fail = |failure| cluster.lab.api().inject(Fault::new(Action::Fail(failure)).when(is_asked));
        let file = node.disk().join("state/revoked.json");
        // As on a new node.
        node.agent.hold();
        std::fs::remove_file(&file).unwrap();
        let broken = fail(Failure::internal());
        node.agent.resume();
        cluster.wait_for("the problem", |cluster| {
            let problems = cluster.status(0).map(|status| status.problems).unwrap_or_default();
            problems.iter().any(|problem| problem.contains("which keys are revoked is not known yet"))
        });
        drop(broken);
        cluster.wait_for("node1 to be ready", |cluster| {
            cluster.status(0).is_some_and(|status| status.ready && status.problems.is_empty())
        });
        assert!(file.exists());
        // A node that knows them does not wait.
        node.agent.hold();
        let broken = fail(Failure::internal());
        node.agent.resume();
        cluster.wait_for("node1 to be ready", |cluster| cluster.status(0).is_some_and(|status| status.ready));
        drop(broken);
        // What cannot be written is in force all the same, and reported.
        node.agent.hold();
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir_all(file.join("in the way")).unwrap();
        node.agent.resume();
        cluster.wait_for("node1 to believe, and to tell", |cluster| {
            let problems = cluster.status(0).map(|status| status.problems).unwrap_or_default();
            cluster.has_peer("node2")
                && problems.iter().any(|problem| problem.contains("cannot write the revoked keys"))
        });
        node.agent.hold();
        std::fs::remove_dir_all(&file).unwrap();
        // An API server without this kind has none of them.
        let absent = fail(Failure::new(404, "NotFound", "the server could not find the requested resource"));
        node.agent.resume();
        cluster.wait_for("node1 to be ready", |cluster| {
            cluster.status(0).is_some_and(|status| status.ready && status.problems.is_empty())
        });
        drop(absent);
    });
}
