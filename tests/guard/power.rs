//! A node loses power and boots; a node gets other addresses.

use std::path::PathBuf;
use std::sync::Arc;

use selvedge::kernel::netns::NetNs;
use selvedge_lab::cni::Container;
use selvedge_lab::isolated;
use selvedge_lab::plan::{Cable, Families, Plan};

use crate::stage::{Pod, Stage};

/// Starts a pod as a runtime does that does not ask whether the network is ready.
fn impatient_pod(stage: &Stage, index: usize) -> Pod {
    let node = stage.node(index);
    let space = node.space();
    let netns = PathBuf::from("/run/netns/impatient");
    let ns = space.run(|| NetNs::create_named(&netns)).unwrap().unwrap();
    let container = Container {
        id: "impatient".into(),
        netns,
        pod: ("default".into(), "impatient".into()),
        port_mappings: vec![],
    };
    let added = node.network().unwrap().add(&space, &container).unwrap();
    stage.lab.capture().given().add(added.addresses.iter().copied());
    Pod { ns: Arc::new(ns), addresses: added.addresses }
}

#[test]
fn a_node_boots() {
    isolated!(|| {
        let stage = Stage::start();
        let far = stage.far.clone();
        stage.scenario("power lost", || {
            stage.hush();
            stage.send_from(
                &stage.near.ns,
                [stage.to_pod(&far), stage.to_node(1), stage.to_nobody()].concat(),
            );
            stage.lab.reboot(1, false).unwrap();
            stage.keeps_sending(60);
            String::new()
        });
        let early = impatient_pod(&stage, 1);
        let all =
            || [stage.to_pod(&stage.near), stage.to_node(0), stage.to_nobody(), stage.to_internet()].concat();
        stage.scenario("booted, a pod before tunnel and agent", || {
            stage.send_from(&early.ns, all());
            // With the guard that ADD has put there, the node itself is kept in too.
            stage.send_from(
                stage.node(1).space().net(),
                [stage.to_pod(&stage.near), stage.to_nobody()].concat(),
            );
            stage.keeps_sending(100);
            String::new()
        });
        stage.scenario("booted, tunnel before agent", || {
            stage.node(1).tunnel.resume();
            stage.keeps_sending(60);
            String::new()
        });
        stage.scenario("booted, all back", || {
            stage.hush();
            stage.send_from(&early.ns, all());
            stage.send_from(
                &stage.near.ns,
                stage
                    .to_pod(&early)
                    .into_iter()
                    .map(|mut target| {
                        // It has no server: what counts is that the packets are sent.
                        target.name = format!("no server, {}", target.name);
                        target
                    })
                    .collect(),
            );
            stage.node(1).resume();
            format!("answers after {:?}", stage.recovers("answers to the pod that was there first"))
        });
        stage.end();
    });
}

#[test]
fn addresses_change() {
    isolated!(|| {
        let stage = Stage::start();
        // The old address is nobody's afterwards, and the new one a node's only once it has said so.
        stage.send(false);
        stage.recovers("answers");
        let plan = Plan::new(Families::Dual, 10);
        for (round, number) in [8, 9].into_iter().enumerate() {
            stage.scenario(&format!("underlay addresses changed, {}", round + 1), || {
                let other = plan.node_plans().remove(number).cable;
                let name = stage.node(1).cable().name;
                stage.lab.renumber(1, &Cable { name, ..other }).unwrap();
                format!("answers after {:?}", stage.recovers("answers by the new addresses"))
            });
        }
        stage.scenario("packets to the new addresses", || {
            let took = stage.await_member(true);
            stage.send(true);
            println!("the new addresses are a node's after {took:?}");
            format!("answers after {:?}", stage.recovers("answers by the new addresses"))
        });
        stage.end();
    });
}
