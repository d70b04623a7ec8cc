//! Pods end while they send and are sent to, and others take their place.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use selvedge_lab::isolated;
use selvedge_lab::process::wait_for;
use selvedge_lab::stop::StopOnDrop;

use crate::flow::targets;
use crate::stage::{POD_PORT, SOON, Stage, pod};

const PORT: u16 = 9100;

/// A program on the internet that sends without end to everyone that it has ever heard, as one that got no FIN.
fn chatter(stage: &Stage, stop: &AtomicBool) {
    let open = || UdpSocket::bind(SocketAddr::new([0_u16; 8].into(), PORT));
    let socket = stage.lab.internet().run(open).unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    let (mut heard, mut buffer) = (Vec::new(), [0; 512]);
    while !stop.load(Ordering::Relaxed) {
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            if !heard.contains(&from) && heard.len() < 64 {
                heard.push(from);
            }
        }
        for client in &heard {
            let _ = socket.send_to(&stage.plain.fill(128), client);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the end of a pod adds to the traffic of the other tests: answers of the internet to it, and ICMP errors of the node
/// that quote its address. The guard's rules for what leaves, and for what is quoted, keep both inside.
#[test]
fn pods_end_while_they_send() {
    isolated!(|| {
        let stage = Stage::start();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| chatter(&stage, &stop));
            for round in 1..=3 {
                lifetime(&stage, round);
            }
        });
        stage.end();
    });
}

/// A pod that sends to everything, and is sent to by a pod, a node and the internet, ends in the middle of it. Its
/// namespace outlives it, as that of a container that hangs does.
fn lifetime(stage: &Stage, round: usize) {
    let mayfly = pod(&stage.lab, "mayfly", "node1");
    let internet = targets("internet", &stage.lab.plan().internet().addresses(), PORT, &stage.plain.fill(64));
    let all = [stage.to_pod(&stage.far), stage.to_node(1), stage.to_nobody(), internet].concat();
    stage.send(true);
    stage.send_from(&mayfly.ns, all);
    let to_mayfly = targets("mayfly", &mayfly.addresses, POD_PORT, &stage.secret());
    stage.send_from(&stage.far.ns, to_mayfly.clone());
    stage.send_from(stage.node(1).space().net(), to_mayfly.clone());
    stage.send_from(stage.node(0).space().net(), to_mayfly);
    stage.recovers("answers of and to the pod");
    stage.scenario(&format!("pod deleted while it sends, {round}"), || {
        stage.lab.delete_pod("mayfly").unwrap();
        stage.keeps_sending(60);
        String::new()
    });
    stage.scenario(&format!("another pod in its place, {round}"), || {
        let other = pod(&stage.lab, "mayfly", "node1");
        assert!(
            other.addresses.iter().all(|address| !mayfly.addresses.contains(address)),
            "an address given twice"
        );
        stage.keeps_sending(20);
        stage.lab.delete_pod("mayfly").unwrap();
        String::new()
    });
    wait_for("its end", SOON, || stage.lab.pod(&("default".into(), "mayfly".into())).is_none()).unwrap();
}
