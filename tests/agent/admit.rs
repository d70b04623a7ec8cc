//! What holds pods back from a new node goes once the node is ready for them, and nothing else of its Node.

use selvedge::pod::admission::Admitted;
use selvedge_lab::api::resource::NODES;
use selvedge_lab::isolated;
use serde_json::{Value, json};

use crate::cluster::Cluster;

#[test]
fn the_condition_and_the_start_up_taint_go_and_others_stay() {
    isolated!(|| {
        let cluster = Cluster::start();
        let others = json!({"key": "example.com/maintenance", "effect": "NoSchedule", "value": "yes"});
        let taint = json!({"key": "selvedge.dev/not-ready", "effect": "NoSchedule"});
        let condition =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "NoRoute"});
        let patch = json!({
            "spec": {"taints": [others, taint], "unschedulable": true},
            "status": {"conditions": [condition("NetworkUnavailable", "True"), condition("DiskPressure", "False")]},
        });
        cluster.lab.store().patch(&NODES, "", "node1", &patch).unwrap();
        let node = || cluster.lab.store().get(&NODES, "", "node1").unwrap();
        let status = |node: &Value, kind: &str| {
            let conditions = node["status"]["conditions"].as_array().unwrap().clone();
            conditions
                .into_iter()
                .find(|condition| condition["type"] == kind)
                .map(|found| found["status"].clone())
        };
        cluster.wait_for("the taint and the condition to go", |_| {
            let node = node();
            node["spec"]["taints"] == json!([others])
                && status(&node, "NetworkUnavailable") == Some(json!("False"))
        });
        let node = node();
        assert_eq!(status(&node, "DiskPressure"), Some(json!("False")));
        assert_eq!(node["spec"]["unschedulable"], true);
        assert_eq!(node["spec"]["podCIDRs"].as_array().unwrap().len(), 2);
    });
}

/// The plugin takes a missing route for an older agent, and would not notice that it is gone.
#[test]
fn the_agent_admits_pods() {
    isolated!(|| {
        let cluster = Cluster::start();
        assert_eq!(cluster.admit(&[]), Ok(Admitted {}));
    });
}
